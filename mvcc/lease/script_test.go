package lease

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/datadriven"
)

// script runs the commands of testdata scripts against one lessor, in virtual time:
//
//	open [checkpoint] [persist] [min=N]   a new disk and lessor
//	reopen                                the same disk
//	reload
//	grant id=N ttl=N; remove id=N; checkpoint id=N left=N
//	attach key=k id=N; detach key=k id=N; keys id=N
//	promote [extend=duration]; demote
//	renew id=N [background]; renewed      the answer of a renewal in the background
//	ttl id=N [keys]; list
//	sleep d=duration
//	expired; checkpoints                  what is offered now
//	disk
type script struct {
	disk    disk
	cfg     Config
	lessor  *Lessor
	renewed chan string
}

func TestScripts(t *testing.T) {
	for _, file := range []string{"lifecycle", "leader", "checkpoints"} {
		t.Run(file, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				sc := &script{renewed: make(chan string, 10)}
				defer func() { sc.lessor.Close() }()
				datadriven.RunTest(t, "testdata/"+file, sc.run)
			})
		})
	}
}

func (sc *script) run(t *testing.T, d *datadriven.TestData) string {
	var id, n int64
	for _, arg := range []string{"ttl", "left", "min"} {
		optional(t, d, arg, &n)
	}
	optional(t, d, "id", &id)
	out := sc.command(t, d, id, n)
	synctest.Wait()
	if err := sc.lessor.valid(); err != nil {
		d.Fatalf(t, "%v", err)
	}
	return out
}

func (sc *script) command(t *testing.T, d *datadriven.TestData, id, n int64) string {
	l := sc.lessor
	switch d.Cmd {
	case "open":
		sc.disk = disk{}
		sc.cfg = Config{MinTTL: n, CheckpointEnabled: d.HasArg("checkpoint"), CheckpointPersist: d.HasArg("persist")}
		sc.reopen(t)
	case "reopen":
		sc.reopen(t)
	case "reload":
		return failure(l.Reload())
	case "grant":
		granted, err := l.Grant(sc.disk, id, n)
		if err != nil {
			return failure(err)
		}
		return fmt.Sprintf("%+v\n", *granted)
	case "remove":
		l.Remove(sc.disk, id)
	case "checkpoint":
		l.Checkpoint(sc.disk, id, n)
	case "attach":
		l.Attach(text(t, d, "key"), id)
	case "detach":
		l.Detach(text(t, d, "key"), id)
	case "keys":
		keys, err := l.Keys(id)
		return fmt.Sprintf("%v\n", keys) + failure(err)
	case "disk":
		return sc.disk.dump()
	default:
		return sc.leaderCommand(t, d, id)
	}
	return ""
}

func (sc *script) leaderCommand(t *testing.T, d *datadriven.TestData, id int64) string {
	l := sc.lessor
	switch d.Cmd {
	case "promote":
		l.Promote(duration(t, d, "extend"))
	case "demote":
		l.Demote()
	case "renew":
		if d.HasArg("background") {
			go func() { sc.renewed <- sc.renew(l, id) }()
			return ""
		}
		return sc.renew(l, id)
	case "renewed":
		select {
		case s := <-sc.renewed:
			return s
		default:
			return "waits\n"
		}
	case "ttl":
		info, err := l.TimeToLive(id, d.HasArg("keys"))
		if err != nil {
			return failure(err)
		}
		return fmt.Sprintf("%+v\n", info)
	case "list":
		return fmt.Sprintf("%v\n", l.List())
	case "sleep":
		time.Sleep(duration(t, d, "d"))
	case "expired":
		select {
		case ids := <-l.Expired():
			return fmt.Sprintf("%v\n", ids)
		default:
			return "none\n"
		}
	case "checkpoints":
		select {
		case due := <-l.DueCheckpoints():
			slices.SortFunc(due, func(a, b Checkpoint) int { return int(a.ID - b.ID) })
			return fmt.Sprintf("%+v\n", due)
		default:
			return "none\n"
		}
	default:
		d.Fatalf(t, "unknown command")
	}
	return ""
}

func (sc *script) reopen(t *testing.T) {
	if sc.lessor != nil {
		sc.lessor.Close()
	}
	sc.lessor = openFake(t, sc.disk, sc.cfg)
}

func (sc *script) renew(l *Lessor, id int64) string {
	ttl, err := l.Renew(context.Background(), id)
	if err != nil {
		return failure(err)
	}
	return fmt.Sprintf("ttl %d\n", ttl)
}

func failure(err error) string {
	if err == nil {
		return ""
	}
	return err.Error() + "\n"
}

func optional(t *testing.T, d *datadriven.TestData, key string, dest any) {
	if d.HasArg(key) {
		d.ScanArgs(t, key, dest)
	}
}

func text(t *testing.T, d *datadriven.TestData, key string) (s string) {
	d.ScanArgs(t, key, &s)
	return s
}

func duration(t *testing.T, d *datadriven.TestData, key string) time.Duration {
	if !d.HasArg(key) {
		return 0
	}
	v, err := time.ParseDuration(text(t, d, key))
	if err != nil {
		d.Fatalf(t, "%v", err)
	}
	return v
}
