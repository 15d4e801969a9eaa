package crash

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/upkeep-kv/upkeep/backend"
	"github.com/upkeep-kv/upkeep/backend/vfs"
	"github.com/upkeep-kv/upkeep/mvcc/revision"
	"github.com/upkeep-kv/upkeep/proto/walpb"
	"github.com/upkeep-kv/upkeep/raftnode/transport"
	"github.com/upkeep-kv/upkeep/raftnode/wal"
	"github.com/upkeep-kv/upkeep/tests/longrun"
)

const childEnv = "UPKEEP_TEST_CRASH_MEMBER"

// killed is a member reduced to its files: a log, a database, and the way of a state transfer into it. Entry i of the
// log puts revision i+1.
type killed struct {
	t    *testing.T
	dir  string
	log  *wal.WAL
	db   *backend.Backend
	next uint64 // index of the next entry
}

func (k *killed) snap(name string) string { return filepath.Join(k.dir, "snap", name) }

func key(index uint64) []byte {
	return revision.AppendKey(nil, revision.Revision{Main: int64(index) + 1}, false)
}

func valueAt(index uint64) []byte {
	return bytes.Repeat(binary.BigEndian.AppendUint64(nil, index*0x9e3779b97f4a7c15), 1+int(index%40))
}

// open boots the member as server/bootstrap.go does: finish a transfer, then apply what the database lacks.
func open(t *testing.T, dir string) *killed {
	k := &killed{t: t, dir: dir}
	must(t, os.MkdirAll(k.snap(""), 0o700))
	var err error
	k.db, err = backend.Open(backend.Config{Path: k.snap("db"), BatchInterval: time.Millisecond, BatchLimit: 100})
	must(t, err)
	walDir := filepath.Join(dir, "wal")
	if found, err := wal.Exists(vfs.OS{}, walDir); err != nil || !found {
		must(t, errors.Join(err, wal.Bootstrap(vfs.OS{}, walDir, &walpb.Metadata{NodeID: new(uint64(1)), ClusterID: new(uint64(1))},
			wal.BootstrapState{})))
	}
	var rec *wal.Recovered
	k.log, rec, err = wal.Open(vfs.OS{}, walDir, wal.Options{SegmentBytes: 64 << 10})
	must(t, err)
	wanted := rec.Snapshot.GetIndex()
	applied, _ := k.db.Durable()
	if applied < wanted {
		received := k.snap(transport.SnapshotFile(wanted))
		if err := k.db.Replace(context.Background(), received); err != nil {
			t.Fatalf("the log starts behind %d, the database is applied up to %d: %v", wanted, applied, err)
		}
		if applied, _ = k.db.Durable(); applied != wanted {
			t.Fatalf("the received database is applied up to %d, want %d", applied, wanted)
		}
	}
	k.next = wanted + uint64(len(rec.Entries)) + 1
	if applied >= k.next {
		t.Fatalf("the database is applied up to %d, the log ends at %d", applied, k.next-1)
	}
	for _, e := range rec.Entries {
		if e.GetIndex() > applied {
			k.apply(k.db, e.GetIndex())
		}
	}
	return k
}

func (k *killed) apply(db *backend.Backend, index uint64) {
	batch := db.Begin()
	batch.Append(key(index), valueAt(index))
	batch.Commit(index, 1)
}

// write logs some entries, then applies them.
func (k *killed) write(n uint64) {
	var ents []*raftpb.Entry
	for i := range n {
		ents = append(ents, &raftpb.Entry{Term: new(uint64(1)), Index: new(k.next + i), Data: valueAt(k.next + i)})
	}
	k.t.Helper()
	hs := &raftpb.HardState{Term: new(uint64(1)), Vote: new(uint64(1)), Commit: new(k.next + n - 1)}
	must(k.t, k.log.Append(hs, ents, nil))
	must(k.t, k.log.Sync())
	for i := range n {
		k.apply(k.db, k.next+i)
	}
	k.next += n
	fmt.Println("acknowledged", k.next-1)
}

// record tells the log how far the database is durable, and lets it forget the rest.
func (k *killed) record() {
	if durable, _ := k.db.Durable(); durable > 0 {
		must(k.t, k.log.Append(nil, nil, &walpb.Snapshot{Index: new(durable), Term: new(uint64(1))}))
		must(k.t, k.log.Sync())
		must(k.t, k.log.Release(durable))
	}
}

