package badinput

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/upkeep-kv/upkeep/tests/proc"
)

// patient is the data of a member that was killed, and what had been acknowledged.
type patient struct {
	dir, peerURL string
	keys         int
}

// newPatient has the kinds of record that a database can have: revisions, deletions, leases, members, a compaction.
func newPatient(t *testing.T) patient {
	t.Helper()
	p := patient{dir: filepath.Join(t.TempDir(), "data"), peerURL: peerURL(t), keys: 200}
	m := proc.Single(t, upkeep(t), p.dir, p.peerURL)
	client := m.Client()
	for i := range p.keys {
		put(t, client, fmt.Sprintf("key-%03d", i), strings.Repeat("v", 100+i))
	}
	lease, err := client.Grant(t.Context(), 3600)
	check(t, err)
	_, err = client.Put(t.Context(), "leased", "v", clientv3.WithLease(lease.ID))
	check(t, err)
	_, err = client.Delete(t.Context(), "leased")
	check(t, err)
	resp, err := client.Get(t.Context(), "key-", clientv3.WithPrefix())
	check(t, err)
	_, err = client.Compact(t.Context(), resp.Header.Revision, clientv3.WithCompactPhysical())
	check(t, err)
	m.Kill()
	return p
}

// copy makes a copy that a test may damage. Logs are copied sparsely: they end in megabytes of zeroes.
func (p patient) copy(t *testing.T) patient {
	t.Helper()
	to := filepath.Join(t.TempDir(), "data")
	check(t, filepath.WalkDir(p.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(p.dir, path)
		if d.IsDir() {
			return os.MkdirAll(filepath.Join(to, rel), 0o700)
		}
		in, err := os.Open(path)
		if err != nil {
			return err
		}
		defer in.Close()
		info, err := in.Stat()
		if err != nil {
			return err
		}
		head, err := io.ReadAll(io.LimitReader(in, 1<<20))
		if err != nil {
			return err
		}
		copied := filepath.Join(to, rel)
		if err := os.WriteFile(copied, head, 0o600); err != nil {
			return err
		}
		return os.Truncate(copied, info.Size())
	}))
	p.dir = to
	return p
}

func (p patient) db() string { return filepath.Join(p.dir, "member", "snap", "db") }
func (p patient) log() string {
	return filepath.Join(p.dir, "member", "wal", "0000000000000000-0000000000000000.wal")
}

// start runs the member until it serves, or has ended by itself.
func (p patient) start(t *testing.T) (m *proc.Member, serves bool) {
	t.Helper()
	m = proc.Prepare(t, upkeep(t), "m0", p.dir, p.peerURL)
	m.Launch()
	exited := m.Exited()
	eventually(t, "the member to serve or to end", func() bool {
		select {
		case <-exited:
			return true
		default:
			serves = strings.Contains(m.Output(), "ready to serve client requests")
			return serves
		}
	})
	return m, serves
}

// refused checks that the member does not start, and says why.
func (p patient) refused(t *testing.T, want ...string) {
	t.Helper()
	m, serves := p.start(t)
	if serves {
		t.Fatalf("it serves; output\n%s", m.Output())
	}
	ended{m.WaitExit(), m.Output()}.says(t, 1, want...)
}

// whole checks that the member starts and has all that was acknowledged.
func (p patient) whole(t *testing.T, want ...string) {
	t.Helper()
	m, serves := p.start(t)
	if !serves {
		t.Fatalf("it does not serve:\n%s", m.Output())
	}
	mustMatch(t, m.Output(), want...)
	p.isWhole(t, m)
	m.Kill()
}

func (p patient) isWhole(t *testing.T, m *proc.Member) {
	t.Helper()
	resp, err := m.Client().Get(t.Context(), "key-", clientv3.WithPrefix())
	check(t, err)
	for i, kv := range resp.Kvs {
		if string(kv.Key) != fmt.Sprintf("key-%03d", i) || string(kv.Value) != strings.Repeat("v", 100+i) {
			t.Errorf("%s is not what was put", kv.Key)
		}
	}
	if len(resp.Kvs) != p.keys {
		t.Errorf("%d keys of %d", len(resp.Kvs), p.keys)
	}
}

