package config

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"time"
)

const maxElectionTimeout = 50 * time.Second

// Validate reports every setting that cannot be served, each message naming its flag. Call Complete first.
func (c *Config) Validate() error {
	return errors.Join(c.checkRaft(), c.checkURLs(), c.checkSecurity(), c.checkCluster(), c.checkDiscovery(), c.Tracing.check(), c.checkLimits(), c.checkUpkeep(), c.Log.validate())
}

func (c *Config) checkRaft() error {
	switch beat, election := c.HeartbeatInterval, c.ElectionTimeout; {
	case beat <= 0:
		return fmt.Errorf("--heartbeat-interval must be >0 (set to %dms)", beat.Milliseconds())
	case election <= 0:
		return fmt.Errorf("--election-timeout must be >0 (set to %dms)", election.Milliseconds())
	case 5*beat > election:
		return fmt.Errorf("--election-timeout[%dms] should be at least as 5 times as --heartbeat-interval[%dms]", election.Milliseconds(), beat.Milliseconds())
	case election > maxElectionTimeout:
		return fmt.Errorf("--election-timeout[%dms] is too long, and should be set less than %dms", election.Milliseconds(), maxElectionTimeout.Milliseconds())
	}
	return nil
}

func (c *Config) checkURLs() error {
	var errs []error
	for _, l := range []struct {
		flag     string
		urls     []url.URL
		bind     bool
		optional bool
	}{
		{flag: "listen-peer-urls", urls: c.ListenPeerURLs, bind: true},
		{flag: "listen-client-urls", urls: c.ListenClientURLs, bind: true},
		{flag: "listen-client-http-urls", urls: c.ListenClientHTTPURLs, bind: true, optional: true},
		{flag: "listen-metrics-urls", urls: c.ListenMetricsURLs, bind: true, optional: true},
		{flag: "initial-advertise-peer-urls", urls: c.AdvertisePeerURLs},
		{flag: "advertise-client-urls", urls: c.AdvertiseClientURLs},
	} {
		if len(l.urls) == 0 && !l.optional {
			errs = append(errs, fmt.Errorf("--%s must not be empty", l.flag))
		}
		for i := range l.urls {
			if err := checkURL(&l.urls[i], l.bind); err != nil {
				errs = append(errs, fmt.Errorf("--%s: %w", l.flag, err))
			}
		}
	}
	return errors.Join(errs...)
}

func checkURL(u *url.URL, bind bool) error {
	if !bind || u.Scheme == "unix" || u.Scheme == "unixs" {
		return nil
	}
	host, _, err := net.SplitHostPort(u.Host)
	if err != nil {
		return err
	}
	if host != "" && host != "localhost" && net.ParseIP(host) == nil {
		return fmt.Errorf("expected IP in URL for binding (%s)", u)
	}
	return nil
}

func (c *Config) checkCluster() error {
	if c.InitialClusterState != ClusterNew && c.InitialClusterState != ClusterExisting {
		return fmt.Errorf("--initial-cluster-state %q must be new or existing", c.InitialClusterState)
	}
	if c.MaxLearners < 0 {
		return fmt.Errorf("--max-learners must not be negative (set to %d)", c.MaxLearners)
	}
	if c.Gates.LeaseCheckpointPersist && !c.Gates.LeaseCheckpoint {
		return errors.New("--feature-gates: enabling feature gate LeaseCheckpointPersist requires enabling feature gate LeaseCheckpoint")
	}
	return nil
}

func (c *Config) checkLimits() error {
	switch {
	case c.CompactHashCheckTime <= 0:
		return fmt.Errorf("--compact-hash-check-time must be >0 (set to %s)", c.CompactHashCheckTime)
	case c.DowngradeCheckTime < 0:
		return fmt.Errorf("--downgrade-check-time must not be negative (set to %s)", c.DowngradeCheckTime)
	case c.CorruptCheckTime < 0:
		return fmt.Errorf("--corrupt-check-time must not be negative (set to %s)", c.CorruptCheckTime)
	}
	for _, limit := range []struct {
		flag string
		bad  bool
	}{
		{"max-txn-ops", c.MaxTxnOps == 0},
		{"max-request-bytes", c.MaxRequestBytes == 0},
		{"max-concurrent-streams", c.MaxConcurrentStreams == 0},
		{"backend-batch-interval", c.BackendBatchInterval < 0},
		{"backend-batch-limit", c.BackendBatchLimit < 0},
		{"compaction-batch-limit", c.CompactionBatchLimit < 0},
		{"compaction-sleep-interval", c.CompactionSleepInterval < 0},
		{"grpc-keepalive-min-time", c.GRPCKeepAliveMinTime < 0},
		{"grpc-keepalive-interval", c.GRPCKeepAliveInterval < 0},
		{"grpc-keepalive-timeout", c.GRPCKeepAliveTimeout < 0},
	} {
		if limit.bad {
			return fmt.Errorf("--%s must be positive", limit.flag)
		}
	}
	return nil
}

// CheckBootstrap reports whether --initial-cluster can found or join a cluster. It matters only to a member that has
// no data yet: a member with data knows its cluster.
func (c *Config) CheckBootstrap() error {
	at := slices.IndexFunc(c.InitialCluster, func(m Member) bool { return m.Name == c.Name })
	if at < 0 {
		return fmt.Errorf("--initial-cluster %q does not contain --name %q", FormatInitialCluster(c.InitialCluster), c.Name)
	}
	advertised := urlStrings(c.AdvertisePeerURLs)
	slices.Sort(advertised)
	if advertised = slices.Compact(advertised); !sameAddresses(advertised, c.InitialCluster[at].PeerURLs) {
		return fmt.Errorf("--initial-cluster has %s but --initial-advertise-peer-urls has %v",
			FormatInitialCluster(c.InitialCluster[at:at+1]), advertised)
	}
	return nil
}

// sameAddresses compares two sorted lists of URLs, by their text and then by what their hosts resolve to: one may say
// localhost and the other 127.0.0.1.
func sameAddresses(a, b []string) bool {
	return slices.Equal(a, b) || slices.Equal(resolved(a), resolved(b))
}

// resolved replaces host names by their first address, and sorts.
func resolved(urls []string) []string {
	out := slices.Clone(urls)
	for i, text := range urls {
		u, err := url.Parse(text)
		if err != nil || u.Hostname() == "" {
			continue
		}
		if found, err := net.LookupHost(u.Hostname()); err == nil && len(found) > 0 {
			slices.Sort(found)
			u.Host = net.JoinHostPort(found[0], u.Port())
			out[i] = u.String()
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}
