package tlsconfig

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/upkeep-kv/upkeep/tests/certs"
)

func open(t *testing.T, k Kind, s Settings, p Protocol) *Keyring {
	t.Helper()
	if err := s.Check(k); err != nil {
		t.Fatal(err)
	}
	r, err := Open(k, s, p, zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// shake connects over loopback and returns what each side says of the handshake, and what the client saw.
func shake(t *testing.T, server, client *tls.Config) (seen tls.ConnectionState, serverErr, clientErr error) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	done := make(chan error, 1)
	go func() {
		raw, err := l.Accept()
		if err != nil {
			done <- err
			return
		}
		defer raw.Close()
		conn := tls.Server(raw, server)
		if err = conn.Handshake(); err == nil {
			_, err = conn.Write([]byte("x"))
		}
		done <- err
	}()
	raw, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	conn := tls.Client(raw, client)
	if clientErr = conn.Handshake(); clientErr == nil {
		_, clientErr = conn.Read(make([]byte, 1)) // with TLS 1.3 a refusal comes behind the client's handshake
	}
	if clientErr != nil {
		raw.Close()
	}
	return conn.ConnectionState(), <-done, clientErr
}

// Each rule refuses the one certificate that it is about, and accepts the other.
func TestWhoMayConnect(t *testing.T) {
	ca, stranger := certs.NewAuthority(t, "ca"), certs.NewAuthority(t, "stranger")
	own := ca.Issue(t, certs.Spec{CommonName: "server", IPs: []string{"127.0.0.1"}})
	alice := ca.Issue(t, certs.Spec{CommonName: "alice", DNS: []string{"alice.test", "*.wild.test"}})
	bob := ca.Issue(t, certs.Spec{CommonName: "bob"})
	here := ca.Issue(t, certs.Spec{CommonName: "here", IPs: []string{"10.1.2.3", "127.0.0.1"}})
	elsewhere := ca.Issue(t, certs.Spec{CommonName: "elsewhere", IPs: []string{"10.1.2.3"}})
	expired := ca.Issue(t, certs.Spec{CommonName: "alice", NotAfter: time.Now().Add(-time.Minute)})
	unknown := stranger.Issue(t, certs.Spec{CommonName: "alice"})
	crl := filepath.Join(t.TempDir(), "crl.pem")
	ca.Revoke(t, crl, bob)

	base := Settings{CertFile: own.CertFile, KeyFile: own.KeyFile, TrustedCAFile: ca.CertFile}
	with := func(change func(*Settings)) Settings { s := base; change(&s); return s }
	plain := Settings{CertFile: own.CertFile, KeyFile: own.KeyFile}
	for name, c := range map[string]struct {
		kind     Kind
		settings Settings
		shown    []certs.Pair
		want     string // part of the server's error
	}{
		"no authority, no certificate":        {settings: plain},
		"authority, certificate":              {settings: base, shown: []certs.Pair{alice}},
		"authority alone asks for one":        {settings: base, want: "didn't provide a certificate"},
		"client-cert-auth without authority":  {settings: Settings{CertFile: own.CertFile, KeyFile: own.KeyFile, ClientCertAuth: true}, shown: []certs.Pair{alice}, want: "unknown authority"},
		"certificate of another authority":    {settings: base, shown: []certs.Pair{unknown}, want: "didn't provide a certificate"},
		"expired":                             {settings: base, shown: []certs.Pair{expired}, want: "expired"},
		"not revoked":                         {settings: with(func(s *Settings) { s.CRLFile = crl }), shown: []certs.Pair{alice}},
		"revoked":                             {settings: with(func(s *Settings) { s.CRLFile = crl }), shown: []certs.Pair{bob}, want: "certificate serial " + bob.Cert.SerialNumber.Text(16) + " revoked"},
		"allowed common name":                 {kind: Peer, settings: with(func(s *Settings) { s.AllowedCNs = []string{"carol", "bob"} }), shown: []certs.Pair{bob}},
		"another common name":                 {kind: Peer, settings: with(func(s *Settings) { s.AllowedCNs = []string{"alice", "carol"} }), shown: []certs.Pair{bob}, want: "client certificate authentication failed"},
		"allowed host name":                   {settings: with(func(s *Settings) { s.AllowedHostnames = []string{"a.wild.test"} }), shown: []certs.Pair{alice}},
		"another host name":                   {settings: with(func(s *Settings) { s.AllowedHostnames = []string{"alice.test"} }), shown: []certs.Pair{bob}, want: "client certificate authentication failed"},
		"peer from an address of it":          {kind: Peer, settings: base, shown: []certs.Pair{here}},
		"peer from another address":           {kind: Peer, settings: base, shown: []certs.Pair{elsewhere}, want: "does not match"},
		"peer from another address, skipped":  {kind: Peer, settings: with(func(s *Settings) { s.SkipClientSANVerification = true }), shown: []certs.Pair{elsewhere}},
		"client from another address is fine": {settings: base, shown: []certs.Pair{elsewhere}},
	} {
		t.Run(name, func(t *testing.T) {
			_, serverErr, clientErr := shake(t, open(t, c.kind, c.settings, Protocol{}).Server(), ca.Client(t, c.shown...))
			switch {
			case c.want == "" && (serverErr != nil || clientErr != nil):
				t.Errorf("refused: %v; %v", serverErr, clientErr)
			case c.want != "" && (serverErr == nil || !strings.Contains(serverErr.Error(), c.want)):
				t.Errorf("the server says %v, want %q", serverErr, c.want)
			case c.want != "" && clientErr == nil:
				t.Error("the client was let in")
			}
		})
	}
}

func TestProtocol(t *testing.T) {
	ca := certs.NewAuthority(t, "ca")
	own := ca.Issue(t, certs.Spec{IPs: []string{"127.0.0.1"}})
	settings := Settings{CertFile: own.CertFile, KeyFile: own.KeyFile}
	for name, c := range map[string]struct {
		suites   []string
		min, max string
		client   func(*tls.Config)
		refused  bool
		version  uint16
		suite    uint16
	}{
		"newest by default":  {version: tls.VersionTLS13},
		"at most 1.2":        {max: TLS12, version: tls.VersionTLS12},
		"1.2 is old enough":  {client: func(c *tls.Config) { c.MaxVersion = tls.VersionTLS12 }, version: tls.VersionTLS12},
		"1.1 never":          {client: func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS10, tls.VersionTLS11 }, refused: true},
		"at least 1.3":       {min: TLS13, client: func(c *tls.Config) { c.MaxVersion = tls.VersionTLS12 }, refused: true},
		"only 1.3, has it":   {min: TLS13, max: TLS13, version: tls.VersionTLS13},
		"the suite asked of": {suites: []string{"TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384"}, max: TLS12, version: tls.VersionTLS12, suite: tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384},
		"no suite in common": {suites: []string{"TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384"}, client: func(c *tls.Config) {
			c.MaxVersion, c.CipherSuites = tls.VersionTLS12, []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256}
		}, refused: true},
	} {
		t.Run(name, func(t *testing.T) {
			p, err := ParseProtocol(c.suites, c.min, c.max)
			if err != nil {
				t.Fatal(err)
			}
			client := ca.Client(t)
			if c.client != nil {
				c.client(client)
			}
			seen, serverErr, _ := shake(t, open(t, Client, settings, p).Server(), client)
			switch {
			case c.refused != (serverErr != nil):
				t.Errorf("handshake: %v", serverErr)
			case c.refused:
			case seen.Version != c.version || c.suite != 0 && seen.CipherSuite != c.suite:
				t.Errorf("%s with %s", tls.VersionName(seen.Version), tls.CipherSuiteName(seen.CipherSuite))
			}
		})
	}
}

