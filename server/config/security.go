package config

import (
	"cmp"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/upkeep-kv/upkeep/server/tlsconfig"
)

const (
	securitySection section = "Security"

	// DefaultSelfSignedYears is how long certificates of --auto-tls and --peer-auto-tls are valid.
	DefaultSelfSignedYears = 1
)

func securityOptions(c *Config, r *raw) []*option {
	client, peer := &c.ClientTLS, &c.PeerTLS
	// etcd has this in its config file only.
	clientCN := list("client-cert-allowed-cn", securitySection, "Comma-separated common names; a client's certificate must have one of them.", &client.AllowedCNs)
	clientCN.own = true
	return []*option{
		text("cert-file", securitySection, "", "Certificate shown to clients, PEM.", &client.CertFile),
		text("key-file", securitySection, "", "Key of the certificate shown to clients, PEM.", &client.KeyFile),
		truth("client-cert-auth", securitySection, false, "Require certificates of clients. Setting --trusted-ca-file requires them too.", &client.ClientCertAuth),
		text("trusted-ca-file", securitySection, "", "Authorities that clients' certificates are verified with, PEM.", &client.TrustedCAFile),
		text("client-crl-file", securitySection, "", "Revoked certificates of clients, PEM or DER.", &client.CRLFile),
		list("client-cert-allowed-hostname", securitySection, "Comma-separated host names; one must be in a client's certificate.", &client.AllowedHostnames),
		clientCN,
		truth("auto-tls", securitySection, false, "Make a certificate for clients at the start, if --cert-file and --key-file are not set.", &client.Auto),
		text("client-cert-file", securitySection, "", "Certificate for connections to the own client URL, of which there are none here.", &client.ClientCertFile),
		text("client-key-file", securitySection, "", "Key of --client-cert-file.", &client.ClientKeyFile),
		text("peer-cert-file", securitySection, "", "Certificate shown to other members, PEM.", &peer.CertFile),
		text("peer-key-file", securitySection, "", "Key of the certificate shown to other members, PEM.", &peer.KeyFile),
		text("peer-client-cert-file", securitySection, "", "Certificate for connections that this member opens to others, if not --peer-cert-file.", &peer.ClientCertFile),
		text("peer-client-key-file", securitySection, "", "Key of --peer-client-cert-file.", &peer.ClientKeyFile),
		truth("peer-client-cert-auth", securitySection, false, "Require certificates of other members. Setting --peer-trusted-ca-file requires them too.", &peer.ClientCertAuth),
		text("peer-trusted-ca-file", securitySection, "", "Authorities that members' certificates are verified with, PEM.", &peer.TrustedCAFile),
		text("peer-crl-file", securitySection, "", "Revoked certificates of members, PEM or DER.", &peer.CRLFile),
		list("peer-cert-allowed-cn", securitySection, "Comma-separated common names; a member's certificate must have one of them.", &peer.AllowedCNs),
		list("peer-cert-allowed-hostname", securitySection, "Comma-separated host names; one must be in a member's certificate.", &peer.AllowedHostnames),
		truth("peer-skip-client-san-verification", securitySection, false, "Do not compare the addresses in a member's certificate with where it connects from.", &peer.SkipClientSANVerification),
		truth("peer-auto-tls", securitySection, false, "Make a certificate for other members at the start, if --peer-cert-file and --peer-key-file are not set.", &peer.Auto),
		whole("self-signed-cert-validity", securitySection, strconv.Itoa(DefaultSelfSignedYears), "Years that certificates made at the start are valid.", &c.SelfSignedYears),
		list("cipher-suites", securitySection, "Comma-separated cipher suites of TLS 1.2, by Go's names. Empty leaves the choice to Go.", &r.cipherSuites),
		text("tls-min-version", securitySection, tlsconfig.TLS12, "Oldest version of TLS: TLS1.2 or TLS1.3.", &r.tlsMinVersion),
		text("tls-max-version", securitySection, "", "Newest version of TLS: TLS1.2 or TLS1.3. Empty is the newest there is.", &r.tlsMaxVersion),
	}
}

func list(name string, in section, usage string, field *[]string) *option {
	return &option{name: name, section: in, usage: usage, set: func(text string) error {
		*field = nil
		for part := range strings.SplitSeq(text, ",") {
			if part = strings.TrimSpace(part); part != "" {
				*field = append(*field, part)
			}
		}
		return nil
	}}
}

// securityMaps are the sections of the config file that hold one side's keys without the prefix of its flags, and the
// flags that do not follow that rule.
var securityMaps = []struct {
	key, prefix string
	flags       map[string]string
}{
	{"client-transport-security", "", map[string]string{
		"crl-file": "client-crl-file", "allowed-cn": "client-cert-allowed-cn", "allowed-hostname": "client-cert-allowed-hostname",
	}},
	{"peer-transport-security", "peer-", map[string]string{
		"allowed-cn": "peer-cert-allowed-cn", "allowed-hostname": "peer-cert-allowed-hostname",
	}},
}

