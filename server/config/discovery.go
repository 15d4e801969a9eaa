package config

import (
	"errors"
	"fmt"
	"net"
	"strings"
	"time"
)

const discoverySection section = "Discovery"

// Discovery is how a member without data learns who founds the cluster with it: from another cluster's keys (Token and
// Endpoints), from SRV records of a domain (SRV), or not at all.
type Discovery struct {
	Token     string
	Endpoints []string

	DialTimeout      time.Duration
	RequestTimeout   time.Duration
	KeepAliveTime    time.Duration
	KeepAliveTimeout time.Duration

	InsecureTransport  bool // no TLS, whatever the scheme of the endpoints
	InsecureSkipVerify bool
	CertFile, KeyFile  string
	TrustedCAFile      string
	User, Password     string

	SRV     string // domain
	SRVName string // suffix of the service's name
}

// ByToken tells whether another cluster is asked, ByDNS whether the domain name system is.
func (d *Discovery) ByToken() bool { return d.Token != "" || len(d.Endpoints) > 0 }
func (d *Discovery) ByDNS() bool   { return d.SRV != "" }

// Wanted tells whether the founders are to be found out.
func (d *Discovery) Wanted() bool { return d.ByToken() || d.ByDNS() }

func defaultDiscovery() Discovery {
	return Discovery{
		DialTimeout: 2 * time.Second, RequestTimeout: 5 * time.Second,
		KeepAliveTime: 2 * time.Second, KeepAliveTimeout: 6 * time.Second, InsecureTransport: true,
	}
}

func discoveryOptions(c *Config) []*option {
	d, preset := &c.Discovery, defaultDiscovery()
	return []*option{
		text("discovery-token", discoverySection, "", "Name of this cluster's keys at the discovery service, another cluster.", &d.Token),
		list("discovery-endpoints", discoverySection, "Comma-separated client URLs of the discovery service.", &d.Endpoints),
		span("discovery-dial-timeout", discoverySection, preset.DialTimeout, "How long a connection to the discovery service may take.", &d.DialTimeout),
		span("discovery-request-timeout", discoverySection, preset.RequestTimeout, "How long a request to the discovery service may take.", &d.RequestTimeout),
		span("discovery-keepalive-time", discoverySection, preset.KeepAliveTime, "Idle time after which the discovery service is pinged.", &d.KeepAliveTime),
		span("discovery-keepalive-timeout", discoverySection, preset.KeepAliveTimeout, "How long the answer to a ping may take.", &d.KeepAliveTimeout),
		truth("discovery-insecure-transport", discoverySection, preset.InsecureTransport, "Talk to the discovery service without TLS. TLS needs 'false'.", &d.InsecureTransport),
		truth("discovery-insecure-skip-tls-verify", discoverySection, false, "Do not verify the discovery service's certificate. For tests only.", &d.InsecureSkipVerify),
		text("discovery-cert", discoverySection, "", "Certificate shown to the discovery service, PEM.", &d.CertFile),
		text("discovery-key", discoverySection, "", "Key of --discovery-cert, PEM.", &d.KeyFile),
		text("discovery-cacert", discoverySection, "", "Authorities that the discovery service is verified with, PEM.", &d.TrustedCAFile),
		text("discovery-user", discoverySection, "", "User at the discovery service: name, or name:password.", &d.User),
		text("discovery-password", discoverySection, "", "Password of --discovery-user.", &d.Password),
		text("discovery-srv", discoverySection, "", "Domain whose SRV records _etcd-server-ssl._tcp and _etcd-server._tcp name the founders.", &d.SRV),
		text("discovery-srv-name", discoverySection, "", "Suffix of the service in these records: _etcd-server-ssl-SUFFIX._tcp.", &d.SRVName),
		{name: "discovery-fallback", section: discoverySection, preset: "exit", usage: "What to do when discovery fails; there is only 'exit'.",
			set: func(text string) error {
				switch text {
				case "exit":
					c.fallbackProxy = false
				case "proxy":
					c.fallbackProxy = true // refused by Validate, as with etcd
				default:
					return errors.New("expected exit")
				}
				return nil
			}},
		gone("discovery", "there is no v2 discovery; use --discovery-token and --discovery-endpoints"),
		gone("discovery-proxy", "there is no v2 discovery, which went through a proxy"),
	}
}

