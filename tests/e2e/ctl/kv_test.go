package ctl

import (
	"slices"
	"testing"
)

// formats runs each command line in every output format.
func formats(lines ...string) []step {
	var steps []step
	for _, line := range lines {
		for _, format := range []string{"simple", "json", "fields", "table", "protobuf", "bogus"} {
			steps = append(steps, step{args: line + " -w " + format})
		}
		steps = append(steps, step{args: line + " --hex"}, step{args: line + " --hex -w fields"}, step{args: line + " --hex -w json"})
	}
	return steps
}

func lines(lines ...string) []step {
	var steps []step
	for _, line := range lines {
		steps = append(steps, step{args: line})
	}
	return steps
}

// usages are mistakes that are answered with the usage of the command.
func usages(mistakes ...string) []step {
	steps := lines(mistakes...)
	for i := range steps {
		steps[i].usage = true
	}
	return steps
}

func TestPut(t *testing.T) {
	t.Parallel()
	compareHistories(t, 1, slices.Concat(
		lines(`put`, `put a`, `put a b c d`, `put a 1`, `put a 2 --prev-kv`, `put b x --lease=zz`, `put b x --lease=77`,
			`put a --ignore-value`, `put a v --ignore-value`, `put a v --ignore-lease --lease=3`, `put a v --ignore-lease`,
			`put nokey --ignore-value`, `put -- -k -v`, `put '' v`, `pu a b`, `get a -w json`),
		[]step{
			{args: `put b`, stdin: "from stdin\n"}, {args: `put a --ignore-value`, stdin: "x"}, {args: `get b`},
			{args: "put 'k\xff\x01\n' 'v\n\"q'"}, {args: `get k --prefix -w json`},
		},
		formats(`put a 3`, `put a 3 --prev-kv`, `get '' --prefix`),
		usages(`put -k -- -v`),
	))
}

func TestGet(t *testing.T) {
	t.Parallel()
	compareHistories(t, 1, slices.Concat(
		lines(`put a 1`, `put b 2`, `put a 3`, `put aa 2`, `put z 1`, `del z`),
		[]step{{args: "put 'k\xff\x01\n' 'v\n\"q'"}},
		lines(`get`, `get a b c`, `get a`, `get nokey`, `get '' --prefix`, `get a c`, `get a --prefix --from-key`, `get a b --prefix`,
			`get a b --from-key`, `get '' --from-key --limit 1`, `get '' --prefix --keys-only`, `get a --count-only`,
			`get a --count-only -w json`, `get '' --prefix --count-only -w fields`, `get a --count-only --keys-only`,
			`get a --print-value-only`, `get a --print-value-only -w fields`, `get a --print-value-only --keys-only`,
			`get a --print-value-only --hex`, `get a --keys-only --hex`,
			`get a --rev 2`, `get a --rev 1`, `get a --rev 1000000`, `get a --rev -1`, `get a --order=BAD`, `get a --order=descend`,
			`get a z --order=DESCEND`, `get a --sort-by=bad`, `get a --sort-by=version`, `get a z --sort-by=MODIFY --order=DESCEND`,
			`get a z --sort-by=CREATE`, `get a z --sort-by=VALUE --order=ASCEND`, `get a --consistency=x`, `get a --consistency=s`,
			`get a z --min-mod-rev 3 --max-mod-rev 4`, `get a z --min-create-rev 3 --max-create-rev 4`,
			`get a --stream`, `get a z --stream --order=DESCEND`, `get a z --stream --count-only -w fields`, `get a z --min-mod-rev 3 --stream`,
			`get a --command-timeout 0`, `get a --dial-timeout 0`, `get a --max-recv-bytes=3`, `get a --max-request-bytes=1`),
		formats(`get a z`, `get a z --limit 1`, `get nokey`, `get a z --keys-only`, `get a z --stream`, `get k --prefix`),
		usages(`get a --limit=x`, `get a --foo`, `get a --write-out`, `get a --command-timeout x`, `ge -z`),
	))
}

func TestDel(t *testing.T) {
	t.Parallel()
	compareHistories(t, 1, slices.Concat(
		lines(`del`, `del a b c`, `put a 1`, `put b 2`, `put c 3`, `put d 4`, `del a --prev-kv`, `del nokey`, `del b c`, `del b d --range --prev-kv`,
			`del b --prefix --from-key`, `del b c --prefix`, `del ''`, `del b --range`, `put a 1`, `put ab 2`, `del a --prefix --prev-kv`,
			`put a 1`, `put b 2`, `del '' --from-key`, `get '' --prefix -w json`),
		formats(`put a 3`, `del a --prev-kv`, `del a`, `del '' --prefix --prev-kv`),
		usages(`del a --foo`),
	))
}

