package tls

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/upkeep-kv/upkeep/tests/certs"
	"github.com/upkeep-kv/upkeep/tests/ports"
	"github.com/upkeep-kv/upkeep/tests/proc"
)

// Certificates of --auto-tls and --peer-auto-tls, and a restart with the same ones.
func TestAutoTLS(t *testing.T) {
	t.Parallel()
	free := ports.Free(t, 6)
	var urls, initial []string
	for i := range 3 {
		urls = append(urls, "https://"+loopback(free[i]))
		initial = append(initial, fmt.Sprintf("m%d=%s", i, urls[i]))
	}
	var members []*proc.Member
	for i, u := range urls {
		name := fmt.Sprintf("m%d", i)
		m := proc.Prepare(t, proc.Build(t, "upkeep"), name, filepath.Join(t.TempDir(), name), u)
		m.Append("--initial-cluster", strings.Join(initial, ","), "--peer-auto-tls", "--auto-tls",
			"--listen-client-urls", "https://"+loopback(free[3+i])+","+m.ClientURL)
		m.Launch()
		members = append(members, m)
	}
	for _, m := range members {
		m.WaitReady()
	}
	file := filepath.Join(members[0].DataDir, "fixtures", "client", "cert.pem")
	before, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	endpoint := "https://" + loopback(free[3])
	for _, tool := range tools(t) {
		ctl(t, tool, 0, "OK", "--endpoints", endpoint, "--insecure-transport=false", "--insecure-skip-tls-verify", "put", "a", "1")
		ctl(t, tool, 0, "a\n1\n", "--endpoints", endpoint, "--cacert", file, "get", "a")
	}
	members[0].Stop()
	members[0].Restart()
	if after, err := os.ReadFile(file); err != nil || !bytes.Equal(before, after) {
		t.Errorf("the certificate was made anew: %v", err)
	}
	ctl(t, tools(t)[0], 0, "a\n1\n", "--endpoints", endpoint, "--cacert", file, "get", "a")
}

// The same config file, for etcd and for us: --trusted-ca-file alone asks clients for a certificate, and the ports for
// HTTP and metrics have TLS too.
func TestConfigFile(t *testing.T) {
	t.Parallel()
	ca := certs.NewAuthority(t, "ca")
	own := ca.Issue(t, certs.Spec{CommonName: "server", IPs: []string{"127.0.0.1"}})
	alice := ca.Issue(t, certs.Spec{CommonName: "alice"})
	for _, program := range []string{proc.Build(t, "upkeep"), proc.Peer(t, "etcd")} {
		t.Run(filepath.Base(program), func(t *testing.T) {
			free := ports.Free(t, 4)
			dir := t.TempDir()
			file := filepath.Join(dir, "config.yaml")
			text := fmt.Sprintf(`name: m0
data-dir: %s
listen-client-urls: https://%[2]s,unixs://%[3]s
advertise-client-urls: https://%[2]s
listen-client-http-urls: https://%[4]s
listen-metrics-urls: https://%[5]s
listen-peer-urls: https://%[6]s
initial-advertise-peer-urls: https://%[6]s
initial-cluster: m0=https://%[6]s
client-transport-security:
  cert-file: %[7]s
  key-file: %[8]s
  trusted-ca-file: %[9]s
peer-transport-security:
  cert-file: %[7]s
  key-file: %[8]s
  client-cert-auth: true
  trusted-ca-file: %[9]s
  allowed-cn: [server]
tls-min-version: TLS1.2
cipher-suites: [TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256]
`, filepath.Join(dir, "data"), loopback(free[0]), filepath.Join(sockets(t), "127.0.0.1"), loopback(free[1]), loopback(free[2]),
				loopback(free[3]), own.CertFile, own.KeyFile, ca.CertFile)
			if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			m := proc.Prepare(t, program, "m0", dir, "http://unused")
			m.Only("--config-file", file)
			m.Launch()
			get := func(port int, http2Too bool, shown ...certs.Pair) (string, error) {
				transport := &http.Transport{TLSClientConfig: ca.Client(t, shown...), ForceAttemptHTTP2: http2Too}
				defer transport.CloseIdleConnections()
				resp, err := (&http.Client{Transport: transport}).Get("https://" + loopback(port) + "/health")
				if err != nil {
					return "", err
				}
				defer resp.Body.Close()
				body, err := io.ReadAll(resp.Body)
				return resp.Proto + " " + string(body), err
			}
			for _, port := range []int{free[1], free[2]} {
				eventually(t, "health", func() bool {
					body, err := get(port, true, alice)
					return err == nil && body == `HTTP/2.0 {"health":"true","reason":""}`
				})
				if body, err := get(port, false, alice); err != nil || body != `HTTP/1.1 {"health":"true","reason":""}` {
					t.Errorf("%s %v", body, err)
				}
				if body, err := get(port, true); err == nil {
					t.Errorf("%s without a certificate", body)
				}
			}
			tool := proc.Peer(t, "etcdctl")
			ctl(t, tool, 0, "OK", with(credentials(ca, alice), "--endpoints", "https://"+loopback(free[0]), "put", "a", "1")...)
			old := ca.Client(t, alice)
			old.MaxVersion, old.CipherSuites = tls.VersionTLS12, []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384}
			if name, err := shown(t, loopback(free[0]), old); err == nil {
				t.Errorf("%s took a cipher suite that is not in the list", name)
			}
		})
	}
}

