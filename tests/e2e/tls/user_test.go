package tls

import (
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/upkeep-kv/upkeep/tests/certs"
	"github.com/upkeep-kv/upkeep/tests/ports"
	"github.com/upkeep-kv/upkeep/tests/proc"
)

// volatile is what differs between two runs of etcdctl: the time of a log line, and the place it was written at.
var volatile = regexp.MustCompile(`"ts":"[^"]*"|"caller":"[^"]*"|"target":"[^"]*"|127\.0\.0\.1:\d+|0x[0-9a-f]+`)

var granted = regexp.MustCompile(`(?m)lease [0-9a-f]{16}|^[0-9a-f]{16}$`)

// With --client-cert-auth the common name of a client's certificate is its user; with --trusted-ca-file alone it is not.
// The same commands say the same on etcd and here.
func TestCommonNameIsUser(t *testing.T) {
	t.Parallel()
	ca := certs.NewAuthority(t, "ca")
	own := ca.Issue(t, certs.Spec{IPs: []string{"127.0.0.1"}})
	who := map[string]certs.Pair{}
	for _, name := range []string{"root", "alice", "mallory", ""} {
		who[name] = ca.Issue(t, certs.Spec{CommonName: name})
	}
	etcdctl := proc.Peer(t, "etcdctl")
	for name, flags := range map[string][]string{"client-cert-auth": {"--client-cert-auth"}, "authority alone": nil} {
		t.Run(name, func(t *testing.T) {
			transcript := func(program string) string {
				free := ports.Free(t, 2)
				m := proc.Prepare(t, program, "m0", filepath.Join(t.TempDir(), "m0"), "http://"+loopback(free[0]))
				address := loopback(free[1])
				m.Append("--listen-client-urls", "https://"+address+","+m.ClientURL, "--advertise-client-urls", "https://"+address,
					"--cert-file", own.CertFile, "--key-file", own.KeyFile, "--trusted-ca-file", ca.CertFile)
				m.Append(flags...)
				m.Restart()
				for _, set := range []string{
					"user add root:pw", "user grant-role root root", "user add alice --no-password", "role add r",
					"role grant-permission r readwrite a", "user grant-role alice r", "auth enable",
				} {
					ctl(t, etcdctl, 0, "", append([]string{"--endpoints", m.ClientURL}, strings.Fields(set)...)...)
				}
				var said strings.Builder
				for _, step := range [][2]string{
					{"alice", "put a 1"}, {"alice", "get a"}, {"alice", "put b 1"}, {"alice", "get a z"}, {"alice", "user list"},
					{"root", "put b 2"}, {"root", "user list"}, {"mallory", "get a"}, {"alice", "get b --user root:pw"},
					// A certificate without a name shows somebody, whom nothing is permitted to, and not nobody.
					{"", "put a 1"}, {"", "get a"}, {"", "del a"}, {"", "watch a"}, {"", "user list"}, {"", "user get alice"}, {"", "role get r"},
					{"", "lease grant 100"}, {"", "lease list"}, {"", "lease timetolive 77"}, {"", "lease revoke 77"},
					{"", "lease keep-alive 77 --once"}, {"", "compaction 2"}, {"", "alarm list"}, {"", "auth status"},
					{"", "move-leader 1"}, {"", "downgrade validate 3.6"}, {"", "get a --user root:pw"},
				} {
					args := with(credentials(ca, who[step[0]]), "--endpoints", "https://"+address)
					out, code := run(t, etcdctl, append(args, strings.Fields(step[1])...)...)
					fmt.Fprintf(&said, "%s: %s\n%d %s", step[0], step[1], code, volatile.ReplaceAllString(granted.ReplaceAllString(out, "lease ?"), "?"))
				}
				for _, name := range []string{"alice", ""} {
					client := &http.Client{Transport: &http.Transport{TLSClientConfig: ca.Client(t, who[name]), DisableKeepAlives: true}}
					resp, err := client.Post("https://"+address+"/v3/kv/range", "application/json", strings.NewReader(`{"key":"YQ=="}`))
					if err != nil {
						t.Fatal(err)
					}
					body, err := io.ReadAll(resp.Body)
					resp.Body.Close()
					if err != nil {
						t.Fatal(err)
					}
					fmt.Fprintf(&said, "%s: %s %s\n", name, resp.Status, strings.ReplaceAll(string(body), " ", ""))
				}
				return said.String()
			}
			want, got := transcript(proc.Peer(t, "etcd")), transcript(proc.Build(t, "upkeep"))
			here, there := strings.Split(got, "\n"), strings.Split(want, "\n")
			for i := range max(len(here), len(there)) {
				if i >= len(here) || i >= len(there) || here[i] != there[i] {
					t.Errorf("they differ from line %d on; here:\n%s\netcd:\n%s", i+1, strings.Join(here[min(i, len(here)):], "\n"),
						strings.Join(there[min(i, len(there)):], "\n"))
					break
				}
			}
			if allowed := "alice: put a 1\n0 OK"; strings.Contains(want, allowed) != (len(flags) > 0) {
				t.Errorf("etcd says:\n%s", want)
			}
		})
	}
}