// transfer receives the state of a leader that is ahead: the same history, some entries longer.
func (k *killed) transfer(ahead uint64) {
	target := k.next - 1 + ahead
	part := k.snap("leader.part")
	image, err := k.db.Snapshot(context.Background())
	must(k.t, err)
	f, err := os.Create(part)
	must(k.t, err)
	_, err = image.WriteTo(f)
	must(k.t, errors.Join(err, f.Close(), image.Close()))
	leader, err := backend.Open(backend.Config{Path: part})
	must(k.t, err)
	applied, _ := leader.Durable()
	for i := applied + 1; i <= target; i++ {
		k.apply(leader, i)
	}
	must(k.t, leader.Close())
	received := k.snap(transport.SnapshotFile(target))
	must(k.t, os.Rename(part, received))
	must(k.t, vfs.OS{}.SyncDir(k.snap("")))
	fmt.Println("received")
	must(k.t, k.log.Append(&raftpb.HardState{Term: new(uint64(1)), Vote: new(uint64(1)), Commit: new(target)}, nil,
		&walpb.Snapshot{Index: new(target), Term: new(uint64(1))}))
	must(k.t, k.log.Sync())
	fmt.Println("acknowledged", target) // from here on the leader may count on it
	must(k.t, k.db.Replace(context.Background(), received))
	must(k.t, k.log.Release(target))
	k.next = target + 1
	fmt.Println("installed")
}

// TestMemberChild is no test but the victim of TestKilledMember.
func TestMemberChild(t *testing.T) {
	dir := os.Getenv(childEnv)
	if dir == "" {
		t.Skip("runs only as a child process")
	}
	k := open(t, dir)
	fmt.Println("opened")
	go func() {
		for {
			// A transfer ends a defragmentation; that is no failure.
			if _, err := k.db.Defrag(context.Background(), backend.DefragOptions{}); err == nil {
				fmt.Println("swapped")
			}
		}
	}()
	for {
		switch rand.IntN(150) {
		case 0:
			k.transfer(uint64(1 + rand.IntN(50)))
		case 1, 2:
			k.record()
		default:
			k.write(uint64(1 + rand.IntN(10)))
		}
	}
}

// TestKilledMember kills a process that writes, defragments and installs state transfers, again and again, mostly
// within microseconds of one of these steps, and looks each time whether everything acknowledged is there.
func TestKilledMember(t *testing.T) {
	var dir string
	counts := map[string]int{}
	end := time.Now().Add(longrun.Length(t, 5*time.Second))
	rounds := 0
	for ; rounds < 8 || time.Now().Before(end); rounds++ {
		if rounds%8 == 0 {
			dir = t.TempDir() // before the database gets so large that all takes long
		}
		acknowledged := runAndKill(t, dir, counts)
		must(t, checkFiles(databaseOf(dir)))
		k := open(t, dir)
		if k.next <= acknowledged {
			t.Fatalf("round %d: the log ends at %d, %d was acknowledged", rounds, k.next-1, acknowledged)
		}
		must(t, k.db.Flush(context.Background()))
		view := k.db.View()
		for i := uint64(1); i < k.next; i++ {
			if !bytes.Equal(view.Get(key(i)), valueAt(i)) {
				t.Fatalf("round %d: entry %d is missing from the database, %d was acknowledged", rounds, i, acknowledged)
			}
		}
		view.Close()
		must(t, k.log.Close())
		must(t, k.db.Close())
	}
	t.Logf("killed %d processes; steps seen: %v", rounds, counts)
	for _, step := range []string{"installed", "swapped"} {
		if counts[step] == 0 {
			t.Errorf("no process came as far as %q", step)
		}
	}
}

func databaseOf(dir string) string { return filepath.Join(dir, "snap", "db") }

// checkFiles has bbolt's own checker look at a database.
func checkFiles(path string) error {
	problems, err := backend.Check(context.Background(), path)
	if err == nil && len(problems) > 0 {
		err = fmt.Errorf("%s: %v", path, problems)
	}
	return err
}

// runAndKill lets the child do a number of steps and kills it shortly after one of them.
func runAndKill(t *testing.T, dir string, counts map[string]int) (acknowledged uint64) {
	child := exec.Command(os.Args[0], "-test.run=^TestMemberChild$")
	child.Env = append(os.Environ(), childEnv+"="+dir)
	child.Stderr = os.Stderr
	out, err := child.StdoutPipe()
	must(t, err)
	must(t, child.Start())
	// Not every kind of step is sure to come.
	latest := time.AfterFunc(time.Second, func() { _ = child.Process.Kill() })
	defer latest.Stop()
	// Which kind of line the child dies behind, and after how many of them.
	last := []string{"acknowledged", "received", "swapped", "installed"}[rand.IntN(4)]
	left, dying := 1+rand.IntN(3), false
	for lines := bufio.NewScanner(out); lines.Scan(); {
		word, number, _ := strings.Cut(lines.Text(), " ")
		counts[word]++
		switch word {
		case "opened", "received", "installed", "swapped":
		case "acknowledged":
			fmt.Sscan(number, &acknowledged)
		default:
			t.Errorf("the child says %q", lines.Text())
			last = word
		}
		if word == last && !dying {
			if left--; left <= 0 {
				dying = true
				time.AfterFunc(time.Duration(rand.IntN(2000))*time.Microsecond, func() { _ = child.Process.Kill() })
			}
		}
	}
	_ = child.Wait()
	return acknowledged
}
