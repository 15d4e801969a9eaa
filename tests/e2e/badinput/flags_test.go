package badinput

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/upkeep-kv/upkeep/tests/proc"
)

// TestFlags: a command line that cannot be read ends with 2, one that cannot be served with 1, and either names the flag
// at fault before anything is written.
func TestFlags(t *testing.T) {
	config := filepath.Join(t.TempDir(), "config.yaml")
	check(t, os.WriteFile(config, []byte("name: m0\nheartbeat-interval: often\n"), 0o600))
	for _, c := range []struct {
		args string
		env  string
		code int
		want string
	}{
		{args: "--nosuch", code: 2, want: `--nosuch`},
		{args: "--cert-file=x", code: 1, want: `--cert-file and --key-file must both be set`},
		{args: "--quota-backend-bytes=16MiB", code: 2, want: `"16MiB" for flag --quota-backend-bytes`},
		{args: "--initial-cluster=a", code: 2, want: `--initial-cluster.*name=peerURL`},
		{args: "--max-learners", code: 2, want: `--max-learners`},
		{args: "serve", code: 1, want: `"serve"`},
		{args: "--election-timeout=200", code: 1, want: `--election-timeout\[200ms\].*--heartbeat-interval`},
		{args: "--listen-client-urls=http://127.0.0.1:1", code: 1, want: `--advertise-client-urls is required`},
		{args: "--listen-peer-urls=https://127.0.0.1:1", code: 1, want: `--listen-peer-urls: .*TLS`},
		{args: "--auto-compaction-mode=revision --auto-compaction-retention=10m", code: 1, want: `--auto-compaction-retention "10m"`},
		{args: "--max-txn-ops=0", code: 1, want: `--max-txn-ops`},
		{args: "--initial-cluster=other=http://127.0.0.1:2380", code: 1, want: `--initial-cluster.*does not contain --name.*default`},
		{args: "--initial-cluster=default=http://127.0.0.1:9999", code: 1, want: `--initial-cluster.*--initial-advertise-peer-urls`},
		{args: "--name=m0", env: "ETCD_NAME=m1", code: 1, want: `ETCD_NAME.*--name`},
		{args: "--config-file=" + config, code: 1, want: `heartbeat-interval.*"often"`},
		{args: "--config-file=/nonexistent", code: 1, want: `--config-file.*/nonexistent`},
	} {
		t.Run(c.args, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "data")
			if name, value, found := strings.Cut(c.env, "="); found {
				t.Setenv(name, value)
			}
			args := append(strings.Fields(c.args), "--data-dir="+dir)
			if strings.Contains(c.args, "--config-file") {
				args = strings.Fields(c.args)
			}
			run(t, upkeep(t), args...).says(t, c.code, c.want)
			if _, err := os.Stat(dir); err == nil {
				t.Errorf("%s was made all the same", dir)
			}
		})
	}
}

// TestPortInUse: the message names flag, port and the process that has it, be it for clients, peers or metrics.
func TestPortInUse(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	defer l.Close()
	port := l.Addr().(*net.TCPAddr).Port
	taken := fmt.Sprintf("http://127.0.0.1:%d", port)
	for _, flag := range []string{"listen-client-urls", "listen-peer-urls", "listen-metrics-urls", "listen-client-http-urls"} {
		m := proc.Prepare(t, upkeep(t), "m0", filepath.Join(t.TempDir(), "data"), peerURL(t), "--"+flag, taken)
		fails(t, m, fmt.Sprintf(`--%s http://127.0.0.1:%d: port %d is in use by process %d \(.*badinput`, flag, port, port, os.Getpid()))
	}
	t.Run("unix socket", func(t *testing.T) {
		socket := filepath.Join(t.TempDir(), "s")
		flags := []string{"--listen-client-urls", "unix://" + socket, "--advertise-client-urls", "unix://" + socket}
		first := proc.Prepare(t, upkeep(t), "m0", filepath.Join(t.TempDir(), "data"), peerURL(t), flags...)
		first.Launch()
		waitOutput(t, first, "ready to serve client requests")
		fails(t, proc.Prepare(t, upkeep(t), "m0", filepath.Join(t.TempDir(), "data"), peerURL(t), flags...),
			`--listen-client-urls unix://.*address already in use`)
		first.Kill() // leaves its socket behind
		again := proc.Prepare(t, upkeep(t), "m0", first.DataDir, first.PeerURL, flags...)
		again.Launch()
		waitOutput(t, again, "ready to serve client requests")
		again.Kill()
		check(t, os.Remove(socket))
		check(t, os.WriteFile(socket, []byte("precious"), 0o600))
		fails(t, proc.Prepare(t, upkeep(t), "m0", first.DataDir, first.PeerURL, flags...), `--listen-client-urls unix://.*address already in use`)
	})
	t.Run("twice the same", func(t *testing.T) {
		m := proc.Prepare(t, upkeep(t), "m0", filepath.Join(t.TempDir(), "data"), peerURL(t))
		m = proc.Prepare(t, upkeep(t), "m0", filepath.Join(t.TempDir(), "data"), peerURL(t), "--listen-metrics-urls", m.PeerURL,
			"--listen-peer-urls", m.PeerURL)
		fails(t, m, `--listen-metrics-urls .*given twice`)
	})
}
