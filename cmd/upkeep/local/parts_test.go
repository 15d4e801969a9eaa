package local

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestParseOptions(t *testing.T) {
	for _, c := range []struct{ args, want string }{
		{"", ""},
		{"--members 5 --base-port=3000 -- --name x --members 9", ""},
		{"--help", "flag: help requested"},
		{"--member 5", "flag provided but not defined: --member (flags of the members go after --)"},
		{"--members x", `invalid value "x" for flag --members: parse error (flags of the members go after --)`},
		{"--members 0", "--members must be 1 to 9 (set to 0)"},
		{"--members 10", "--members must be 1 to 9 (set to 10)"},
		{"--base-port 65530 --members 1", ""},
		{"--base-port 65530", "--base-port 65530 leaves no room for the ports of 3 members"},
		{"--color sometimes", `--color "sometimes" must be auto, always or never`},
		{"--quota-backend-bytes=1", "flag provided but not defined: --quota-backend-bytes (flags of the members go after --)"},
		{"three", `"three" is not a flag of upkeep local; flags of the members go after --`},
	} {
		_, err := parseOptions(strings.Fields(c.args))
		got := ""
		if err != nil {
			got = err.Error()
		}
		if got != c.want {
			t.Errorf("%s: %q, want %q", c.args, got, c.want)
		}
	}
}

func TestSpecs(t *testing.T) {
	o, err := parseOptions(strings.Fields("--data-dir d -- --pre-vote=false"))
	if err != nil {
		t.Fatal(err)
	}
	specs := o.specs()
	want := "--name=m2 --data-dir=d/m2 --listen-client-urls=http://127.0.0.1:2389 --advertise-client-urls=http://127.0.0.1:2389 " +
		"--listen-peer-urls=http://127.0.0.1:2390 --initial-advertise-peer-urls=http://127.0.0.1:2390 " +
		"--initial-cluster=m1=http://127.0.0.1:2380,m2=http://127.0.0.1:2390,m3=http://127.0.0.1:2400 --initial-cluster-token=upkeep-local " +
		"--log-format=json --log-outputs=stderr --pre-vote=false"
	if got := strings.Join(specs[1].args, " "); len(specs) != 3 || got != want {
		t.Errorf("second of %d members is started with\n%s, want\n%s", len(specs), got, want)
	}
}

func TestCheckExtra(t *testing.T) {
	for _, c := range []struct{ extra, environ, want string }{
		{"", "", ""},
		{"--quota-backend-bytes=1 --log-format=console --auto-compaction-retention=1", "ETCD_SNAPSHOT_COUNT=5", ""},
		{"--nosuch", "", "flag provided but not defined: --nosuch"},
		{"--name=x", "", "--name is set by upkeep local itself"},
		{"--data-dir=/", "", "--data-dir is set by upkeep local itself"},
		{"--listen-metrics-urls=http://127.0.0.1:1", "", "--listen-metrics-urls is set by upkeep local itself"},
		{"--config-file=/dev/null", "", "--config-file cannot be used with upkeep local: all members would read the same names and ports from it"},
		{"--version", "", "--help and --version are not for members; see upkeep --help"},
		{"", "ETCD_NAME=x", "conflicting environment variable ETCD_NAME is shadowed by corresponding command-line flag --name (either unset environment variable or disable flag)"},
		{"--heartbeat-interval=900", "", "--election-timeout[1000ms] should be at least as 5 times as --heartbeat-interval[900ms]"},
	} {
		o := &options{members: 3, basePort: 2379, dataDir: "d", extra: strings.Fields(c.extra)}
		got := ""
		if err := checkExtra(o.specs(), strings.Fields(c.environ)); err != nil {
			got = err.Error()
		}
		if got != c.want {
			t.Errorf("%s %s: %q, want %q", c.environ, c.extra, got, c.want)
		}
	}
	if got := memberEnv([]string{"A=1", "ETCD_CONFIG_FILE=x"}); len(got) != 1 {
		t.Errorf("members get %v", got)
	}
}