// flattenSecurity replaces the sections of keys by the flags they stand for.
func flattenSecurity(keys map[string]any) error {
	for _, m := range securityMaps {
		value, ok := keys[m.key]
		if !ok {
			continue
		}
		delete(keys, m.key)
		section, ok := value.(map[string]any)
		if !ok {
			if value == nil {
				continue
			}
			return fmt.Errorf("%s: expected settings such as cert-file below it", m.key)
		}
		for name, value := range section {
			flag, known := m.flags[name]
			if !known {
				flag = m.prefix + name
			}
			keys[flag] = value
		}
	}
	return nil
}

// checkSecurity finds URLs that cannot be served for want of a certificate, and settings that contradict each other.
func (c *Config) checkSecurity() error {
	errs := []error{c.ClientTLS.Check(tlsconfig.Client), c.PeerTLS.Check(tlsconfig.Peer)}
	for _, l := range []struct {
		flag   string
		urls   []url.URL
		side   tlsconfig.Settings
		remedy string
	}{
		{"listen-peer-urls", c.ListenPeerURLs, c.PeerTLS, "--peer-cert-file and --peer-key-file, or --peer-auto-tls"},
		{"listen-client-urls", c.ListenClientURLs, c.ClientTLS, "--cert-file and --key-file, or --auto-tls"},
		{"listen-client-http-urls", c.ListenClientHTTPURLs, c.ClientTLS, "--cert-file and --key-file, or --auto-tls"},
		{"listen-metrics-urls", c.ListenMetricsURLs, c.ClientTLS, "--cert-file and --key-file, or --auto-tls"},
	} {
		for i := range l.urls {
			if IsSecure(&l.urls[i]) && !l.side.Serves() {
				errs = append(errs, fmt.Errorf("--%s: %s needs a TLS certificate and its key: set %s", l.flag, &l.urls[i], l.remedy))
			}
		}
	}
	if c.SelfSignedYears == 0 && (c.ClientTLS.SelfSigned() || c.PeerTLS.SelfSigned()) {
		errs = append(errs, errors.New("--self-signed-cert-validity must be at least 1 year"))
	}
	return errors.Join(errs...)
}

// IsSecure tells whether a URL asks for TLS.
func IsSecure(u *url.URL) bool { return u.Scheme == "https" || u.Scheme == "unixs" }

// warnSecurity reports settings that have no effect, or a poor one.
func (p *parser) warnSecurity() {
	c := p.cfg
	useless := func(flag, reason string) { p.warn("flag has no effect", "flag", "--"+flag, "reason", reason) }
	clientURLs := slices.Concat(c.ListenClientURLs, c.ListenClientHTTPURLs, c.ListenMetricsURLs)
	for _, side := range []struct {
		prefix, field string
		settings      tlsconfig.Settings
		urls          []url.URL
	}{{"", "client-url", c.ClientTLS, clientURLs}, {"peer-", "peer-url", c.PeerTLS, c.ListenPeerURLs}} {
		s := side.settings
		switch {
		case s.Auto && s.HasPair():
			useless(side.prefix+"auto-tls", "a certificate and key are given")
		case s.Auto && (s.ClientCertAuth || s.TrustedCAFile != ""):
			useless(side.prefix+"client-cert-auth", "certificates of others are not verified with --"+side.prefix+"auto-tls")
		}
		about := cmp.Or(side.prefix, "client-") // in the names of flags about the certificates of others
		for _, rule := range []struct {
			flag string
			set  bool
		}{
			{"cert-allowed-cn", len(s.AllowedCNs) > 0}, {"cert-allowed-hostname", len(s.AllowedHostnames) > 0}, {"crl-file", s.CRLFile != ""},
		} {
			if rule.set && !s.RequiresClientCert() {
				useless(about+rule.flag, "those who connect are not asked for a certificate: set --"+side.prefix+"trusted-ca-file")
			}
		}
		for i := range side.urls {
			u := &side.urls[i]
			if IsSecure(u) {
				continue
			}
			// Source of the two texts: etcd.
			if s.Serves() {
				p.warn("scheme is http or unix while key and cert files are present; ignoring key and cert files", side.field, u.String())
			}
			if s.ClientCertAuth {
				p.warn("scheme is http or unix while --"+side.prefix+"client-cert-auth is enabled; ignoring client cert auth for this URL", side.field, u.String())
			}
		}
	}
	if c.ClientTLS.ClientCertFile != "" {
		useless("client-cert-file", "this member does not connect to its own client URL")
	}
	if weak := c.TLS.InsecureSuites(); len(weak) > 0 {
		p.warn("cipher suites with known weaknesses are allowed", "cipher-suites", strings.Join(weak, ","))
	}
}