// endOfLog is the offset behind the last record.
func endOfLog(t *testing.T, path string) int64 {
	t.Helper()
	data, err := os.ReadFile(path)
	check(t, err)
	end := int64(len(bytes.TrimRight(data, "\x00")))
	return (end + 7) &^ 7
}

func overwrite(t *testing.T, path string, offset int64, data []byte) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	check(t, err)
	_, err = f.WriteAt(data, offset)
	check(t, err)
	check(t, f.Close())
}

// flip inverts one bit and returns how to invert it back.
func flip(t *testing.T, path string, offset int64, bit int) func() {
	t.Helper()
	f, err := os.Open(path)
	check(t, err)
	b := make([]byte, 1)
	_, err = f.ReadAt(b, offset)
	check(t, err)
	check(t, f.Close())
	overwrite(t, path, offset, []byte{b[0] ^ 1<<bit})
	return func() { overwrite(t, path, offset, b) }
}

// TestDamagedLog: what a crash can leave is mended and reported; what it cannot leave is refused, with file, offset and
// remedy, and the refusal changes nothing.
func TestDamagedLog(t *testing.T) {
	t.Parallel()
	original := newPatient(t)
	t.Run("torn tail", func(t *testing.T) {
		p := original.copy(t)
		torn := binary.LittleEndian.AppendUint64(nil, 400)
		overwrite(t, p.log(), endOfLog(t, p.log()), append(torn, 8, 2, 16, 77, 26))
		p.whole(t, `repaired the log.*offset \d+.*the original is .*\.wal\.broken`)
		if _, err := os.Stat(p.log() + ".broken"); err != nil {
			t.Error(err)
		}
		p.whole(t)
	})
	t.Run("flipped bit", func(t *testing.T) {
		p := original.copy(t)
		back := flip(t, p.log(), endOfLog(t, p.log())/2, 3)
		for range 2 {
			p.refused(t, `/0000000000000000-0000000000000000\.wal is corrupt at offset \d+: `, `remove the member .*add it again.* restore .*snapshot`)
		}
		back()
		p.whole(t)
	})
	t.Run("hole", func(t *testing.T) {
		p := original.copy(t)
		overwrite(t, p.log(), endOfLog(t, p.log())/2&^511, make([]byte, 512))
		p.refused(t, `\.wal is corrupt at offset \d+: `, `remove the member`)
	})
	t.Run("cut off", func(t *testing.T) {
		p := original.copy(t)
		check(t, os.Truncate(p.log(), endOfLog(t, p.log())/2))
		p.refused(t, `member/snap/db.*applied up to index \d+.*/member/wal ends at \d+`, `restore a snapshot or remove and re-add`)
	})
	t.Run("empty", func(t *testing.T) {
		p := original.copy(t)
		check(t, os.Truncate(p.log(), 0))
		p.refused(t, `member/wal`, `remove the member|re-add the member`)
	})
	t.Run("gone", func(t *testing.T) {
		p := original.copy(t)
		check(t, os.RemoveAll(filepath.Dir(p.log())))
		p.refused(t, `member/snap/db.*no log in .*/member/wal`, `restore a snapshot`)
	})
	t.Run("any bit", func(t *testing.T) {
		random := rand.New(rand.NewPCG(1, 2))
		end := endOfLog(t, original.log())
		withoutDB := func() patient { // so that all that is served comes out of the log
			p := original.copy(t)
			check(t, os.Remove(p.db()))
			return p
		}
		p := withoutDB()
		for range 12 {
			at := random.Int64N(end + 64)
			back := flip(t, p.log(), at, random.IntN(8))
			m, serves := p.start(t)
			if !serves {
				ended{m.WaitExit(), m.Output()}.says(t, 1, `/0000000000000000-0000000000000000\.wal is corrupt at offset \d+|member/wal`)
				back()
				continue
			}
			// Between two records a bit means nothing, and at the end it may pass for a torn write.
			if at < end-1024 {
				p.isWhole(t, m)
			}
			m.Kill()
			p = withoutDB()
		}
		p.whole(t)
	})
}