// What replaces the files counts at the next handshake.
func TestFilesMayChange(t *testing.T) {
	ca, next := certs.NewAuthority(t, "ca"), certs.NewAuthority(t, "next")
	dir := t.TempDir()
	spec := certs.Spec{CommonName: "first", IPs: []string{"127.0.0.1"}, In: dir}
	own := ca.Issue(t, spec)
	alice, bob := ca.Issue(t, certs.Spec{CommonName: "alice"}), next.Issue(t, certs.Spec{CommonName: "bob"})
	crl := filepath.Join(dir, "crl.pem")
	ca.Revoke(t, crl)
	trusted := filepath.Join(dir, "ca.crt")
	copyFile(t, ca.CertFile, trusted)
	server := open(t, Client, Settings{CertFile: own.CertFile, KeyFile: own.KeyFile, TrustedCAFile: trusted, CRLFile: crl}, Protocol{}).Server()

	admitted := func(pair certs.Pair, wantName string) {
		t.Helper()
		seen, serverErr, clientErr := shake(t, server, ca.Client(t, pair))
		if serverErr != nil || clientErr != nil {
			t.Errorf("refused: %v; %v", serverErr, clientErr)
		} else if name := seen.PeerCertificates[0].Subject.CommonName; name != wantName {
			t.Errorf("the server showed the certificate of %s, want %s", name, wantName)
		}
	}
	refused := func(pair certs.Pair, want string) {
		t.Helper()
		_, serverErr, _ := shake(t, server, ca.Client(t, pair))
		if serverErr == nil || !strings.Contains(serverErr.Error(), want) {
			t.Errorf("the server says %v, want %q", serverErr, want)
		}
	}
	admitted(alice, "first")
	spec.CommonName = "second"
	ca.Issue(t, spec)
	admitted(alice, "second")

	// Half of a new pair: the one before stays in use.
	half := ca.Issue(t, certs.Spec{CommonName: "half", IPs: []string{"127.0.0.1"}})
	copyFile(t, half.KeyFile, own.KeyFile)
	admitted(alice, "second")
	copyFile(t, half.CertFile, own.CertFile)
	admitted(alice, "half")

	ca.Revoke(t, crl, alice)
	refused(alice, "revoked")
	ca.Revoke(t, crl)
	admitted(alice, "half")
	if err := os.Remove(crl); err != nil {
		t.Fatal(err)
	}
	refused(alice, "--client-crl-file")
	ca.Revoke(t, crl)

	refused(bob, "didn't provide a certificate")
	copyFile(t, next.CertFile, trusted)
	admitted(bob, "half")
	refused(alice, "didn't provide a certificate")
}

