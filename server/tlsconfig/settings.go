package tlsconfig

import (
	"crypto/tls"
	"errors"
	"fmt"
	"slices"
)

// Settings are the files and rules of one kind of connections: those of clients, or those between members.
type Settings struct {
	CertFile, KeyFile string
	// ClientCertFile and ClientKeyFile are shown on connections that this side opens; empty means CertFile and KeyFile.
	ClientCertFile, ClientKeyFile string
	// TrustedCAFile has the authorities that verify the other side. Whoever connects must then have a certificate.
	TrustedCAFile string
	// ClientCertAuth asks for certificates of those who connect; without TrustedCAFile the machine's authorities verify.
	ClientCertAuth bool
	// CRLFile lists revoked certificates by serial number, PEM or DER.
	CRLFile string
	// Auto makes a certificate that nobody verifies, where CertFile and KeyFile are missing.
	Auto bool
	// AllowedCNs and AllowedHostnames name whose certificates are accepted, one of the two lists; empty accepts all.
	AllowedCNs, AllowedHostnames []string
	// SkipClientSANVerification leaves out the comparison of a certificate's addresses with where it comes from.
	SkipClientSANVerification bool

	selfSigned bool // CertFile and KeyFile were made by SelfSign
}

// Kind says which of the two sides the settings are for.
type Kind int

const (
	Client Kind = iota // connections of clients
	Peer               // connections between members
)

// flag is the command line's name for a setting that is called name without the prefix of its kind.
func (k Kind) flag(name string) string {
	switch {
	case k == Peer:
		return "--peer-" + name
	case name == "crl-file" || name == "cert-allowed-hostname" || name == "cert-allowed-cn":
		return "--client-" + name
	}
	return "--" + name
}

// String is the word for an endpoint of this kind in messages.
func (k Kind) String() string {
	if k == Peer {
		return "peer"
	}
	return "client"
}

// HasPair tells whether a certificate and its key are named.
func (s Settings) HasPair() bool { return s.CertFile != "" && s.KeyFile != "" }

// Serves tells whether TLS can be served: there is a certificate, or one is to be made.
func (s Settings) Serves() bool { return s.HasPair() || s.Auto }

// SelfSigned tells whether the certificate is one that is made at the start.
func (s Settings) SelfSigned() bool { return s.selfSigned || s.Auto && !s.HasPair() }

// RequiresClientCert tells whether those who connect must show a certificate. A self-signed side never asks, since
// nothing could verify what its peers, self-signed too, would show. Source: etcd.
func (s Settings) RequiresClientCert() bool {
	return (s.ClientCertAuth || s.TrustedCAFile != "") && !s.SelfSigned()
}

// Check reports settings that contradict each other, naming their flags. It reads no file.
func (s Settings) Check(k Kind) error {
	var errs []error
	pair := func(cert, key, certName, keyName string) {
		if (cert == "") != (key == "") {
			errs = append(errs, fmt.Errorf("%s and %s must both be set (set to %q and %q)",
				k.flag(certName), k.flag(keyName), cert, key))
		}
	}
	pair(s.CertFile, s.KeyFile, "cert-file", "key-file")
	pair(s.ClientCertFile, s.ClientKeyFile, "client-cert-file", "client-key-file")
	if len(s.AllowedCNs) > 0 && len(s.AllowedHostnames) > 0 {
		errs = append(errs, fmt.Errorf("%s and %s cannot be used together: choose one of them",
			k.flag("cert-allowed-cn"), k.flag("cert-allowed-hostname")))
	}
	return errors.Join(errs...)
}

// Protocol narrows down what is spoken on all connections. The zero value leaves it to Go's defaults, TLS 1.2 and newer.
type Protocol struct {
	CipherSuites           []uint16 // of TLS 1.2; TLS 1.3 has its own, which are always on
	MinVersion, MaxVersion uint16   // 0 is open
}

// Versions that can be asked for.
const (
	TLS12 = "TLS1.2"
	TLS13 = "TLS1.3"
)

// ParseVersion reads TLS1.2 or TLS1.3; the empty text is 0, no bound.
func ParseVersion(text string) (uint16, error) {
	switch text {
	case "":
		return 0, nil
	case TLS12:
		return tls.VersionTLS12, nil
	case TLS13:
		return tls.VersionTLS13, nil
	}
	return 0, fmt.Errorf("unexpected TLS version %q (must be one of: %s, %s)", text, TLS12, TLS13)
}

// ParseProtocol reads Go's names of cipher suites and the two versions.
func ParseProtocol(suites []string, minVersion, maxVersion string) (Protocol, error) {
	var p Protocol
	var err error
	known := slices.Concat(tls.CipherSuites(), tls.InsecureCipherSuites())
	for _, name := range suites {
		at := slices.IndexFunc(known, func(c *tls.CipherSuite) bool { return c.Name == name })
		if at < 0 {
			return p, fmt.Errorf("--cipher-suites: unexpected TLS cipher suite %q (names are those of Go's crypto/tls, such as %s)",
				name, tls.CipherSuiteName(tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256))
		}
		p.CipherSuites = append(p.CipherSuites, known[at].ID)
	}
	if p.MinVersion, err = ParseVersion(minVersion); err != nil {
		return p, fmt.Errorf("--tls-min-version: %w", err)
	}
	if p.MaxVersion, err = ParseVersion(maxVersion); err != nil {
		return p, fmt.Errorf("--tls-max-version: %w", err)
	}
	if p.MaxVersion != 0 && p.MinVersion > p.MaxVersion {
		return p, fmt.Errorf("--tls-min-version: min version (%s) is greater than max version (%s) of --tls-max-version",
			minVersion, maxVersion)
	}
	if p.MinVersion == tls.VersionTLS13 && len(suites) > 0 {
		return p, errors.New("--cipher-suites: cipher suites cannot be configured when only TLS1.3 is enabled by --tls-min-version")
	}
	return p, nil
}

// InsecureSuites returns the names of those suites that Go advises against.
func (p Protocol) InsecureSuites() []string {
	var names []string
	for _, c := range tls.InsecureCipherSuites() {
		if slices.Contains(p.CipherSuites, c.ID) {
			names = append(names, c.Name)
		}
	}
	return names
}