// TestDamagedDatabase: a damaged file is named, with what to do, and nothing ever panics.
func TestDamagedDatabase(t *testing.T) {
	t.Parallel()
	original := newPatient(t)
	const remedy = `remove this member.*restore a snapshot into a new directory`
	t.Run("gone", func(t *testing.T) {
		p := original.copy(t)
		check(t, os.Remove(p.db()))
		p.whole(t) // the log still has everything
	})
	t.Run("cut off", func(t *testing.T) {
		p := original.copy(t)
		check(t, os.Truncate(p.db(), 6*4096))
		for range 2 {
			p.refused(t, `member/snap/db: the file has \d+ bytes.*cut off`, remedy)
		}
	})
	t.Run("cut short", func(t *testing.T) {
		p := original.copy(t)
		check(t, os.Truncate(p.db(), 1000))
		p.refused(t, `member/snap/db: the file has only 1000 bytes`, remedy)
	})
	t.Run("something else", func(t *testing.T) {
		p := original.copy(t)
		check(t, os.WriteFile(p.db(), bytes.Repeat([]byte("not a database. "), 4096), 0o600))
		p.refused(t, `member/snap/db: neither meta page is valid`, remedy)
	})
	t.Run("a directory", func(t *testing.T) {
		p := original.copy(t)
		check(t, os.Remove(p.db()))
		check(t, os.Mkdir(p.db(), 0o700))
		p.refused(t, `member/snap/db is not a regular file`)
	})
	t.Run("position lost", func(t *testing.T) {
		p := original.copy(t)
		data, err := os.ReadFile(p.db())
		check(t, err)
		check(t, os.WriteFile(p.db(), bytes.ReplaceAll(data, []byte("consistent_index"), []byte("consistent_indey")), 0o600))
		for range 2 { // else the whole log would be applied once more
			p.refused(t, `member/snap/db cannot be used: it holds data, but not up to which entry of the log`, remedy)
		}
	})
	t.Run("position wrong", func(t *testing.T) {
		p := original.copy(t)
		m, serves := p.start(t) // another term, in which little is written
		if !serves {
			t.Fatal(m.Output())
		}
		put(t, m.Client(), "key-000", strings.Repeat("v", 100))
		m.Stop()
		data, err := os.ReadFile(p.db())
		check(t, err)
		const name = "consistent_index"
		for at := 0; ; {
			next := bytes.Index(data[at:], []byte(name))
			if next < 0 {
				break
			}
			at += next + len(name) // the value follows its key
			if index := binary.BigEndian.Uint64(data[at:]); index > 100 && index < 1000 {
				binary.BigEndian.PutUint64(data[at:], index-50)
			}
		}
		check(t, os.WriteFile(p.db(), data, 0o600))
		p.refused(t, `member/snap/db is applied up to index \d+ of term 3, but that entry of its log .* is of term 2`, remedy)
	})
	t.Run("page of zeroes", func(t *testing.T) {
		p := original.copy(t)
		info, err := os.Stat(p.db())
		check(t, err)
		for page := int64(2); page < 12 && page*4096 < info.Size(); page++ {
			overwrite(t, p.db(), page*4096, make([]byte, 4096))
		}
		p.refused(t, `member/snap/db: page \d+`, remedy)
	})
	t.Run("any bit", func(t *testing.T) {
		random := rand.New(rand.NewPCG(2, 3))
		p := original.copy(t)
		data, err := os.ReadFile(p.db())
		check(t, err)
		for i := range 24 {
			at := random.IntN(len(data))
			for data[at] == 0 {
				at = random.IntN(len(data))
			}
			if i%2 == 0 { // where the page says what it is
				at = at&^4095 + random.IntN(16)
			}
			back := flip(t, p.db(), int64(at), random.IntN(8))
			m, serves := p.start(t)
			if !serves {
				e := ended{m.WaitExit(), m.Output()}
				e.says(t, 1, `member/snap/db`)
				back()
				continue
			}
			// A bit in a key or a value: bbolt has no checksums. Reading all of it may fail, and must not panic.
			client := m.Client()
			_, _ = client.Get(t.Context(), "", clientv3.WithFromKey())
			_, _ = client.HashKV(t.Context(), m.ClientURL, 0)
			_, _ = client.Put(t.Context(), "key-000", "w", clientv3.WithPrevKV())
			_, _ = client.Delete(t.Context(), "key-", clientv3.WithPrefix(), clientv3.WithPrevKV())
			m.Stop()
			noPanic(t, m.Output())
			if t.Failed() {
				t.Fatalf("bit at %d:\n%s", at, m.Output())
			}
			p = original.copy(t)
		}
	})
}