func TestDataDir(t *testing.T) {
	dir := t.TempDir()
	open := func(o *options) (func(), error) {
		last, err := planDir(o)
		if err != nil {
			return nil, err
		}
		return prepareDir(o, last)
	}
	o := &options{members: 4, basePort: 3000, dataDir: filepath.Join(dir, "a", "b")}
	release, err := open(o)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := open(&options{dataDir: o.dataDir, fresh: true, members: 3}); err == nil || !strings.Contains(err.Error(), "in use by another upkeep local") {
		t.Errorf("second use at once: %v", err)
	}
	release()
	for _, name := range []string{"m1/x", "m4/x", "kept/x"} {
		if err := os.MkdirAll(filepath.Join(o.dataDir, name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	again := &options{members: 3, basePort: 2379, dataDir: o.dataDir}
	if release, err = open(again); err != nil || again.members != 4 || again.basePort != 3000 {
		t.Fatalf("second run: %+v, %v", again, err)
	}
	release()
	fresh := &options{members: 1, basePort: 2379, dataDir: o.dataDir, fresh: true}
	if release, err = open(fresh); err != nil {
		t.Fatal(err)
	}
	release()
	for name, want := range map[string]bool{"m1": false, "m4": false, "kept": true} {
		if _, err := os.Stat(filepath.Join(o.dataDir, name)); (err == nil) != want {
			t.Errorf("%s after --fresh: %v", name, err)
		}
	}
	if last, err := readLayout(o.dataDir); err != nil || last.Members != 1 || last.BasePort != 2379 {
		t.Errorf("layout after --fresh: %+v, %v", last, err)
	}
	if _, err := planDir(&options{dataDir: dir, fresh: true}); err == nil || !strings.Contains(err.Error(), "was not made by upkeep local") {
		t.Errorf("a directory of somebody else's: %v", err)
	}
}

func TestCheckPortsNamesPortAndProcess(t *testing.T) {
	o := testOptions(t, 2)
	l, err := net.Listen("tcp", o.specs()[1].peerAddress())
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	err = checkPorts(o.specs())
	if err == nil || !strings.Contains(err.Error(), "member m2: port "+strings.Split(l.Addr().String(), ":")[1]+" is in use by this process") {
		t.Errorf("got %v", err)
	}
}

func TestShorten(t *testing.T) {
	t.Setenv("TZ", "UTC")
	for _, c := range []struct{ line, want string }{
		{`{"level":"info","ts":"x","caller":"a/b.go:1","msg":"ready to serve client requests"}`, `x ready to serve client requests`},
		{`{"level":"warn","ts":"x","logger":"raft","msg":"slow","took":"1.2s","n":12345678901234567,"list":["a", "b"],"text":"two words","stacktrace":"s"}`,
			`x WARN raft: slow took=1.2s n=12345678901234567 list=["a","b"] text="two words"`},
		{`{"level":"fatal","ts":"x","msg":"m","error":"line\nline"}`, `x FATAL m error=line⏎line`},
		{`{"level":"debug","ts":"x","msg":"m","long":"` + strings.Repeat("a", 300) + `"}`, `x DEBUG m long=` + strings.Repeat("a", 200) + `…`},
		{`{"level":"info","ts":"x","msg":"m","a":"` + strings.Repeat("é", 90) + `","b":"` + strings.Repeat("b", 90) + `"}`, `x m a=` + strings.Repeat("é", 90) + ` b=` + strings.Repeat("b", 54) + `…`},
		{`{"level":"error","ts":"x","msg":"m","a":"` + strings.Repeat("a", 150) + `","b":"` + strings.Repeat("b", 150) + `"}`, `x ERROR m a=` + strings.Repeat("a", 150) + ` b=` + strings.Repeat("b", 150)},
		{`panic: oh`, `panic: oh`},
		{`{"no":"message"}`, `{"no":"message"}`},
		{`{"msg":"cut`, `{"msg":"cut`},
		{``, ``},
	} {
		if got := shorten(palette{}, c.line); got != c.want {
			t.Errorf("%s\n  %s, want\n  %s", c.line, got, c.want)
		}
	}
	if got := shortTime("2026-01-02T10:04:05.123456Z"); len(got) != len("10:04:05.123") || !strings.HasSuffix(got, ":05.123") {
		t.Errorf("time is %q", got)
	}
}
