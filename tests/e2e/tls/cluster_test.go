package tls

import (
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/upkeep-kv/upkeep/tests/certs"
	"github.com/upkeep-kv/upkeep/tests/ports"
	"github.com/upkeep-kv/upkeep/tests/proc"
)

// secureCluster is three members that show each other certificates and ask clients for theirs. The third is reached by
// its peers over a Unix socket. Every member also has a plain client URL, for the test's own use.
type secureCluster struct {
	ca        *certs.Authority
	members   []*proc.Member
	addresses []string // of clients, with TLS
	socket    string   // of clients of the first member, with TLS
	serving   certs.Pair
	crl       string
}

func startSecure(t *testing.T) *secureCluster {
	t.Helper()
	c := &secureCluster{ca: certs.NewAuthority(t, "ca"), crl: filepath.Join(t.TempDir(), "crl.pem")}
	c.ca.Revoke(t, c.crl)
	dir := sockets(t)
	c.socket = "unixs://" + filepath.Join(dir, "c.sock")
	c.serving = c.ca.Issue(t, certs.Spec{CommonName: "first", IPs: []string{"127.0.0.1"}, DNS: []string{"c.sock"}, In: t.TempDir()})
	// Shown to those who connect here, and to those this member connects to.
	peers := c.ca.Issue(t, certs.Spec{CommonName: "member", IPs: []string{"127.0.0.1"}, DNS: []string{"p.sock"}})
	outgoing := c.ca.Issue(t, certs.Spec{CommonName: "member", IPs: []string{"127.0.0.1"}})

	free := ports.Free(t, 5)
	peerURLs := []string{"https://" + loopback(free[0]), "https://" + loopback(free[1]), "unixs://" + filepath.Join(dir, "p.sock")}
	var initial []string
	for i, u := range peerURLs {
		initial = append(initial, "m"+string(rune('0'+i))+"="+u)
	}
	for i, peerURL := range peerURLs {
		name, _, _ := strings.Cut(initial[i], "=")
		m := proc.Prepare(t, proc.Build(t, "upkeep"), name, filepath.Join(t.TempDir(), name), peerURL)
		c.members = append(c.members, m)
		c.addresses = append(c.addresses, loopback(free[2+i]))
		secure := "https://" + c.addresses[i]
		if i == 0 {
			secure += "," + c.socket
		}
		m.Append("--initial-cluster", strings.Join(initial, ","),
			"--listen-client-urls", secure+","+m.ClientURL, "--advertise-client-urls", "https://"+c.addresses[i],
			"--cert-file", c.serving.CertFile, "--key-file", c.serving.KeyFile,
			"--trusted-ca-file", c.ca.CertFile, "--client-crl-file", c.crl,
			"--peer-cert-file", peers.CertFile, "--peer-key-file", peers.KeyFile,
			"--peer-client-cert-file", outgoing.CertFile, "--peer-client-key-file", outgoing.KeyFile,
			"--peer-trusted-ca-file", c.ca.CertFile, "--peer-client-cert-auth", "--peer-cert-allowed-cn", "member")
		m.Launch()
	}
	for _, m := range c.members {
		m.WaitReady()
	}
	return c
}

func (c *secureCluster) endpoints() string {
	return "https://" + strings.Join(c.addresses, ",https://")
}

func TestSecureCluster(t *testing.T) {
	t.Parallel()
	c := startSecure(t)
	alice := c.ca.Issue(t, certs.Spec{CommonName: "alice"})
	stranger := certs.NewAuthority(t, "stranger")
	for _, tool := range tools(t) {
		known := credentials(c.ca, alice)
		for _, endpoints := range []string{c.endpoints(), c.socket} {
			at := with(known, "--endpoints", endpoints)
			ctl(t, tool, 0, "OK", with(at, "put", "a", "1")...)
			ctl(t, tool, 0, "a\n1\n", with(at, "get", "a")...)
			ctl(t, tool, 0, "is healthy", with(at, "endpoint", "health")...)
			ctl(t, tool, 0, "unixs://", with(at, "member", "list")...)
		}
		ctl(t, tool, 0, "", with(known, "--endpoints", c.endpoints(), "endpoint", "hashkv", "--cluster")...)
		quick := []string{"--dial-timeout", "700ms", "--command-timeout", "700ms", "--endpoints", c.endpoints(), "get", "a"}
		ctl(t, tool, 1, "", with(credentials(c.ca), quick...)...)
		ctl(t, tool, 1, "", with(credentials(stranger, alice), quick...)...)
		ctl(t, tool, 1, "", with(credentials(c.ca, stranger.Issue(t, certs.Spec{CommonName: "alice"})), quick...)...)
		ctl(t, tool, 0, "a\n1\n", with([]string{"--insecure-skip-tls-verify", "--cert", alice.CertFile, "--key", alice.KeyFile}, "--endpoints", c.endpoints(), "get", "a")...)
		ctl(t, tool, 0, "a\n1\n", "--endpoints", c.members[1].ClientURL, "get", "a")
	}

	// A member that comes back is let in again by the others, over the socket too.
	at := with(credentials(c.ca, alice), "--endpoints", "https://"+c.addresses[0])
	tool := tools(t)[0]
	c.members[2].Kill()
	ctl(t, tool, 0, "OK", with(at, "put", "b", "2")...)
	c.members[2].Restart()
	ctl(t, tool, 0, "b\n2\n", with(credentials(c.ca, alice), "--endpoints", "https://"+c.addresses[2], "get", "b")...)
	c.members[1].Kill()
	ctl(t, tool, 0, "OK", with(at, "put", "c", "3")...) // needs the member behind the socket
}