// Connections that are opened show the outgoing certificate, and verify whom they reach.
func TestDialer(t *testing.T) {
	ca, stranger := certs.NewAuthority(t, "ca"), certs.NewAuthority(t, "stranger")
	own := ca.Issue(t, certs.Spec{CommonName: "member", IPs: []string{"127.0.0.1"}})
	outgoing := ca.Issue(t, certs.Spec{CommonName: "outgoing"})
	settings := Settings{
		CertFile: own.CertFile, KeyFile: own.KeyFile, TrustedCAFile: ca.CertFile,
		ClientCertFile: outgoing.CertFile, ClientKeyFile: outgoing.KeyFile,
	}
	ring := open(t, Peer, settings, Protocol{})
	dial := func(server *tls.Config, name string, ring *Keyring) (shown string, err error) {
		t.Helper()
		server = server.Clone()
		server.GetConfigForClient = nil
		server.ClientAuth = tls.RequestClientCert
		server.VerifyConnection = func(s tls.ConnectionState) error { shown = s.PeerCertificates[0].Subject.CommonName; return nil }
		client, err := ring.Dialer(name)
		if err != nil {
			t.Fatal(err)
		}
		_, _, err = shake(t, server, client)
		return shown, err
	}
	if shown, err := dial(ring.Server(), "127.0.0.1", ring); err != nil || shown != "outgoing" {
		t.Errorf("shown the certificate of %q: %v", shown, err)
	}
	settings.ClientCertFile, settings.ClientKeyFile = "", ""
	if shown, err := dial(ring.Server(), "127.0.0.1", open(t, Peer, settings, Protocol{})); err != nil || shown != "member" {
		t.Errorf("shown the certificate of %q: %v", shown, err)
	}
	if _, err := dial(ring.Server(), "other.test", ring); err == nil {
		t.Error("a server of another name was believed")
	}
	settings.TrustedCAFile = stranger.CertFile
	if _, err := dial(ring.Server(), "127.0.0.1", open(t, Peer, settings, Protocol{})); err == nil {
		t.Error("a server of another authority was believed")
	}
	settings.TrustedCAFile, settings.AllowedCNs = ca.CertFile, []string{"other"}
	if _, err := dial(ring.Server(), "127.0.0.1", open(t, Peer, settings, Protocol{})); !errors.Is(err, errNotAllowed) {
		t.Errorf("a server whose name is not allowed: %v", err)
	}
}

