package ctl

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// bothTools returns sessions of both tools against one three-member cluster with some data.
func bothTools(t *testing.T) (at addresses, theirs, ours *session) {
	at = freeAddresses(t, 3)
	startEtcd(t, at)
	theirs = newSession(t, peer(t, "etcdctl"))
	ours = newSession(t, upkeepctl)
	for _, key := range []string{"a", "b", "c"} {
		ours.run(step{args: `--endpoints=` + at.client[0] + ` put ` + key + ` value`})
	}
	return at, theirs, ours
}

func TestEndpoint(t *testing.T) {
	t.Parallel()
	at, theirs, ours := bothTools(t)
	all := `--endpoints=` + at.endpoints()
	one := `--endpoints=` + at.client[0]
	dead := ` --endpoints=` + at.client[0] + `,127.0.0.1:1 --command-timeout 300ms `
	var steps []step
	for _, command := range []string{`endpoint status`, `endpoint hashkv`} {
		steps = append(steps, formats(all+` `+command)...)
	}
	for _, command := range []string{`alarm list`, `member list`} { // who answers is in the header
		steps = append(steps, formats(one+` `+command)...)
	}
	steps = append(steps, formats(one+` endpoint health`)...)
	for _, command := range []string{`health`, `status`, `hashkv`} {
		for _, format := range []string{"simple", "json", "fields", "table"} {
			steps = append(steps, step{args: dead + `endpoint ` + command + ` -w ` + format})
		}
		steps = append(steps, lines(one+` endpoint `+command+` x`, `--endpoints=127.0.0.1:1 --command-timeout 300ms endpoint `+command+` --cluster`)...)
	}
	steps = append(steps, lines(
		one+` endpoint status --cluster`, one+` endpoint hashkv --cluster`, one+` endpoint hashkv --rev 2`, one+` endpoint hashkv --rev 3000 -w json`,
		one+` endpoint hashkv --rev 3000 -w fields`, one+` endpoint hashkv --rev 3000 -w table`, one+` endpoint hashkv --rev 3000`,
		one+` alarm list foo`, one+` alarm disarm foo`, one+` version foo -w bogus`, all+` defrag`, one+` defrag foo`, one+` defrag --cluster`,
		dead+` defrag`, one+` defrag -w bogus`)...)
	steps = append(steps, formats(one+` alarm disarm`)...)
	compareReads(t, theirs, ours, steps)
}

// Healthy endpoints of several come in no particular order from etcdctl.
func TestEndpointHealthOfAll(t *testing.T) {
	t.Parallel()
	at, theirs, ours := bothTools(t)
	sorted := func(s *session, args string) string {
		st := step{args: args}
		out := strings.Split(s.masked(st, s.run(st)).stdout, "\n")
		slices.Sort(out)
		return strings.Join(out, "\n")
	}
	for _, args := range []string{`--endpoints=` + at.endpoints() + ` endpoint health`, `--endpoints=` + at.client[1] + ` endpoint health --cluster`} {
		if a, b := sorted(theirs, args), sorted(ours, args); a != b {
			t.Errorf("%s:\n--- etcdctl:\n%s\n--- upkeepctl:\n%s", args, a, b)
		}
	}
}

