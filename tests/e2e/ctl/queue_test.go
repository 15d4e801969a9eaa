package ctl

import (
	"os/exec"
	"slices"
	"syscall"
	"testing"
)

func TestLockAndElect(t *testing.T) {
	t.Parallel()
	// Keys carry the lease that a session was granted, and revisions depend on when it ended: masked.
	held := func(args, until string) step {
		return step{args: args, until: until, queue: true}
	}
	script := slices.Concat(
		lines(`lock`, `lock l -w json -- true`, `lock l echo hi`, `lock l -- sh -c 'exit 7'`, `lock l /nonexistent`, `lock l false`, `lock l --ttl=-1 true`,
			`lock l --ttl=0 true`, `lock l4 -w bogus`, `lock l4 -w table`, `lock l5 -w table echo x`, `lo l sh -- -c 'exit 3'`,
			`elect`, `elect a b c`, `elect -l`, `elect e4 p -w table`, `elect e5`, `elect -l e p`, `elect e p -w bogus`),
		[]step{
			{args: `lock l cat`, stdin: "input"}, {args: `lock l -- sh -c 'echo $ETCD_LOCK_KEY $ETCD_LOCK_REV'`, queue: true},
			held(`lock m1`, "\n\n"), held(`lock m2 -w json`, "\n"), held(`lock m3 -w fields`, "\"Count\" : 1\n"), held(`lock m4 --hex`, "\n\n"),
			held(`elect n1 p`, "p\n"), held(`elect n2 p -w json`, "\n"), held(`elect n3 p -w fields`, "\"Count\" : 1\n"), held(`elect n4 p --hex`, "\\x70\n"),
			held(`elect -l n1`, "p\n"), held(`elect -l n2 -w json`, "\n"),
			{args: `lock l true`, env: []string{"ETCDCTL_COMMAND_TIMEOUT=1ms"}},
		},
		usages(`lock l sh -c 'exit 7'`, `lock l --ttl=x`, `elect --foo`),
	)
	compareHistories(t, 1, script)
}

// TestHeldUntilSignal: a signal gives a lock and a leadership back, for the next one who waits.
func TestHeldUntilSignal(t *testing.T) {
	t.Parallel()
	at := freeAddresses(t, 1)
	startEtcd(t, at)
	for _, args := range [][]string{{"lock", "l"}, {"elect", "l", "p"}} {
		for range 2 {
			cmd := exec.Command(upkeepctl, args...)
			cmd.Env = append(cmd.Environ(), "ETCDCTL_ENDPOINTS="+at.endpoints())
			seen := newWatchedOutput("\n")
			cmd.Stdout, cmd.Stderr = seen.stream(&seen.out), seen.stream(&seen.err)
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			<-seen.found
			_ = cmd.Process.Signal(syscall.SIGTERM)
			if err := cmd.Wait(); err != nil {
				t.Errorf("%v: %v", args, err)
			}
		}
	}
	s := newSession(t, upkeepctl, "ETCDCTL_ENDPOINTS="+at.endpoints())
	if r := s.run(step{args: `get '' --prefix`}); r.stdout != "" {
		t.Errorf("left over: %s", r)
	}
}

func TestDowngrade(t *testing.T) {
	t.Parallel()
	compareHistories(t, 1, slices.Concat(
		lines(`downgrade validate`, `downgrade validate 3.6 x`, `downgrade validate 3.5`, `downgrade validate bogus`, `downgrade validate ''`,
			`downgrade cancel x`, `downgrade enable`, `downgrade enable 3.5`, `downgrade enable 3.6 3.6`, `down validate 3.6`),
		formats(`downgrade validate 3.6`, `downgrade cancel`),
		lines(`downgrade enable 3.6`, `downgrade cancel`),
	))
}

func TestCheckLoad(t *testing.T) {
	t.Parallel()
	compareHistories(t, 1, lines(`check perf --load=bogus`, `check datascale --load=bogus -w json`, `put /etcdctl-check-perf/a 1`, `check perf`,
		`put /etcdctl-check-datascale/a 1`, `check datascale`, `put mine 1`, `check datascale --prefix mine`, `check perf --prefix mine -w bogus`,
		`del /etcdctl-check-datascale/a`, `check datascale --load s --auto-compact --auto-defrag --command-timeout 30s`,
		`get /etcdctl-check-datascale/ --prefix --keys-only`))
}
