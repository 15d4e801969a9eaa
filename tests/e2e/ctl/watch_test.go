package ctl

import (
	"slices"
	"testing"
)

// Watches start at a revision of the past, so that what they print does not
// depend on when they begin.
func TestWatch(t *testing.T) {
	t.Parallel()
	script := slices.Concat(
		lines(`put w 1`, `put w 2`, `del w`, `put wx 3`, `put x 4`, `put w 5`),
		[]step{{args: "put wquote 'a b\n\"q\"'"}, {args: `put wlast end`}},
		lines(`watch`, `watch w wz --prefix`, `watch w --`, `watch -- echo`, `watch w a`, `watch --rev -1 w`, `watch w --prefix -w bogus`,
			`watch w echo -- b -- c`),
	)
	until := func(text, args string, env ...string) {
		script = append(script, step{args: args, until: text, env: env})
	}
	for _, flags := range []string{"", " --prev-kv", " --hex", " --hex --prev-kv", " --progress-notify"} {
		last := "end\n"
		if flags[min(len(flags), 3):min(len(flags), 6)] == "hex" {
			last = `\x65\x6e\x64`
		}
		until(last, `watch w --prefix --rev 2`+flags)
	}
	until(`d2xhc3Q=`, `watch w --prefix --rev 2 -w json`)
	until(`d2xhc3Q=`, `watch w --prefix --rev 2 -w json --prev-kv`)
	until("\"Value\" : \"end\"\n\"Lease\" : 0\n", `watch w --prefix --rev 2 -w fields --prev-kv`)
	until("\"Value\" : \"end\"\n\"Lease\" : 0000000000000000\n", `watch w --prefix --rev 2 -w fields --hex`)
	until("wlast", `watch w --prefix --rev 2 -w protobuf`)
	script = append(script, step{args: `watch w --prefix --rev 2 -w table`})
	until("end\n", `watch w x --rev 2`)
	until("end\n", `watch wlast wz c --rev 2`) // with too many arguments the range is dropped without a word
	until("wlast\"\n", `watch w x --rev 2 -- sh -c 'echo $ETCD_WATCH_REVISION $ETCD_WATCH_EVENT_TYPE $ETCD_WATCH_VALUE $ETCD_WATCH_KEY'`)
	script = append(script, lines(`watch w --rev 2 -- false`, `watch w --rev 2 -- /nonexistent/program`)...)
	until("end\n", `watch --rev 9`, "ETCDCTL_WATCH_KEY=wlast")
	until("end\n", `watch --rev 2`, "ETCDCTL_WATCH_KEY=w", "ETCDCTL_WATCH_RANGE_END=wz")
	until("end\nhi\n", `watch --rev 9 -- echo hi`, "ETCDCTL_WATCH_KEY=wlast")
	script = append(script, []step{
		{args: `watch w`, env: []string{"ETCDCTL_WATCH_KEY=w"}},
		{args: `watch a`, env: []string{"ETCDCTL_WATCH_RANGE_END=w"}},
		{args: `watch echo hi`, env: []string{"ETCDCTL_WATCH_KEY=w"}},
		{args: `compaction 5`}, {args: `watch w --rev 2`}, {args: `watch w --rev 2 -w json`}, {args: `watch w --rev 2 -w fields`},
	}...)
	compareHistories(t, 1, script)
}

func TestWatchInteractively(t *testing.T) {
	t.Parallel()
	script := lines(`put w 1`, `put w 2`, `put wx 3`, `put w last`)
	interactive := func(stdin, until string, env ...string) {
		script = append(script, step{args: `watch -i`, stdin: stdin, until: until, env: env})
	}
	interactive("watch w --rev 2\n", "last\n")
	interactive("watch w --rev 2 --prefix --prev-kv\n", "last\n")
	interactive("watch 'w' wz --rev 2\n", "last\n")
	interactive("watch \"w\" --rev 2 -- sh -c 'echo did $ETCD_WATCH_VALUE'\n", "did \"last\"\n")
	interactive("watch --rev 2\n", "last\n", "ETCDCTL_WATCH_KEY=w")
	interactive("\nwatch w --rev 2\n", "last\n")
	for _, refused := range []string{
		"foo\n", "foo bar\n", "watch\n", "watch --foo w\n", "progress\n", "progress foo\n", "watch -- echo\n", "watch w --\n",
		"watch w x --prefix\n", "watch w -w json\n", "\n", "   \n",
	} {
		script = append(script, step{args: `watch -i`, stdin: refused})
	}
	script = append(script, step{args: `watch -i -w json`, stdin: "watch w --rev 2\n", until: "bGFzdA=="})
	script = append(script, step{args: `watch -i w`, stdin: "watch w --rev 5\n", until: "last\n"}, step{args: `watch -i`})
	compareHistories(t, 1, script)
}

// Progress is only asked for once the watch delivered its history, which makes
// it the last line.
func TestWatchProgress(t *testing.T) {
	t.Parallel()
	at := freeAddresses(t, 1)
	startEtcd(t, at)
	for _, program := range []string{peer(t, "etcdctl"), upkeepctl} {
		s := newSession(t, program, "ETCDCTL_ENDPOINTS="+at.endpoints())
		r := s.run(step{args: `watch -i`, stdin: "watch nokey\nprogress\n", until: "progress notify: 1\n"})
		if r.code != 3 || r.stdout != "progress notify: 1\n" {
			t.Errorf("%s: %s", program, r)
		}
	}
}