func TestGlobalOptions(t *testing.T) {
	t.Parallel()
	at, theirs, ours := bothTools(t)
	one := `--endpoints=` + at.client[0] + ` `
	endpoints := "ETCDCTL_ENDPOINTS=" + at.client[0]
	steps := lines(`--endpoints= get a`, one+`--cert= get a`, one+`--cert=x get a`, one+`--cert=x --key=y get a`, one+`--cacert= get a`,
		one+`--key= get a`, one+`--cacert=/nonexistent get a`, one+`--user= get a`, one+`--user=root:pw get a`, one+`--user=root --password=pw get a`,
		one+`--password=pw get a`, one+`--auth-jwt-token=abc get a`, one+`--keepalive-time=0 get a`,
		one+`--insecure-transport=false get a --command-timeout 300ms`, `--endpoints=127.0.0.1:1 --command-timeout 300ms get a`,
		`--endpoints=127.0.0.1:1 --command-timeout 300ms put a b`, `--endpoints=127.0.0.1:1 --command-timeout 300ms member list`,
		`--endpoints=127.0.0.1:1 --command-timeout 300ms alarm list`, `--endpoints=127.0.0.1:1 --command-timeout 300ms lease revoke 1`,
		`--endpoints=127.0.0.1:1 --command-timeout 300ms move-leader 1`, `--endpoints=a,,b --command-timeout 300ms get a`,
		`--endpoints=http:// --command-timeout 300ms get a`, `--endpoints=127.0.0.1:1,`+at.client[0]+` get a`)
	for _, env := range []string{
		"ETCDCTL_WRITE_OUT=json", "ETCDCTL_FOO=x", "ETCDCTL_API=3", "ETCDCTL_HEX=maybe", "ETCDCTL_HEX=true", "ETCDCTL_PREFIX=true",
		"ETCDCTL_COMMAND_TIMEOUT=1s", "ETCDCTL_COMMAND_TIMEOUT=nonsense", "ETCDCTL_WRITE_OUT=bogus", "ETCDCTL_CERT=x",
	} {
		steps = append(steps, step{args: `get a`, env: []string{endpoints, env}})
	}
	steps = append(steps, step{args: one + `get a`, env: []string{endpoints}}, step{args: `get a -w json`, env: []string{endpoints, "ETCDCTL_WRITE_OUT=json"}})
	compareReads(t, theirs, ours, steps)

	// Log lines are masked above; the warnings must be there all the same.
	r := ours.run(step{args: `get a`, env: []string{endpoints, "ETCDCTL_FOO=x"}})
	if !strings.Contains(r.stderr, `"unrecognized environment variable","environment-variable":"ETCDCTL_FOO=x"`) {
		t.Errorf("no warning of an unknown variable: %s", r)
	}
	r = ours.run(step{args: one + `get a`, env: []string{endpoints}})
	if !strings.Contains(r.stderr, "conflicting environment variable") || r.code != 1 {
		t.Errorf("a flag beside its variable: %s", r)
	}
	r = ours.run(step{args: `get a`, env: []string{endpoints, "UPKEEPCTL_WRITE_OUT=fields", "ETCDCTL_WRITE_OUT=json"}})
	if !strings.HasPrefix(r.stdout, `"ClusterID"`) {
		t.Errorf("our own variable should win: %s", r)
	}
	r = ours.run(step{args: `--debug get a`, env: []string{endpoints}})
	for _, want := range []string{"ETCDCTL_ENDPOINTS=[" + at.client[0] + "]\n", "ETCDCTL_WRITE_OUT=simple\n", "ETCDCTL_DIAL_TIMEOUT=2s\n"} {
		if !strings.Contains(r.stderr, want) {
			t.Errorf("--debug does not show %q", want)
		}
	}
}

var flagName = regexp.MustCompile(`(?m)^ {2,6}(-\w, )?--([a-z-]+)( \w+)?`)

func flagsIn(help string) []string {
	var flags []string
	for _, match := range flagName.FindAllStringSubmatch(help, -1) {
		flags = append(flags, match[1]+match[2]+match[3])
	}
	slices.Sort(flags)
	return flags
}

var commandName = regexp.MustCompile(`(?m)^  ([a-z-]+) +\S`)

// Every command of etcdctl and etcdutl, and every one below those, is there.
func TestCommandsAreAllThere(t *testing.T) {
	t.Parallel()
	names := func(s *session, path string) []string {
		help := s.run(step{args: path + ` --help`}).stdout
		help, _, _ = strings.Cut(help, "\nFlags:")    // what follows looks like commands here and there
		_, help, _ = strings.Cut(help, "[command]\n") // a command without others below it has none
		var all []string
		for _, match := range commandName.FindAllStringSubmatch(help, -1) {
			if !program.MatchString(match[1]) { // an example
				all = append(all, match[1])
			}
		}
		return all
	}
	ours := newSession(t, upkeepctl)
	for _, tool := range []string{"etcdctl", "etcdutl"} {
		theirs, seen := newSession(t, peer(t, tool)), 0
		var walk func(path string)
		walk = func(path string) {
			here := names(ours, path)
			for _, name := range names(theirs, path) {
				if seen++; !slices.Contains(here, name) {
					t.Errorf("%s%s %s: not among %v", tool, path, name, here)
					continue
				}
				if name != "help" && strings.Count(path, " ") < 1 {
					walk(path + " " + name)
				}
			}
		}
		walk("")
		if seen < 7 {
			t.Errorf("only %d commands of %s found", seen, tool)
		}
	}
}

