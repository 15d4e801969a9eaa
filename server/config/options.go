package config

import (
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// section is a heading of the usage text.
type section string

const (
	memberSection    section = "Member"
	clusterSection   section = "Clustering"
	upkeepSection    section = "Maintenance"
	authSection      section = "Authentication"
	limitSection     section = "Limits"
	tuningSection    section = "Tuning"
	loggingSection   section = "Logging"
	httpSection      section = "HTTP"
	observingSection section = "Observing"
	unsafeSection    section = "Unsafe"
	acceptedSection  section = "Accepted for compatibility, without effect"
)

// option is one setting: a flag, an environment variable and a key of the config file, all of one name.
// It implements flag.Value.
type option struct {
	name    string
	section section
	usage   string
	preset  string // default as shown in the usage text
	set     func(text string) error

	boolean bool // may be given without a value
	nanos   bool // an integer in the config file is nanoseconds
	own     bool // not etcd's: UPKEEP_ in the environment
	hidden  bool // not in the usage text, not in the environment
	given   bool // was set by flag, environment or file
}

func (o *option) String() string   { return o.preset }
func (o *option) IsBoolFlag() bool { return o.boolean }
func (o *option) Set(text string) error {
	o.given = true
	return o.set(text)
}

// env is the environment variable of the option.
func (o *option) env() string {
	prefix, name := "ETCD_", o.name
	if o.own {
		prefix, name = "UPKEEP_", strings.TrimPrefix(o.name, "upkeep-")
	}
	return prefix + strings.ToUpper(strings.ReplaceAll(name, "-", "_"))
}

// raw holds settings that can be understood only together, until finish.
type raw struct {
	configFile     string
	version        bool
	compactionMode string
	retention      string
	gates          string
	rotation       string
	cipherSuites   []string
	tlsMinVersion  string
	tlsMaxVersion  string
}

// optionTable lists every option there is, in the order of the usage text.
func optionTable(c *Config, r *raw) []*option {
	return slices.Concat(
		memberOptions(c, r), clusterOptions(c, r), discoveryOptions(c), securityOptions(c, r), authOptions(c), maintenanceOptions(c, r),
		scheduleOptions(c), limitOptions(c),
		tuningOptions(c, r), httpOptions(c), observingOptions(c, r), tracingOptions(&c.Tracing), compatibilityOptions(c), legacyOptions(),
	)
}

func memberOptions(c *Config, r *raw) []*option {
	return []*option{
		text("name", memberSection, DefaultName, "Human-readable name of this member.", &c.Name),
		text("data-dir", memberSection, "${name}.etcd", "Path to the data directory.", &c.DataDir),
		text("wal-dir", memberSection, "", "Path to a write-ahead log directory of its own.", &c.WALDir),
		urls("listen-peer-urls", memberSection, DefaultListenPeerURL, "URLs to listen on for other members.", &c.ListenPeerURLs),
		urls("listen-client-urls", memberSection, DefaultListenClientURL,
			"URLs to listen on for clients: gRPC, and HTTP unless --listen-client-http-urls is set.", &c.ListenClientURLs),
		urls("listen-client-http-urls", memberSection, "", "URLs to listen on for HTTP clients; --listen-client-urls then serves gRPC only.", &c.ListenClientHTTPURLs),
		urls("listen-metrics-urls", memberSection, "", "Further URLs to serve /metrics, /health, /livez and /readyz on.", &c.ListenMetricsURLs),
		truth("socket-reuse-port", memberSection, false, "Set SO_REUSEPORT on listeners, so that a port in use can be bound again.", &c.SocketReusePort),
		truth("socket-reuse-address", memberSection, false, "Set SO_REUSEADDR on listeners, so that an address in TIME_WAIT can be bound.", &c.SocketReuseAddress),
		text("config-file", memberSection, "", "Path to a YAML or JSON file with these settings. Flags and environment are ignored then. Durations are integers, in nanoseconds.", &r.configFile),
		truth("version", memberSection, false, "Print the version and exit.", &r.version),
	}
}

func clusterOptions(c *Config, r *raw) []*option {
	return []*option{
		urls("initial-advertise-peer-urls", clusterSection, DefaultListenPeerURL, "This member's peer URLs to advertise to the rest of the cluster.", &c.AdvertisePeerURLs),
		urls("advertise-client-urls", clusterSection, DefaultListenClientURL, "This member's client URLs to advertise.", &c.AdvertiseClientURLs),
		{name: "initial-cluster", section: clusterSection, preset: "default=" + DefaultListenPeerURL,
			usage: "Members to found the cluster with: name=peerURL,... Ignored once the member has data.",
			set: func(text string) (err error) {
				c.InitialCluster = nil
				if text != "" {
					c.InitialCluster, err = ParseInitialCluster(text)
				}
				return err
			}},
		choice("initial-cluster-state", clusterSection, "'new' to found a cluster, 'existing' to join one.", &c.InitialClusterState, ClusterNew, ClusterExisting),
		text("initial-cluster-token", clusterSection, DefaultInitialClusterToken, "Token that keeps clusters with the same addresses apart.", &c.InitialClusterToken),
		truth("strict-reconfig-check", clusterSection, true, "Refuse membership changes that would lose the quorum.", &c.StrictReconfigCheck),
		whole("max-learners", clusterSection, "1", "Largest number of learners in the cluster.", &c.MaxLearners),
		truth("pre-vote", clusterSection, true, "Let a member that was cut off ask before it disturbs the cluster with an election.", &c.PreVote),
		text("feature-gates", clusterSection, "", "Comma-separated Name=true|false pairs: InitialCorruptCheck, CompactHashCheck, LeaseCheckpoint, LeaseCheckpointPersist, SetMemberLocalAddr, StopGRPCServiceOnDefrag, AllAlpha, AllBeta. FastLeaseKeepAlive, PriorityRequest and TxnModeWriteWithSharedBuffer are accepted and change nothing.", &r.gates),
	}
}

func maintenanceOptions(c *Config, r *raw) []*option {
	return []*option{
		whole("quota-backend-bytes", upkeepSection, "0", "Largest size of the database before the NOSPACE alarm is raised. 0 means 2 GiB, a negative number no limit.", &c.QuotaBackendBytes),
		text("auto-compaction-mode", upkeepSection, CompactPeriodic, "How to read --auto-compaction-retention: 'periodic' or 'revision'.", &r.compactionMode),
		text("auto-compaction-retention", upkeepSection, "0", "History to keep: hours or a duration like 30m (periodic), or a number of revisions. 0 compacts nothing.", &r.retention),
		whole("compaction-batch-limit", upkeepSection, "0", "Revisions that one piece of a compaction looks at. 0: as many as requests do not notice.", &c.CompactionBatchLimit),
		span("compaction-sleep-interval", upkeepSection, 0, "Pause between two pieces of a compaction. 0: for as long as requests need.", &c.CompactionSleepInterval),
		span("corrupt-check-time", upkeepSection, 0, "Time between comparisons of all members' histories by the leader, 0 never.", &c.CorruptCheckTime),
		span("compact-hash-check-time", upkeepSection, DefaultCompactHashCheckTime, "Time between comparisons of the hashes that compactions make. Needs the gate CompactHashCheck.", &c.CompactHashCheckTime),
		span("downgrade-check-time", upkeepSection, DefaultDowngradeCheckTime, "Time between two looks at whether a member is ready for a downgrade, which it then logs; 0 never.", &c.DowngradeCheckTime),
		whole("bootstrap-defrag-threshold-megabytes", upkeepSection, "0", "Defragment before serving if that frees at least so many MiB. 0 never does.", &c.BootstrapDefragThresholdMBytes),
		whole("snapshot-count", upkeepSection, strconv.Itoa(DefaultSnapshotCount), "Applied log entries between two raft snapshots.", &c.SnapshotCount),
		whole("snapshot-catchup-entries", upkeepSection, strconv.Itoa(DefaultSnapshotCatchUpEntries), "Log entries kept for slow followers.", &c.SnapshotCatchUpEntries),
		whole("max-snapshots", upkeepSection, "5", "Raft snapshot files to keep, 0 for all.", &c.MaxSnapshots),
		whole("max-wals", upkeepSection, "5", "Log files to keep, 0 for all.", &c.MaxWALs),
	}
}

func authOptions(c *Config) []*option {
	return []*option{
		text("auth-token", authSection, DefaultAuthToken,
			"Kind of tokens: 'simple', or 'jwt,sign-method=M,priv-key=F,pub-key=F,ttl=5m' with M one of RS256 to ES512, PS256 to PS512, HS256 to HS512, EdDSA.", &c.AuthToken),
		whole("auth-token-ttl", authSection, strconv.Itoa(DefaultAuthTokenTTLSeconds), "Seconds that a simple token lives after its last use.", &c.AuthTokenTTLSeconds),
		whole("bcrypt-cost", authSection, strconv.Itoa(DefaultBcryptCost), "Cost of hashing a password, 4 to 31; another value means the default.", &c.BcryptCost),
	}
}

func limitOptions(c *Config) []*option {
	return []*option{
		whole("max-txn-ops", limitSection, strconv.Itoa(DefaultMaxTxnOps), "Largest number of operations in a transaction.", &c.MaxTxnOps),
		whole("max-request-bytes", limitSection, strconv.Itoa(DefaultMaxRequestBytes), "Largest request the server accepts.", &c.MaxRequestBytes),
		whole("max-concurrent-streams", limitSection, "4294967295", "Streams that one connection may have open.", &c.MaxConcurrentStreams),
		span("grpc-keepalive-min-time", limitSection, 5*time.Second, "Clients that ping more often are disconnected.", &c.GRPCKeepAliveMinTime),
		span("grpc-keepalive-interval", limitSection, 2*time.Hour, "Idle time after which the server pings a client, 0 never.", &c.GRPCKeepAliveInterval),
		span("grpc-keepalive-timeout", limitSection, 20*time.Second, "How long the answer may take before the connection is closed, 0 any time.", &c.GRPCKeepAliveTimeout),
	}
}

func tuningOptions(c *Config, r *raw) []*option {
	own := truth("coalesce-proposals", tuningSection, true, "Let requests that wait together share one log entry. Off, etcd's tools can read every entry.", &c.CoalesceProposals)
	own.own = true
	return []*option{
		milliseconds("heartbeat-interval", DefaultHeartbeatInterval, "Milliseconds between heartbeats of the leader.", &c.HeartbeatInterval),
		milliseconds("election-timeout", DefaultElectionTimeout, "Milliseconds without a heartbeat until an election. At least five heartbeats.", &c.ElectionTimeout),
		truth("initial-election-tick-advance", tuningSection, true, "Shorten the wait for the first election after a start.", &c.InitialElectionTickAdvance),
		own,
		span("backend-batch-interval", tuningSection, DefaultBackendBatchInterval, "Longest time between two commits of the database.", &c.BackendBatchInterval),
		whole("backend-batch-limit", tuningSection, strconv.Itoa(DefaultBackendBatchLimit), "Operations after which the database commits.", &c.BackendBatchLimit),
		{name: "backend-bbolt-freelist-type", section: tuningSection, preset: "map", usage: "Type of the database's list of free pages: 'map' or 'array'.",
			set: func(text string) error { c.BackendFreelistArray = text == "array"; return nil }},
		truth("memory-mlock", tuningSection, false, "Keep the database's pages in memory.", &c.MemoryMlock),
		span("watch-progress-notify-interval", tuningSection, DefaultWatchProgressInterval, "Time between progress notifications of idle watches, at least 100ms.", &c.WatchProgressNotifyInterval),
		truth("force-new-cluster", unsafeSection, false, "Make the data of a stopped member that of a cluster of one, whatever became of the others. For one start only, and never while another member lives.", &c.ForceNewCluster),
		truth("unsafe-no-fsync", unsafeSection, false, "Do not wait for the disk. A power cut loses acknowledged data.", &c.UnsafeNoFsync),
	}
}

func httpOptions(c *Config) []*option {
	return []*option{
		truth("enable-grpc-gateway", httpSection, true, "Serve the API as JSON over HTTP, under /v3/ on the client URL.", &c.EnableGRPCGateway),
		{name: "cors", section: httpSection, preset: "*", usage: "Comma-separated origins (http://host:port) whose web pages may call, or '*' for all.",
			set: func(text string) error {
				c.CORSOrigins = nil
				if text == "*" {
					return nil
				}
				origins, err := ParseURLs(text)
				c.CORSOrigins = urlStrings(origins)
				return err
			}},
		{name: "host-whitelist", section: httpSection, preset: "*", usage: "Comma-separated host names that HTTP requests without TLS may be addressed to, or '*' for any.",
			set: func(text string) error {
				c.HostWhitelist = strings.Split(text, ",")
				if text == "" || slices.Contains(c.HostWhitelist, "*") {
					c.HostWhitelist = nil
				}
				return nil
			}},
	}
}

func observingOptions(c *Config, r *raw) []*option {
	return []*option{
		{name: "logger", section: loggingSection, preset: "zap", usage: "Kind of logger; there is only 'zap'.",
			set: func(text string) error {
				if text != "zap" {
					return fmt.Errorf("unknown logger, supported value zap")
				}
				return nil
			}},
		{name: "log-outputs", section: loggingSection, preset: "default", usage: "Comma-separated: 'default' (stderr), 'stderr', 'stdout', 'systemd/journal' or file paths.",
			set: func(text string) error {
				c.Log.Outputs = strings.Split(text, ",")
				slices.Sort(c.Log.Outputs)
				c.Log.Outputs = slices.Compact(c.Log.Outputs)
				return nil
			}},
		text("log-level", loggingSection, "info", "debug, info, warn, error, dpanic, panic or fatal.", &c.Log.Level),
		text("log-format", loggingSection, "json", "json or console.", &c.Log.Format),
		truth("enable-log-rotation", loggingSection, false, "Rotate the one file of --log-outputs.", &c.Log.Rotate),
		text("log-rotation-config-json", loggingSection, `{"maxsize": 100, "maxage": 0, "maxbackups": 0, "localtime": false, "compress": false}`,
			"How to rotate: maxsize in MiB, maxage in days.", &r.rotation),
		truth("enable-pprof", observingSection, false, "Serve profiles under /debug/pprof/ on the client URL.", &c.EnablePprof),
		{name: "metrics", section: observingSection, preset: "basic", usage: "'basic', or 'extensive' for latency histograms of every gRPC method.",
			set: func(text string) error { c.ExtensiveMetrics = text == "extensive"; return nil }},
		span("warning-apply-duration", observingSection, 100*time.Millisecond, "Requests that take longer to apply are logged.", &c.WarningApplyDuration),
		span("warning-unary-request-duration", observingSection, 300*time.Millisecond, "Requests that take longer as a whole are logged.", &c.WarningUnaryRequestDuration),
	}
}

// compatibilityOptions are etcd's options for machinery that does not exist here, whatever their value.
func compatibilityOptions(c *Config) []*option {
	accept := func(name, preset, reason string) *option {
		o := &option{name: name, section: acceptedSection, preset: preset, usage: strings.ToUpper(reason[:1]) + reason[1:] + "."}
		o.set = func(value string) error {
			c.Warnings = append(c.Warnings, warn("flag has no effect", "flag", "--"+name, "value", value, "reason", reason))
			return nil
		}
		return o
	}
	deprecation := accept("v2-deprecation", "write-only", "there is no v2 store")
	deprecation.set = only(deprecation.set, "not-yet", "write-only", "write-only-skip-check", "write-only-drop-data", "gone")
	timeout := func(name string) *option {
		o := accept(name, "5s", "members talk over gRPC streams, which have keep-alives instead")
		warning := o.set
		o.nanos = true
		var ignored time.Duration
		o.set = func(text string) error {
			if err := span(name, acceptedSection, 0, "", &ignored).set(text); err != nil {
				return err
			}
			return warning(text)
		}
		return o
	}
	return []*option{
		timeout("raft-read-timeout"), timeout("raft-write-timeout"),
		deprecation,
	}
}

// only refuses other values than those.
func only(set func(string) error, values ...string) func(string) error {
	return func(text string) error {
		if !slices.Contains(values, text) {
			return fmt.Errorf("expected one of %v", values)
		}
		return set(text)
	}
}

// legacyOptions are names from the first versions of etcd that it still swallows.
func legacyOptions() []*option {
	var options []*option
	for _, name := range []string{"cluster-active-size", "cluster-remove-delay", "cluster-sync-interval", "config", "force", "max-result-buffer",
		"max-retry-attempts", "peer-heartbeat-interval", "peer-election-timeout", "retry-interval", "snapshot", "v", "vv"} {
		options = append(options, &option{name: name, hidden: true, boolean: true, set: func(string) error { return nil }})
	}
	return options
}

// --- kinds of options ---

func text(name string, in section, preset, usage string, field *string) *option {
	return &option{name: name, section: in, preset: preset, usage: usage, set: func(text string) error { *field = text; return nil }}
}

func truth(name string, in section, preset bool, usage string, field *bool) *option {
	return &option{name: name, section: in, preset: strconv.FormatBool(preset), usage: usage, boolean: true, set: func(text string) error {
		on, err := strconv.ParseBool(text)
		if err != nil {
			return fmt.Errorf("expected true or false")
		}
		*field = on
		return nil
	}}
}

func choice[T ~string](name string, in section, usage string, field *T, values ...T) *option {
	return &option{name: name, section: in, preset: string(values[0]), usage: usage, set: func(text string) error {
		if !slices.Contains(values, T(text)) {
			return fmt.Errorf("expected one of %v", values)
		}
		*field = T(text)
		return nil
	}}
}

func whole[T ~int | ~int64 | ~uint | ~uint32 | ~uint64](name string, in section, preset, usage string, field *T) *option {
	return &option{name: name, section: in, preset: preset, usage: usage, set: func(text string) error {
		var n T
		if err := json.Unmarshal([]byte(text), &n); err != nil {
			return fmt.Errorf("expected a whole number that fits a %T", n)
		}
		*field = n
		return nil
	}}
}

func span(name string, in section, preset time.Duration, usage string, field *time.Duration) *option {
	return &option{name: name, section: in, preset: shortDuration(preset), usage: usage, nanos: true, set: func(text string) error {
		d, err := time.ParseDuration(text)
		if err != nil {
			return fmt.Errorf("expected a duration like 100ms or 2h")
		}
		*field = d
		return nil
	}}
}

func milliseconds(name string, preset time.Duration, usage string, field *time.Duration) *option {
	return &option{name: name, section: tuningSection, preset: strconv.FormatInt(preset.Milliseconds(), 10), usage: usage, set: func(text string) error {
		n, err := strconv.ParseUint(text, 10, 31)
		if err != nil {
			return fmt.Errorf("expected a whole number of milliseconds")
		}
		*field = time.Duration(n) * time.Millisecond
		return nil
	}}
}

func urls(name string, in section, preset, usage string, field *[]url.URL) *option {
	return &option{name: name, section: in, preset: preset, usage: usage, set: func(text string) (err error) {
		*field = nil
		if text != "" {
			*field, err = ParseURLs(text)
		}
		return err
	}}
}

// shortDuration writes 2h, not 2h0m0s.
func shortDuration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}
