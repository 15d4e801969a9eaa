package ctl

import (
	"fmt"
	"slices"
	"testing"
)

func TestLease(t *testing.T) {
	t.Parallel()
	grant := step{args: `lease grant 300`, capture: `lease (?P<LEASE>[0-9a-f]+) granted`}
	again := func(line string) []step { // a lease of its own for each format
		var steps []step
		for _, st := range formats(line) {
			steps = append(steps, step{args: `lease grant 400`, capture: `lease (?P<OTHER>[0-9a-f]+) granted`}, st)
		}
		return steps
	}
	compareHistories(t, 1, slices.Concat(
		lines(`lease`, `lease bad`, `lease list`, `lease list -w json`, `lease list -w fields`, `lease grant`, `lease grant 1 2`,
			`lease grant x`, `lease grant 99999999999`, `lease revoke`, `lease revoke a b`, `lease revoke zz`, `lease revoke 123`,
			`lease timetolive`, `lease timetolive a b`, `lease timetolive zz`, `lease keep-alive`, `lease keep-alive a b`,
			`lease keep-alive zz`, `lease keep-alive 123`, `lease keep-alive 123 --once`)[2:],
		[]step{grant},
		lines(`put foo 'b c' --lease=$LEASE`, `put foo3 bar --lease=0x$LEASE`, `get foo -w fields`,
			`get foo -w fields --hex`, `get foo -w json`, `put foo x --prev-kv -w fields --hex --ignore-lease`),
		formats(`lease timetolive 123`, `lease keep-alive $LEASE --once`, `lease list`, `lease timetolive $LEASE`,
			`lease timetolive $LEASE --keys`),
		[]step{{args: `lease keep-alive $LEASE`, until: "TTL(300)\n"}},
		again(`lease revoke $OTHER -w simple`)[:2],
		lines(`lease revoke $LEASE`, `get foo`, `lease list x`, `lease revoke 7b -w json`),
	))
}

// Every format of the commands that answer with a new lease.
func TestLeaseGrantFormats(t *testing.T) {
	t.Parallel()
	script := []step{
		{args: `lease grant 500 -w json`, capture: `"ID":(?P<NUMBER>\d+)`},
		{args: `lease grant 500 -w json --hex`, capture: `"ID":(?P<NUMBER>\d+)`},
		{args: `lease grant 500 -w fields`, capture: `"ID" : (?P<NUMBER>\d+)`},
		{args: `lease grant 500 -w fields --hex`, capture: `"ID" : (?P<LEASE>[0-9a-f]+)`},
		{args: `lease grant 500 -w table`}, {args: `lease grant 500 -w protobuf`}, {args: `lease grant 500 -w bogus`},
	}
	for _, format := range []string{"simple", "json", "fields", "table", "fields --hex", "bogus"} {
		script = append(script, step{args: `lease grant 400`, capture: `lease (?P<LEASE>[0-9a-f]+) granted`},
			step{args: `lease revoke $LEASE -w ` + format})
	}
	compareHistories(t, 1, script)
}

func TestMember(t *testing.T) {
	t.Parallel()
	port := 25000
	// An ID is made of the URLs and the second, so each member has URLs of its own.
	add := func(flags string) step {
		port += 2
		return step{args: fmt.Sprintf(`member add x --peer-urls=http://127.0.0.1:%d,http://127.0.0.1:%d --learner %s`, port, port+1, flags)}
	}
	find := step{args: `member list`, capture: `(?m)^(?P<NEW>[0-9a-f]+), unstarted`}
	script := slices.Concat(
		lines(`member list --consistency=s`, `member list foo`, `member add`, `member add x`, `member add x y`, `member add x --peer-urls=`,
			`member add x --peer-urls=foo`, `member promote`, `member promote zz`, `member promote 123`, `member update`,
			`member update zz --peer-urls=http://a:1`, `member update 123`, `member update 123 --peer-urls=http://127.0.0.1:25002`,
			`member remove`, `member remove zz`, `member remove 123`, `member remove 1 2`, `mem li`),
		formats(`member list`), // binary output as long as there is no ID made from the clock
		[]step{add(""), find},
		lines(`member list -w json`, `member list -w json --hex`, `member list -w fields`, `member list -w fields --hex`, `member list -w table`,
			`member promote $NEW`, `member update $NEW`),
	)
	for _, format := range []string{"simple", "json", "json --hex", "fields", "table"} {
		script = append(script, step{args: `member update $NEW --peer-urls=http://127.0.0.1:24000 -w ` + format})
	}
	script = append(script, step{args: `member remove $NEW`})
	for _, format := range []string{"json", "json --hex", "fields", "table"} {
		script = append(script, add("-w "+format), find, step{args: `member remove $NEW -w ` + format})
	}
	script = append(script, add("-w bogus"))
	for i := range script {
		script[i].unordered = true
	}
	compareHistories(t, 1, script)
}

func TestMoveLeader(t *testing.T) {
	t.Parallel()
	at := freeAddresses(t, 3)
	startEtcd(t, at)
	theirs := newSession(t, peer(t, "etcdctl"), "ETCDCTL_ENDPOINTS="+at.endpoints())
	ours := newSession(t, upkeepctl, "ETCDCTL_ENDPOINTS="+at.endpoints())
	find := func(s *session) {
		s.run(step{args: `endpoint status`, capture: `(?m)^[^,]+, (?P<LEADER>[0-9a-f]+), .* true, false, \d+, \d+`})
		s.run(step{args: `endpoint status`, capture: `(?m)^(?P<FOLLOWERAT>[^,]+), [0-9a-f]+, .* false, false, \d+, \d+`})
		s.run(step{args: `endpoint status`, capture: `(?m)^[^,]+, (?P<FOLLOWER>[0-9a-f]+), .* false, false, \d+, \d+`})
	}
	for _, line := range []string{
		`move-leader $LEADER`, `move-leader $LEADER -w json`, `move-leader $LEADER -w fields`, `move-leader $LEADER -w table`,
		`move-leader $LEADER -w protobuf`, `move-leader $FOLLOWER`, `move-leader $FOLLOWER -w json`,
	} {
		var results [2]result
		for i, s := range []*session{theirs, ours} {
			find(s)
			results[i] = s.masked(step{}, s.run(step{args: line}))
		}
		report(t, step{args: line}, results[0], results[1])
	}
	// Not through a follower.
	theirs = newSession(t, peer(t, "etcdctl"))
	ours = newSession(t, upkeepctl)
	for _, s := range []*session{theirs, ours} {
		s.env = []string{"ETCDCTL_ENDPOINTS=" + at.endpoints()}
		find(s)
		s.env = nil
	}
	compareReads(t, theirs, ours, lines(`--endpoints=$FOLLOWERAT move-leader $LEADER`))
}