// Help is in our own words, but every flag of etcdctl and etcdutl must be
// there with its shorthand and type.
func TestFlags(t *testing.T) {
	t.Parallel()
	for tool, commands := range map[string][]string{
		"etcdctl": {"options", "put --help", "get --help", "del --help", "txn --help", "compaction --help", "watch --help", "lease --help",
			"lease grant --help", "lease revoke --help", "lease timetolive --help", "lease list --help", "lease keep-alive --help",
			"member --help", "member add --help", "member remove --help", "member update --help", "member promote --help",
			"member list --help", "endpoint --help", "endpoint health --help", "endpoint status --help", "endpoint hashkv --help",
			"alarm --help", "alarm list --help", "alarm disarm --help", "defrag --help", "snapshot --help", "snapshot save --help",
			"move-leader --help", "version --help", "completion --help", "auth enable --help", "auth status --help", "user add --help",
			"user get --help", "user passwd --help", "user list --help", "role grant-permission --help", "role revoke-permission --help",
			"role get --help", "lock --help", "elect --help", "make-mirror --help", "check perf --help", "check datascale --help",
			"downgrade validate --help", "downgrade enable --help", "downgrade cancel --help"},
		"etcdutl": {"snapshot status --help", "snapshot restore --help", "hashkv --help", "defrag --help"},
	} {
		theirs, ours := newSession(t, peer(t, tool)), newSession(t, upkeepctl)
		for _, command := range commands {
			a, b := theirs.run(step{args: command}), ours.run(step{args: command})
			if b.code != 0 || b.stderr != "" {
				t.Errorf("%s: %s", command, b)
			}
			for _, flag := range flagsIn(a.stdout) {
				if flag == "-w, write-out string" || flag == "timeout duration" && !strings.Contains(b.stdout, "timeout") {
					continue // global in etcdutl
				}
				if !slices.Contains(flagsIn(b.stdout), flag) {
					t.Errorf("%s %s: no %s in %v", tool, command, flag, flagsIn(b.stdout))
				}
			}
		}
	}
}

func TestCommandNames(t *testing.T) {
	t.Parallel()
	theirs, ours := newSession(t, peer(t, "etcdctl")), newSession(t, upkeepctl)
	steps := lines(`completion`, `completion foo`, `completion bash zsh`, `foo`, `ge --foo`, `--foo`, `lease --foo`, `alarm list --foo`)
	for i := range steps {
		steps[i].usage = true
	}
	compareReads(t, theirs, ours, steps)
	for _, args := range []string{``, `help`, `help get`, `--help`, `lease`, `auth`, `user`, `role bad`, `downgrade`, `member bad`, `snapshot`, `snapshot foo`, `options`,
		`completion bash`, `completion zsh`, `completion fish`, `completion powershell`, `version`} {
		a, b := theirs.run(step{args: args}), ours.run(step{args: args})
		if a.code != b.code || b.stdout == "" || a.stderr != b.stderr {
			t.Errorf("%s\n--- etcdctl: exit %d, stderr %q\n--- upkeepctl: %s", args, a.code, a.stderr, b)
		}
	}
}

func TestVersionLines(t *testing.T) {
	t.Parallel()
	r := newSession(t, upkeepctl).run(step{args: `version`})
	if !regexp.MustCompile(`^upkeepctl version: \S+\nAPI version: 3\.7\n$`).MatchString(r.stdout) {
		t.Errorf("version: %s", r)
	}
}