// gone is an option of etcd's that it still lists in its help and refuses. It is refused with a reason.
func gone(name, reason string) *option {
	return &option{name: name, hidden: true, set: func(string) error { return errors.New(reason) }}
}

// flattenDiscovery replaces the section discovery-config by the flags it stands for. etcd nests the connection's
// settings once more, below `client`, and there `secure` and `auth`.
func flattenDiscovery(keys map[string]any) error {
	value, ok := keys["discovery-config"]
	if !ok {
		return nil
	}
	delete(keys, "discovery-config")
	return flattenDiscoveryMap(keys, value)
}

func flattenDiscoveryMap(keys map[string]any, value any) error {
	settings, ok := value.(map[string]any)
	if !ok && value != nil {
		return errors.New("discovery-config: expected settings such as token below it")
	}
	for name, value := range settings {
		switch name {
		case "client", "secure", "auth":
			if err := flattenDiscoveryMap(keys, value); err != nil {
				return err
			}
		case "username":
			keys["discovery-user"] = value
		default:
			keys["discovery-"+name] = value
		}
	}
	return nil
}

func (c *Config) checkDiscovery() error {
	d := &c.Discovery
	if c.fallbackProxy {
		return errors.New("--discovery-fallback: there is no v2 proxy: expected \"exit\"")
	}
	if d.Wanted() && len(c.InitialCluster) > 0 || d.ByToken() && d.ByDNS() {
		return errors.New("multiple discovery or bootstrap flags are set. Choose one of \"--initial-cluster\", " +
			"\"--discovery-endpoints\" or \"--discovery-srv\"")
	}
	if (d.Token == "") != (len(d.Endpoints) == 0) {
		return errors.New("both --discovery-token and --discovery-endpoints must be set")
	}
	if d.SRVName != "" && d.SRV == "" {
		return errors.New("--discovery-srv-name needs the domain: set --discovery-srv")
	}
	return errors.Join(d.checkClient(), checkDomain(d.SRV))
}

func (d *Discovery) checkClient() error {
	if (d.CertFile == "") != (d.KeyFile == "") {
		return fmt.Errorf("--discovery-cert and --discovery-key must both be set (set to %q and %q)", d.CertFile, d.KeyFile)
	}
	if d.Password != "" && (d.User == "" || strings.Contains(d.User, ":")) {
		return errors.New("--discovery-password needs a --discovery-user, without a password of its own")
	}
	for _, limit := range []struct {
		flag string
		is   time.Duration
	}{
		{"discovery-dial-timeout", d.DialTimeout}, {"discovery-request-timeout", d.RequestTimeout},
		{"discovery-keepalive-time", d.KeepAliveTime}, {"discovery-keepalive-timeout", d.KeepAliveTimeout},
	} {
		if limit.is < 0 {
			return fmt.Errorf("--%s must not be negative (set to %s)", limit.flag, limit.is)
		}
	}
	if d.ByToken() && d.RequestTimeout == 0 {
		return errors.New("--discovery-request-timeout must be >0: no request could be answered in time")
	}
	if d.ByToken() && strings.ContainsRune(d.Token, '/') {
		return fmt.Errorf("--discovery-token %q must not contain a slash", d.Token)
	}
	return nil
}

func checkDomain(domain string) error {
	if net.ParseIP(domain) != nil || strings.ContainsAny(domain, "/: ") {
		return fmt.Errorf("--discovery-srv %q is not a domain name", domain)
	}
	return nil
}