// New certificates and revocations count while the member runs.
func TestRotation(t *testing.T) {
	t.Parallel()
	c := startSecure(t)
	alice, bob := c.ca.Issue(t, certs.Spec{CommonName: "alice"}), c.ca.Issue(t, certs.Spec{CommonName: "bob"})
	config := c.ca.Client(t, alice)
	if name, err := shown(t, c.addresses[0], config); err != nil || name != "first" {
		t.Fatalf("%q %v", name, err)
	}
	c.ca.Issue(t, certs.Spec{CommonName: "second", IPs: []string{"127.0.0.1"}, In: filepath.Dir(c.serving.CertFile)})
	for _, address := range c.addresses {
		if name, err := shown(t, address, config); err != nil || name != "second" {
			t.Errorf("%q %v", name, err)
		}
	}
	tool := tools(t)[0]
	get := func(code int, who certs.Pair) {
		t.Helper()
		timeout := []string{"20s", "1s"}[code]
		ctl(t, tool, code, "", with(credentials(c.ca, who), "--endpoints", "https://"+c.addresses[0], "--command-timeout", timeout, "get", "a")...)
	}
	get(0, bob)
	c.ca.Revoke(t, c.crl, bob)
	get(1, bob)
	get(0, alice)
	if want := "certificate serial " + bob.Cert.SerialNumber.Text(16) + " revoked"; !strings.Contains(c.members[0].Output(), want) {
		t.Errorf("no %q in\n%s", want, c.members[0].Output())
	}
}

// A member whose certificate has another name than those allowed is not let in by the others, nor is one whose was revoked.
func TestStrangePeers(t *testing.T) {
	t.Parallel()
	ca := certs.NewAuthority(t, "ca")
	member := ca.Issue(t, certs.Spec{CommonName: "member", IPs: []string{"127.0.0.1"}})
	other := ca.Issue(t, certs.Spec{CommonName: "other", IPs: []string{"127.0.0.1"}})
	stolen := ca.Issue(t, certs.Spec{CommonName: "member", IPs: []string{"127.0.0.1"}})
	elsewhere := ca.Issue(t, certs.Spec{CommonName: "member", IPs: []string{"10.1.2.3"}})
	crl := filepath.Join(t.TempDir(), "crl.pem")
	ca.Revoke(t, crl, stolen)
	for _, c := range []struct {
		what    string
		strange certs.Pair
		want    string
	}{
		{"another name", other, "client certificate authentication failed"},
		{"revoked", stolen, "certificate serial " + stolen.Cert.SerialNumber.Text(16) + " revoked"},
		{"from elsewhere", elsewhere, "does not match any of"},
	} {
		t.Run(c.what, func(t *testing.T) {
			free := ports.Free(t, 2)
			urls := []string{"https://" + loopback(free[0]), "https://" + loopback(free[1])}
			var members []*proc.Member
			for i, outgoing := range []certs.Pair{member, c.strange} {
				name := []string{"m0", "m1"}[i]
				m := proc.Prepare(t, proc.Build(t, "upkeep"), name, filepath.Join(t.TempDir(), name), urls[i])
				m.Append("--initial-cluster", "m0="+urls[0]+",m1="+urls[1],
					"--peer-cert-file", member.CertFile, "--peer-key-file", member.KeyFile,
					"--peer-client-cert-file", outgoing.CertFile, "--peer-client-key-file", outgoing.KeyFile,
					"--peer-trusted-ca-file", ca.CertFile, "--peer-crl-file", crl, "--peer-cert-allowed-cn", "member")
				m.Launch()
				members = append(members, m)
			}
			line := regexp.MustCompile("rejected connection on peer endpoint.*" + c.want)
			eventually(t, line.String(), func() bool { return line.MatchString(members[0].Output()) })
			if out := members[0].Output(); strings.Contains(out, "ready to serve client requests") {
				t.Errorf("the two became a cluster:\n%s", out)
			}
		})
	}
}