func TestCompaction(t *testing.T) {
	t.Parallel()
	script := lines(`compaction`, `compaction 1 2`, `compaction x`, `compaction 99999`, `compaction -- -1`)
	for range 20 {
		script = append(script, step{args: `put k v`})
	}
	compareHistories(t, 1, slices.Concat(script,
		lines(`compaction 1`, `compaction 5`, `compaction 5`, `compact 6`, `comp 7`, `compaction 8 --physical`, `compaction 9 -w json`,
			`compaction 10 -w fields`, `compaction 11 -w table`, `compaction 12 -w protobuf`, `compaction 13 -w bogus`, `compaction 0`,
			`get k --rev 5`, `get k --rev 14`, `endpoint hashkv`, `endpoint hashkv --rev 12`),
		usages(`compaction -1`),
	))
}

func TestTxn(t *testing.T) {
	t.Parallel()
	script := lines(`put key1 v1`, `txn foo`)
	txn := func(stdin string, flags ...string) {
		st := step{args: `txn`, stdin: stdin}
		for _, flag := range flags {
			st.args += " " + flag
		}
		script = append(script, st)
	}
	mixed := "mod(\"key1\") > \"0\"\n\nput key1 over\nget key1\nget '' --prefix --print-value-only\nget key1 --keys-only\ndel zz\n\nput key1 new\n\n"
	for _, format := range []string{"simple", "json", "fields", "table", "protobuf", "bogus", "simple --hex", "fields --hex", "json --hex"} {
		txn(mixed, "-w "+format)
	}
	txn("value(\"key1\") = \"no\"\n\nput key1 a\n\nput key2 created --prev-kv\nput key1 z --prev-kv\ndel key1x --prev-kv\n\n")
	txn(mixed, "-i")
	txn("value(\"key1\") = \"0\"\n\n\n\n", "-i")
	txn("\nput a b\nput a c\n\n\n") // duplicate key
	txn("\nput a b\nput a c\n")     // no end
	txn("mod(\"a\") > \"0\"\n")
	txn("mod(\"a\") > \"0\"\n\n", "-i")
	for _, compare := range []string{
		`c("key1") < "10"`, `ver("key1") != "3"`, `val("key1") = "over"`, `version("key1") = "0"`,
		`create("key1") = "0"`, `m("key1") = "0"`, `ver(key1) != "3"`, `bad("key1") < "10"`, `bad(key1) < "10"`, `mod("key1")`,
		`mod("key1") < 10`, `mod("key1") < "x"`, `mod key1 < "1"`, `("key1") = "1"`, `value("key1") = abc`,
		`value("ke y1") = "a b"`, `value("key1) = "x"`, `value("key1")="x"`, `value("k\x20y") < "x\n"`, "mod(`key1`) = `1`", `foo`,
		`  mod("key1")   >   "0"  `,
	} {
		txn(compare + "\n\n\n\n")
	}
	for _, op := range []string{
		`put`, `put a`, `put a b c`, `put a "b c"`, `get`, `foo a`, `del`, `put a b --lease=zz`, `get a b c`, `get a --prefix`,
		`del a b --range`, `del a --prefix --from-key`, `put a b --prev-kv`, `watch a`, `put "a b" c`, `put 'x y' z`, `put "x\ny" "z\t"`,
		`put a "unclosed`, `put b "x"y`, `put e a"b c"`, `put f ''`, `put   g   "\"q\""  `, `get a --count-only`, `get a --sort-by=bad`,
		`put a b --ignore-lease`, `put a --ignore-value`, `compaction 1`, `txn`, `get '' --prefix --limit 2`,
	} {
		txn("\n" + op + "\n\n\n")
	}
	script = append(script, step{args: `get '' --prefix -w json`})
	for _, op := range []string{`put a b --foo`, `get a --hex`} {
		script = append(script, step{args: `txn`, stdin: "\n" + op + "\n\n\n", usage: true})
	}
	compareHistories(t, 1, script)
}

// What etcdctl panics over is an error of ours, exit code 3, or works: leases
// are compared by their hexadecimal ID.
func TestTxnWhereEtcdctlPanics(t *testing.T) {
	t.Parallel()
	at := freeAddresses(t, 1)
	startEtcd(t, at)
	s := newSession(t, upkeepctl, "ETCDCTL_ENDPOINTS="+at.endpoints())
	s.run(step{args: `lease grant 100`, capture: `lease (?P<LEASE>[0-9a-f]+) granted`})
	s.run(step{args: `put k v --lease=$LEASE`})
	r := s.run(step{args: `txn`, stdin: `lease("k") = "` + s.captured["LEASE"] + "\"\nlease(\"none\") = \"0\"\n\n\n\n"})
	if (r != result{stdout: "SUCCESS\n"}) {
		t.Errorf("comparing a lease: %s", r)
	}
	s = newSession(t, upkeepctl, "ETCDCTL_ENDPOINTS=127.0.0.1:1")
	for _, compare := range []string{`mod("k") ~ "1"`, `mod("k") >= "1"`, `lease("k") = "zz"`} {
		r := s.run(step{args: `txn`, stdin: compare + "\n\n\n\n"})
		if r.code != 3 || r.stdout != "" || firstLine(r.stderr)[:7] != "Error: " {
			t.Errorf("%s: %s", compare, r)
		}
	}
}