func TestOpenNamesTheFlag(t *testing.T) {
	ca := certs.NewAuthority(t, "ca")
	own := ca.Issue(t, certs.Spec{})
	other := ca.Issue(t, certs.Spec{})
	junk := filepath.Join(t.TempDir(), "junk")
	if err := os.WriteFile(junk, []byte("-----BEGIN CERTIFICATE-----\nxx\n-----END CERTIFICATE-----\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	good := Settings{CertFile: own.CertFile, KeyFile: own.KeyFile}
	for want, change := range map[string]func(*Settings){
		"--peer-cert-file and --peer-key-file: open /nonexistent": func(s *Settings) { s.CertFile = "/nonexistent" },
		"--peer-cert-file and --peer-key-file: " + own.CertFile:   func(s *Settings) { s.KeyFile = other.KeyFile },
		"--peer-client-cert-file and --peer-client-key-file":      func(s *Settings) { s.ClientCertFile, s.ClientKeyFile = junk, own.KeyFile },
		"--peer-trusted-ca-file: " + junk:                         func(s *Settings) { s.TrustedCAFile = junk },
		"--peer-crl-file: " + own.CertFile:                        func(s *Settings) { s.CRLFile = own.CertFile },
	} {
		s := good
		change(&s)
		if _, err := Open(Peer, s, Protocol{}, zap.NewNop()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
	for want, s := range map[string]Settings{
		"--cert-file and --key-file must both be set":                                         {KeyFile: "x"},
		"--client-cert-file and --client-key-file must both be set":                           {ClientCertFile: "x"},
		"--client-cert-allowed-cn and --client-cert-allowed-hostname cannot be used together": {AllowedCNs: []string{"a"}, AllowedHostnames: []string{"b"}},
	} {
		if err := s.Check(Client); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}

// names is a DNS for checkOrigin.
type names struct{ hosts, addresses map[string][]string }

func (n names) LookupHost(_ context.Context, host string) ([]string, error) {
	if found, ok := n.hosts[host]; ok {
		return found, nil
	}
	return nil, errors.New("no such host " + host)
}

func (n names) LookupAddr(_ context.Context, address string) ([]string, error) {
	return n.addresses[address], nil
}

func TestOrigin(t *testing.T) {
	ca := certs.NewAuthority(t, "ca")
	dns := names{
		hosts:     map[string][]string{"m0.test": {"10.0.0.1", "fd00::1"}},
		addresses: map[string][]string{"10.0.0.7": {"m7.pods.test."}},
	}
	at := func(ip string) net.Addr { return &net.TCPAddr{IP: net.ParseIP(ip), Port: 1} }
	for name, c := range map[string]struct {
		spec   certs.Spec
		remote net.Addr
		fine   bool
	}{
		"no names":                {certs.Spec{}, at("10.0.0.1"), true},
		"its address":             {certs.Spec{IPs: []string{"10.0.0.1"}}, at("10.0.0.1"), true},
		"another address":         {certs.Spec{IPs: []string{"10.0.0.1"}}, at("10.0.0.2"), false},
		"a name of it":            {certs.Spec{DNS: []string{"m0.test"}}, at("10.0.0.1"), true},
		"a name of it, version 6": {certs.Spec{DNS: []string{"m0.test"}}, at("fd00::1"), true},
		"a name of another":       {certs.Spec{DNS: []string{"m0.test"}}, at("10.0.0.2"), false},
		"a name nobody has":       {certs.Spec{DNS: []string{"gone.test"}}, at("10.0.0.1"), false},
		"one of two names":        {certs.Spec{DNS: []string{"gone.test", "m0.test"}}, at("10.0.0.1"), true},
		"address or name":         {certs.Spec{IPs: []string{"10.9.9.9"}, DNS: []string{"m0.test"}}, at("10.0.0.1"), true},
		"wildcard":                {certs.Spec{DNS: []string{"*.pods.test"}}, at("10.0.0.7"), true},
		"wildcard of others":      {certs.Spec{DNS: []string{"*.pods.test"}}, at("10.0.0.1"), false},
		"a Unix socket":           {certs.Spec{IPs: []string{"10.0.0.1"}}, &net.UnixAddr{Name: "@"}, true},
	} {
		t.Run(name, func(t *testing.T) {
			err := checkOrigin(t.Context(), ca.Issue(t, c.spec).Cert, c.remote, dns)
			if (err == nil) != c.fine {
				t.Error(err)
			}
		})
	}
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	content, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(to, content, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}