// What etcd refuses to start with is refused here, and ours says which flag is at fault and writes nothing.
func TestBadConfigurations(t *testing.T) {
	t.Parallel()
	ca := certs.NewAuthority(t, "ca")
	own, other := ca.Issue(t, certs.Spec{IPs: []string{"127.0.0.1"}}), ca.Issue(t, certs.Spec{})
	free := ports.Free(t, 3)
	secure := "--listen-client-urls=https://" + loopback(free[0]) + " --advertise-client-urls=https://" + loopback(free[0]) + " "
	plain := "--listen-client-urls=http://" + loopback(free[0]) + " --advertise-client-urls=http://" + loopback(free[0]) + " "
	pair := "--cert-file=" + own.CertFile + " --key-file=" + own.KeyFile + " "
	for _, c := range []struct{ args, want string }{
		{secure, "--listen-client-urls: https://.*--cert-file and --key-file"},
		{strings.ReplaceAll(plain, "http://"+loopback(free[0]), "unixs://x.sock"), "--listen-client-urls: unixs://x.sock"},
		{plain + "--listen-client-http-urls=https://" + loopback(free[2]), "--listen-client-http-urls: https://"},
		{plain + "--listen-metrics-urls=https://" + loopback(free[2]), "--listen-metrics-urls: https://"},
		{plain + "--listen-peer-urls=https://" + loopback(free[1]), "--listen-peer-urls: https://.*--peer-cert-file"},
		{secure + "--cert-file=" + own.CertFile, "--cert-file and --key-file must both be set"},
		{secure + "--cert-file=/nonexistent --key-file=" + own.KeyFile, "--cert-file and --key-file: open /nonexistent"},
		{secure + "--cert-file=" + own.CertFile + " --key-file=" + other.KeyFile, "--cert-file and --key-file: "},
		{secure + pair + "--trusted-ca-file=/nonexistent", "--trusted-ca-file: open /nonexistent"},
		{secure + pair + "--trusted-ca-file=" + own.KeyFile, "--trusted-ca-file: .*no certificate"},
		{plain + "--peer-cert-file=" + own.CertFile, "--peer-cert-file and --peer-key-file"},
		{plain + "--cipher-suites=TLS_NOSUCH", `--cipher-suites: .*"TLS_NOSUCH"`},
		{plain + "--tls-min-version=TLS1.3 --cipher-suites=TLS_AES_128_GCM_SHA256", "--cipher-suites: .*TLS1.3"},
		{plain + "--tls-min-version=TLS1.1", `--tls-min-version: .*"TLS1.1"`},
		{plain + "--tls-max-version=1.2", `--tls-max-version: .*"1.2"`},
		{plain + "--tls-min-version=TLS1.3 --tls-max-version=TLS1.2", "--tls-min-version: "},
		{secure + "--auto-tls --self-signed-cert-validity=0", "--self-signed-cert-validity"},
		{plain + "--self-signed-cert-validity=x", "--self-signed-cert-validity"},
	} {
		t.Run(c.args, func(t *testing.T) {
			for _, program := range []string{proc.Build(t, "upkeep"), proc.Peer(t, "etcd")} {
				data := filepath.Join(t.TempDir(), "data")
				args := append([]string{"--data-dir", data, "--listen-peer-urls", "http://" + loopback(free[1])}, strings.Fields(c.args)...)
				out, code := run(t, program, args...)
				if code == 0 {
					t.Errorf("%s ended with 0", filepath.Base(program))
				}
				if filepath.Base(program) != "upkeep" {
					continue
				}
				matches(t, out, c.want)
				if _, err := os.Stat(data); err == nil {
					t.Error("the data directory was made all the same")
				}
			}
		})
	}
}

// Hundreds of connections that stop in the middle of their handshake keep nobody else out.
func TestHalfOpenConnections(t *testing.T) {
	t.Parallel()
	ca := certs.NewAuthority(t, "ca")
	own := ca.Issue(t, certs.Spec{IPs: []string{"127.0.0.1"}})
	free := ports.Free(t, 2)
	m := proc.Prepare(t, proc.Build(t, "upkeep"), "m0", filepath.Join(t.TempDir(), "m0"), "http://"+loopback(free[0]))
	m.Append("--listen-client-urls", "https://"+loopback(free[1])+","+m.ClientURL, "--cert-file", own.CertFile, "--key-file", own.KeyFile)
	m.Restart()
	for range 500 {
		conn, err := net.Dial("tcp", loopback(free[1]))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := conn.Write([]byte{22, 3, 1, 2}); err != nil {
			t.Fatal(err)
		}
	}
	ctl(t, tools(t)[0], 0, "OK", with(credentials(ca), "--endpoints", "https://"+loopback(free[1]), "put", "a", "1")...)
}
