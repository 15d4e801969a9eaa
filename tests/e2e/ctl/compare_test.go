package ctl

import (
	"fmt"
	"testing"
)

// masked is a result without what differs by nature.
func (s *session) masked(st step, r result) result {
	r.stdout, r.stderr = maskTimes(s.mask(r.stdout)), maskTimes(s.mask(r.stderr))
	if st.usage {
		r.stderr = firstLine(r.stderr)
	}
	if st.queue {
		r.stdout = maskQueue(r.stdout)
	}
	if st.unordered {
		r.stdout = unordered(r.stdout)
	}
	return r
}

func (r result) String() string {
	return fmt.Sprintf("exit %d\nstdout: %q\nstderr: %q", r.code, r.stdout, r.stderr)
}

func report(t *testing.T, st step, theirs, ours result) {
	t.Helper()
	if theirs != ours {
		t.Errorf("%s  (stdin %q, env %q)\n--- etcd's tool: %s\n--- upkeepctl:   %s", st.args, st.stdin, st.env, theirs, ours)
	}
}

// compareHistories runs a script with etcdctl on a fresh cluster, then with
// upkeepctl on another that has the same addresses.
func compareHistories(t *testing.T, members int, script []step) {
	theirProgram := peer(t, "etcdctl")
	at := freeAddresses(t, members)
	play := func(program string) []result {
		stop := startEtcd(t, at)
		defer stop()
		s := newSession(t, program, "ETCDCTL_ENDPOINTS="+at.endpoints())
		results := make([]result, len(script))
		for i, st := range script {
			results[i] = s.run(st)
		}
		// Masked only now, when all IDs that occur are known.
		for i, st := range script {
			results[i] = s.masked(st, results[i])
		}
		return results
	}
	theirs, ours := play(theirProgram), play(upkeepctl)
	for i, st := range script {
		report(t, st, theirs[i], ours[i])
	}
}

// compareReads runs each step with both tools in turn. A step must not change
// anything; when the answer was changing by itself, such as the size of a file
// that the server was writing, both are asked again.
func compareReads(t *testing.T, theirs, ours *session, steps []step) {
	t.Helper()
	for _, st := range steps {
		var a, b result
		for range 3 {
			a, b = theirs.masked(st, theirs.run(st)), ours.masked(st, ours.run(st))
			if a == b {
				break
			}
		}
		report(t, st, a, b)
	}
}
