package backend

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"math"
	"math/rand"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"
)

const (
	crashDirEnv = "UPKEEP_TEST_CRASH_FILE"
	// crashStepEnv names the step of a defragmentation or a snapshot in which the child kills itself; see Config.step.
	crashStepEnv = "UPKEEP_TEST_CRASH_STEP"
)

var crashSteps = []string{
	"copy", "verify", "sync", "swap", "swapped", "snapshot copy", "snapshot done", "snapshot image",
}

// TestCrashChild is not a test but the victim of TestKilledDuringDefrag: it
// applies entries, compacts and defragments without pause until it is killed.
// Entry i writes revision i+1 and one of a hundred leases.
func TestCrashChild(t *testing.T) {
	path := os.Getenv(crashDirEnv)
	if path == "" {
		t.Skip("runs only as a child process")
	}
	steps := 0
	var mu sync.Mutex
	b := open(t, Config{Path: path, BatchInterval: 2 * time.Millisecond, BatchLimit: 200, step: func(name, _ string) {
		mu.Lock()
		defer mu.Unlock()
		if name == os.Getenv(crashStepEnv) {
			if steps++; steps == 3 {
				_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			}
		}
	}})
	index, _ := b.Durable()
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			_, err := b.Defrag(context.Background(), DefragOptions{})
			must(t, err)
			fmt.Println("defragmented")
		}
	})
	wg.Go(func() {
		for {
			crashCompact(t, b)
		}
	})
	wg.Go(func() {
		for {
			s, err := b.CompactSnapshot(context.Background(), nil)
			must(t, err)
			must(t, s.Close())
		}
	})
	wg.Go(func() {
		for {
			s, err := b.Snapshot(context.Background())
			must(t, err)
			file, err := s.copyImage(context.Background())
			must(t, err)
			must(t, file.Close())
			must(t, s.Close())
		}
	})
	for {
		index++
		e := b.Begin()
		e.Append(revKey(int(index)+1), valueOf(int(index)+1, 0))
		e.Put(Lease, []byte(fmt.Sprintf("%02d", index%100)), bigEndian(index))
		e.Commit(index, 1)
		if index%50 == 0 {
			flush(t, b)
			durable, _ := b.Durable()
			fmt.Println("durable", durable)
		}
	}
}

// crashCompact deletes every revision but the newest 500, and says up to where.
func crashCompact(t *testing.T, b *Backend) {
	flush(t, b)
	index, _ := b.Durable()
	floor := int(index) - 500
	v := b.View()
	var ops []Op
	must(t, v.Scan(nil, revKey(max(floor, 0)), func(k, _ []byte) error {
		ops = append(ops, Op{Bucket: Key, Key: bytes.Clone(k), Delete: true})
		return nil
	}))
	v.Close()
	ops = append(ops, Op{Bucket: Meta, Key: []byte("finishedCompactRev"), Value: revKey(max(floor, 0))})
	must(t, b.Background(context.Background(), ops))
}

// TestKilledDuringDefrag kills the child again and again, mostly in the middle
// of a defragmentation, and checks what is left each time.
func TestKilledDuringDefrag(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	rounds := 8
	if testing.Short() {
		rounds = 3
	}
	for round := range rounds {
		reported, defrags := runAndKill(t, path, round, "")
		checkCrashed(t, path, reported)
		t.Logf("round %d: durable %d, %d defragmentations", round, reported, defrags)
		if t.Failed() {
			return
		}
	}
}

// TestKilledAtEveryStep has the child die exactly where a step begins.
func TestKilledAtEveryStep(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	for round, step := range crashSteps {
		reported, _ := runAndKill(t, path, round, step)
		checkCrashed(t, path, reported)
		t.Logf("%s: durable %d", step, reported)
		if t.Failed() {
			return
		}
	}
}

// runAndKill returns what the child last reported durable. If step is set the child dies by itself.
func runAndKill(t *testing.T, path string, round int, step string) (reported uint64, defrags int) {
	child := exec.Command(os.Args[0], "-test.run=^TestCrashChild$")
	child.Env = append(os.Environ(), crashDirEnv+"="+path, crashStepEnv+"="+step)
	child.Stderr = os.Stderr
	out, err := child.StdoutPipe()
	must(t, err)
	must(t, child.Start())
	// It lives for a number of reports and a bit, so that it is hit anywhere.
	left := 5 + rand.Intn(40)
	if step != "" {
		left = math.MaxInt
	}
	lines := bufio.NewScanner(out)
	for left > 0 && lines.Scan() {
		var n uint64
		switch line := lines.Text(); {
		case line == "defragmented":
			defrags++
		default:
			if _, err := fmt.Sscanf(line, "durable %d", &n); err != nil {
				t.Errorf("round %d: child says %q", round, line)
				left = 0
			}
			reported = n
			left--
		}
	}
	time.AfterFunc(time.Duration(rand.Intn(3000))*time.Microsecond, func() { _ = child.Process.Kill() })
	for lines.Scan() { // to its end, so that what was reported late counts too
		_, _ = fmt.Sscanf(lines.Text(), "durable %d", &reported)
	}
	_ = child.Wait()
	return reported, defrags
}

func checkCrashed(t *testing.T, path string, reported uint64) {
	checkFile(t, path)
	b := open(t, Config{Path: path})
	defer closeAndCheck(t, b)
	if left, _ := filepath.Glob(path + ".tmp.*"); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	applied, _ := b.Durable()
	if applied < reported {
		t.Errorf("applied %d after the crash, %d was durable before", applied, reported)
	}
	v := b.View()
	defer v.Close()
	floor := 0
	must(t, v.ScanBucket(Meta, []byte("finishedCompactRev"), nil, func(k, val []byte) error {
		if string(k) == "finishedCompactRev" {
			floor = int(binary.BigEndian.Uint64(val))
		}
		return nil
	}))
	for main := max(floor, 2); main <= int(applied)+1; main++ {
		if got := v.Get(revKey(main)); !bytes.Equal(got, valueOf(main, 0)) {
			t.Fatalf("revision %d at applied %d: %.40q", main, applied, got)
		}
	}
	count := 0
	must(t, v.Scan(nil, nil, func(k, _ []byte) error {
		if main, _, _ := parseRevision(k); int(main) < floor || main > applied+1 {
			t.Fatalf("revision %d in a file of applied %d compacted at %d", main, applied, floor)
		}
		count++
		return nil
	}))
	must(t, v.ScanBucket(Lease, nil, nil, func(k, val []byte) error {
		got := binary.BigEndian.Uint64(val)
		if got > applied || got+100 <= applied || fmt.Sprintf("%02d", got%100) != string(k) {
			t.Fatalf("lease %s is of entry %d at applied %d", k, got, applied)
		}
		return nil
	}))
}
