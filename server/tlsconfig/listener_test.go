package tlsconfig

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"

	"github.com/upkeep-kv/upkeep/raftnode/memnet"
	"github.com/upkeep-kv/upkeep/tests/certs"
)

// Connections that never come to their handshake hold nobody back, and are cut off after ten seconds.
func TestHalfOpenHandshakes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const idle = 500
		ca := certs.NewAuthority(t, "ca")
		own := ca.Issue(t, certs.Spec{IPs: []string{"127.0.0.1"}})
		ring, err := Open(Client, Settings{CertFile: own.CertFile, KeyFile: own.KeyFile}, Protocol{}, zap.NewNop())
		if err != nil {
			t.Fatal(err)
		}
		network := memnet.New(1)
		plain, err := network.Host("server").Listen(1)
		if err != nil {
			t.Fatal(err)
		}
		var mu sync.Mutex
		rejected := 0
		l := NewListener(plain, ring.Server(), func(net.Addr, string, error) { mu.Lock(); rejected++; mu.Unlock() })
		defer l.Close()

		start := time.Now()
		var cut sync.WaitGroup
		for range idle {
			conn, err := network.Host("client").Dial(t.Context(), "server:1")
			if err != nil {
				t.Fatal(err)
			}
			cut.Go(func() {
				if _, err := conn.Write([]byte{22, 3}); err != nil { // half a record's head
					t.Error(err)
				}
				_, _ = io.Copy(io.Discard, conn) // until it is cut
			})
		}
		raw, err := network.Host("client").Dial(t.Context(), "server:1")
		if err != nil {
			t.Fatal(err)
		}
		shaken := make(chan error, 1)
		go func() { shaken <- tls.Client(raw, ca.Client(t)).Handshake() }()
		conn, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		if err := <-shaken; err != nil {
			t.Fatal(err)
		}
		if took := time.Since(start); took >= HandshakeTimeout {
			t.Errorf("a good handshake waited for %s", took)
		}
		if _, ok := State(conn); !ok {
			t.Error("what was accepted does not know of its handshake")
		}
		cut.Wait()
		if took := time.Since(start); took < HandshakeTimeout || took > HandshakeTimeout+time.Second {
			t.Errorf("half-open handshakes were cut after %s", took)
		}
		synctest.Wait()
		mu.Lock()
		defer mu.Unlock()
		if rejected != idle {
			t.Errorf("%d of %d reported", rejected, idle)
		}
		conn.Close()
		raw.Close()
	})
}

// Close ends what is under way.
func TestCloseEndsHandshakes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := memnet.New(1)
		plain, err := network.Host("server").Listen(1)
		if err != nil {
			t.Fatal(err)
		}
		l := NewListener(plain, &tls.Config{}, func(net.Addr, string, error) { t.Error("reported as the peer's fault") })
		conn, err := network.Host("client").Dial(t.Context(), "server:1")
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		synctest.Wait()
		start := time.Now()
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		if time.Since(start) > 0 {
			t.Error("closing waited for a handshake")
		}
		if _, err := l.Accept(); err == nil {
			t.Error("accepted after the end")
		}
	})
}

func TestSelfSign(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "fixtures", "peer")
		sign := func() (Settings, []byte) {
			s, err := SelfSign(Settings{Auto: true}, dir, []string{"127.0.0.1", "m0.test"}, 1)
			if err != nil {
				t.Fatal(err)
			}
			content, err := os.ReadFile(s.CertFile)
			if err != nil {
				t.Fatal(err)
			}
			return s, content
		}
		const day = 24 * time.Hour
		s, first := sign()
		if !s.SelfSigned() || !s.Serves() || s.RequiresClientCert() {
			t.Errorf("%+v", s)
		}
		pair, err := newPair(s.CertFile, s.KeyFile).load()
		if err != nil {
			t.Fatal(err)
		}
		leaf := pair.Leaf
		if key, ok := leaf.PublicKey.(*ecdsa.PublicKey); !ok || key.Curve != elliptic.P521() {
			t.Errorf("key is a %T", leaf.PublicKey)
		}
		if leaf.Subject.String() != "O=etcd" || !leaf.IsCA || leaf.NotAfter.Sub(leaf.NotBefore) != 365*day {
			t.Errorf("%s, CA %t, valid %s", leaf.Subject, leaf.IsCA, leaf.NotAfter.Sub(leaf.NotBefore))
		}
		for _, name := range []string{"127.0.0.1", "m0.test"} {
			if err := leaf.VerifyHostname(name); err != nil {
				t.Error(err)
			}
		}
		if info, err := os.Stat(s.KeyFile); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("key file: %v %v", info.Mode(), err)
		}
		time.Sleep(364 * day)
		if _, later := sign(); !bytes.Equal(first, later) {
			t.Error("a certificate that was valid still was replaced")
		}
		time.Sleep(2 * day)
		_, later := sign()
		if bytes.Equal(first, later) {
			t.Error("an expired certificate was kept")
		}
		if err := os.WriteFile(s.KeyFile, []byte("junk"), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, repaired := sign(); bytes.Equal(later, repaired) {
			t.Error("a certificate without its key was kept")
		}
	})
}

// Self-signed sides talk to each other although neither can verify the other.
func TestSelfSignedPeers(t *testing.T) {
	side := func() *Keyring {
		s, err := SelfSign(Settings{Auto: true, ClientCertAuth: true}, t.TempDir(), []string{"127.0.0.1"}, 1)
		if err != nil {
			t.Fatal(err)
		}
		return open(t, Peer, s, Protocol{})
	}
	client, err := side().Dialer("127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	if _, serverErr, clientErr := shake(t, side().Server(), client); serverErr != nil || clientErr != nil {
		t.Error(serverErr, clientErr)
	}
	if _, err := SelfSign(Settings{Auto: true}, t.TempDir(), nil, 0); err == nil {
		t.Error("a validity of 0 years was accepted")
	}
}

func TestParseProtocolErrors(t *testing.T) {
	for want, c := range map[string]struct {
		suites   []string
		min, max string
	}{
		`--cipher-suites: unexpected TLS cipher suite "foo"`: {suites: []string{"TLS_RSA_WITH_AES_128_CBC_SHA", "foo"}},
		`--tls-min-version: unexpected TLS version "TLS1.1"`: {min: "TLS1.1"},
		`--tls-max-version: unexpected TLS version "1.3"`:    {max: "1.3"},
		`min version (TLS1.3) is greater than max version`:   {min: TLS13, max: TLS12},
		`cannot be configured when only TLS1.3 is enabled`:   {min: TLS13, suites: []string{"TLS_AES_128_GCM_SHA256"}},
	} {
		if _, err := ParseProtocol(c.suites, c.min, c.max); err == nil || !bytes.Contains([]byte(err.Error()), []byte(want)) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
	p, err := ParseProtocol([]string{"TLS_RSA_WITH_AES_128_CBC_SHA", "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"}, TLS12, "")
	if err != nil || len(p.InsecureSuites()) != 1 {
		t.Errorf("%v %v", p.InsecureSuites(), err)
	}
}

func TestPlainHTTPIsToldAboutTLS(t *testing.T) {
	plain, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := NewListener(plain, &tls.Config{}, func(net.Addr, string, error) {})
	defer l.Close()
	resp, err := http.Get("http://" + plain.Addr().String() + "/health")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusBadRequest || !bytes.Contains(body, []byte("https")) {
		t.Errorf("%s: %q %v", resp.Status, body, err)
	}
}