func TestSnapshot(t *testing.T) {
	t.Parallel()
	at, theirs, ours := bothTools(t)
	one, all := `--endpoints=`+at.client[0]+` `, `--endpoints=`+at.endpoints()+` `
	compareReads(t, theirs, ours, lines(one+`snapshot save`, one+`snapshot save a b`, all+`snapshot save $DIR/all.db`, one+`snapshot save $DIR/db`,
		one+`snapshot save $DIR/db2 -w json`, one+`snapshot save $DIR/db3 -w bogus`, one+`snapshot save /nonexistent/db`,
		`--endpoints=127.0.0.1:1 --command-timeout 300ms snapshot save $DIR/x.db`))
	for _, s := range []*session{theirs, ours} {
		left, err := os.ReadDir(s.dir)
		if err != nil || len(left) != 2 {
			t.Errorf("%s left %v (%v)", s.program, left, err)
		}
	}

	// Files with the same name in the same place, for the tools that work on files.
	file := filepath.Join(ours.dir, "db")
	theirs, ours = newSession(t, peer(t, "etcdutl")), newSession(t, upkeepctl)
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	damaged := bytes.Clone(content)
	damaged[9000] ^= 0xff
	for name, content := range map[string][]byte{"db": content, "damaged": damaged, "raw": content[:len(content)-32]} {
		for _, s := range []*session{theirs, ours} {
			if err := os.WriteFile(filepath.Join(s.dir, name), content, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	restore := `snapshot restore $DIR/db --data-dir $DIR/`
	compareReads(t, theirs, ours, slices.Concat(
		formats(`snapshot status $DIR/raw`, `hashkv $DIR/raw`)[:6], formats(`hashkv $DIR/raw`)[:6],
		lines(`snapshot status`, `snapshot status /nonexistent`, `hashkv /nonexistent`, `hashkv $DIR/raw --rev 2`, `hashkv $DIR/raw --rev 99`,
			`snapshot restore`, `snapshot restore a b`, `snapshot restore /nonexistent --data-dir $DIR/none`, restore+`x --bump-revision 3`,
			restore+`x --mark-compacted`, restore+`x --name foo`, restore+`x --wal-dir $DIR`,
			restore+`x --initial-advertise-peer-urls http://127.0.0.1:9999`,
			restore+`one`, restore+`one`, restore+`bumped --bump-revision 1000 --mark-compacted`, `hashkv $DIR/one/member/snap/db`,
			`snapshot status $DIR/one/member/snap/db`, `defrag --data-dir $DIR/one`, `defrag --data-dir /nonexistent`,
			`snapshot restore $DIR/raw --data-dir $DIR/raw1`, `snapshot restore $DIR/raw --data-dir $DIR/raw1 --skip-hash-check`,
			`snapshot restore $DIR/damaged --data-dir $DIR/damaged1`),
		usages(`hashkv`, `hashkv a b`),
	))
	checkOwnFileCommands(t, ours)
	startRestored(t, ours)
}

// checkOwnFileCommands are those that etcd's tools do not have.
func checkOwnFileCommands(t *testing.T, s *session) {
	expect := func(args string, code int, stdout string) {
		t.Helper()
		r := s.run(step{args: args})
		if r.code != code || s.mask(r.stdout) != stdout {
			t.Errorf("%s: %s", args, r)
		}
	}
	expect(`snapshot verify $DIR/db`, 0, "<DIR>/db is a complete snapshot of revision 4\n")
	expect(`snapshot verify $DIR/damaged`, 1, "")
	expect(`snapshot verify $DIR/raw`, 1, "")
	expect(`check $DIR/db`, 0, "<DIR>/db is sound\n")
	expect(`check $DIR/nothing`, 1, "")
	expect(`snapshot restore $DIR/db --data-dir $DIR/past --to-revision 3`, 0, "")
	expect(`snapshot status $DIR/past/member/snap/db -w json`, 0, s.mask(s.run(step{args: `snapshot status $DIR/past/member/snap/db -w json`}).stdout))
	expect(`snapshot restore $DIR/db --data-dir $DIR/future --to-revision 99`, 1, "")
}

// startRestored runs etcd on a directory that upkeepctl restored to an older revision.
func startRestored(t *testing.T, s *session) {
	at := freeAddresses(t, 1)
	peerURL := "http://" + at.peer[0]
	r := s.run(step{args: `snapshot restore $DIR/db --data-dir $DIR/run --to-revision 3 --name m0 --initial-cluster m0=` + peerURL +
		` --initial-advertise-peer-urls ` + peerURL})
	if r.code != 0 {
		t.Fatalf("restore: %s", r)
	}
	cmd := exec.Command(peer(t, "etcd"), "--name", "m0", "--data-dir", filepath.Join(s.dir, "run"), "--log-level", "error",
		"--listen-client-urls", "http://"+at.client[0], "--advertise-client-urls", "http://"+at.client[0],
		"--listen-peer-urls", peerURL, "--initial-advertise-peer-urls", peerURL, "--initial-cluster", "m0="+peerURL)
	logs := &lockedBuffer{}
	cmd.Stderr = logs
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	waitHealthy(t, at.client[0], logs)
	got := s.run(step{args: `--endpoints=` + at.client[0] + ` get '' --prefix`})
	if got.stdout != "a\nvalue\nb\nvalue\n" {
		t.Errorf("restored to revision 3: %s", got)
	}
}
