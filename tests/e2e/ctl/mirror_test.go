package ctl

import (
	"context"
	"os/exec"
	"strings"
	"testing"
	"time"
)

func TestMakeMirrorArguments(t *testing.T) {
	t.Parallel()
	compareHistories(t, 1, lines(`make-mirror`, `make-mirror a b`, `make-mirror 127.0.0.1:1 --prefix a --dest-prefix b --no-dest-prefix`,
		`make-mirror a -w bogus`, `make-mirror 127.0.0.1:1 --dest-cert=x`))
}

// TestMakeMirror: what both tools make of the same source is the same, in each form.
func TestMakeMirror(t *testing.T) {
	t.Parallel()
	from := freeAddresses(t, 1)
	startEtcd(t, from)
	source := newSession(t, upkeepctl, "ETCDCTL_ENDPOINTS="+from.endpoints())
	for _, line := range []string{`put a/1 x`, `put a/2 y`, `put b/1 z`, `del a/2`, `put a/3 'b  c'`} {
		source.run(step{args: line})
	}
	// Not compared: --prefix and --rev without --dest-prefix. There etcdctl drops the prefix, which it keeps without --rev.
	source.run(step{args: `txn`, stdin: "\nput a/t1 1\nput a/t2 2\ndel a/1\n\n\n"})
	for _, flags := range []string{``, `--prefix a/`, `--prefix a/ --dest-prefix d/`, `--prefix a/ --no-dest-prefix`, `--rev 4`,
		`--prefix a/ --dest-prefix d/ --rev 2 --max-txn-ops 1`, `--rev 1`, `--dest-prefix q/`, `--no-dest-prefix`} {
		var copies [2]string
		for i, program := range []string{peer(t, "etcdctl"), upkeepctl} {
			copies[i] = mirrored(t, source, program, flags)
		}
		if copies[0] != copies[1] {
			t.Errorf("make-mirror %s\n--- etcdctl:   %q\n--- upkeepctl: %q", flags, copies[0], copies[1])
		}
	}
}

// mirrored runs a mirror to a fresh cluster until the last change of the source is there, and returns what it has made.
func mirrored(t *testing.T, source *session, program, flags string) string {
	at := freeAddresses(t, 1)
	stop := startEtcd(t, at)
	defer stop()
	ctx, cancel := context.WithTimeout(t.Context(), stepDeadline)
	defer cancel()
	mirror := exec.CommandContext(ctx, program, source.words(`make-mirror `+flags+` `+at.endpoints())...)
	mirror.Env = append(mirror.Environ(), source.env...)
	if err := mirror.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		cancel()
		_ = mirror.Wait()
	}()
	dest := newSession(t, upkeepctl, "ETCDCTL_ENDPOINTS="+at.endpoints())
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		// A change of the source that comes last is the sign that all before it has arrived; it is then undone there.
		source.run(step{args: `put a/last ` + at.endpoints()})
		r := dest.run(step{args: `get '' --prefix --print-value-only`})
		if strings.Contains(r.stdout, at.endpoints()) {
			break
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("%s make-mirror %s: nothing arrived: %s", program, flags, r)
		}
	}
	return dest.mask(maskAddress(dest.run(step{args: `get '' --prefix`}).stdout))
}