// TestDamageWhileRunning: a read that meets damage fails; a write that would have to read it stops the member, for the
// others of a cluster could apply it.
func TestDamageWhileRunning(t *testing.T) {
	t.Parallel()
	p := patient{dir: filepath.Join(t.TempDir(), "data"), peerURL: peerURL(t)}
	m := proc.Single(t, upkeep(t), p.dir, p.peerURL)
	client := m.Client()
	put(t, client, "large", strings.Repeat("x", 8<<10)) // gives the bucket pages of its own, which stay where they are
	put(t, client, "rotten-key", "v")
	put(t, client, "sound-key", "v")
	key := []byte("rotten-key")
	backup, err := client.Snapshot(t.Context()) // before it begins, everything is committed to the file
	check(t, err)
	_, err = io.Copy(io.Discard, backup)
	check(t, err)
	data, err := os.ReadFile(p.db())
	check(t, err)
	for at := bytes.Index(data, key); at >= 0; {
		overwrite(t, p.db(), int64(at-2), []byte{0xff}) // where the field's tag is
		next := bytes.Index(data[at+1:], key)
		if next < 0 {
			break
		}
		at += 1 + next
	}
	if _, err := client.Get(t.Context(), "rotten-key"); err == nil || !strings.Contains(err.Error(), "corrupt store") {
		t.Errorf("get of a damaged value: %v", err)
	}
	if got := get(t, client, "sound-key"); got != "v" {
		t.Errorf("sound-key is %q", got)
	}
	done := make(chan error, 1)
	go func() {
		_, err := client.Txn(t.Context()).Then(clientv3.OpPut("sound-key", "w"), clientv3.OpDelete("rotten-key", clientv3.WithPrevKV())).Commit()
		done <- err
	}()
	ended{m.WaitExit(), m.Output()}.says(t, 1, `the server stops.*member/snap/db is damaged: .*corrupt store.*rotten-key`, `restore a snapshot`)
	if err := <-done; err == nil {
		t.Error("the transaction was acknowledged")
	}
	p.refused(t, `member/snap/db cannot be used: .*corrupt store`, `restore a snapshot`)
}

// TestSnapshotRecords: with the beginning of the log released, the database cannot be made again; raft's own snapshot
// files, on the other hand, are needed by nobody.
func TestSnapshotRecords(t *testing.T) {
	t.Parallel()
	p := patient{dir: filepath.Join(t.TempDir(), "data"), peerURL: peerURL(t), keys: 60}
	m := proc.Single(t, upkeep(t), p.dir, p.peerURL, "--snapshot-count=10")
	for i := range p.keys {
		put(t, m.Client(), fmt.Sprintf("key-%03d", i), strings.Repeat("v", 100+i))
	}
	snaps := filepath.Join(p.dir, "member", "snap", "*.snap")
	eventually(t, "a raft snapshot", func() bool {
		found, _ := filepath.Glob(snaps)
		return len(found) > 0 && strings.Contains(m.Output(), "saved snapshot")
	})
	m.Kill()
	found, err := filepath.Glob(snaps)
	check(t, err)
	for i, path := range found {
		if i%2 == 0 {
			check(t, os.Truncate(path, 10))
		} else {
			flip(t, path, 20, 1)
		}
	}
	p.whole(t)
	check(t, os.Rename(p.db(), p.db()+".away"))
	for range 2 {
		p.refused(t, `database file .*member/snap/db\) of the backend is missing, and the log .* starts behind index \d+`,
			`restore a snapshot into a new directory`)
	}
	check(t, os.Rename(p.db()+".away", p.db()))
	p.whole(t)
}
