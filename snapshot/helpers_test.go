package snapshot

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	bolt "go.etcd.io/bbolt"

	"github.com/upkeep-kv/upkeep/backend"
	"github.com/upkeep-kv/upkeep/mvcc/revision"
	"github.com/upkeep-kv/upkeep/proto/mvccpb"
)

// fixture builds a database as a server leaves it, entry by entry.
type fixture struct {
	t    *testing.T
	path string
	db   *bolt.DB
	rev  int64
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	f := &fixture{t: t, path: filepath.Join(t.TempDir(), "db"), rev: 1}
	db, err := bolt.Open(f.path, 0o600, &bolt.Options{NoFreelistSync: true, NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	f.db = db
	f.update(func(tx *bolt.Tx) error {
		for b := backend.Alarm; b <= backend.Meta; b++ {
			if _, err := tx.CreateBucket([]byte(b.Name())); err != nil {
				return err
			}
		}
		return nil
	})
	f.put(backend.Meta, metaStorageVersion, []byte("3.7.0"))
	f.put(backend.Meta, "confState", []byte(`{"voters":[5],"auto_leave":false}`))
	f.put(backend.Cluster, "clusterVersion", []byte("3.7.0"))
	f.put(backend.Members, "5", []byte(`{"id":5,"peerURLs":["http://old:2380"],"name":"old"}`))
	f.put(backend.MembersRemoved, "6", []byte("removed"))
	return f
}

func (f *fixture) update(fn func(*bolt.Tx) error) {
	f.t.Helper()
	if err := f.db.Update(fn); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fixture) put(b backend.Bucket, key string, value []byte) {
	f.update(func(tx *bolt.Tx) error { return bucketOf(tx, b).Put([]byte(key), value) })
}

func (f *fixture) lease(id int64) {
	f.put(backend.Lease, string(binary.BigEndian.AppendUint64(nil, uint64(id))), []byte{8, byte(id), 16, 100})
}

// set and del each make one revision.
func (f *fixture) set(key, value string, lease int64) {
	f.t.Helper()
	f.rev++
	kv := &mvccpb.KeyValue{Key: []byte(key), Value: []byte(value), ModRevision: f.rev, CreateRevision: 1, Version: 1, Lease: lease}
	encoded, err := kv.MarshalVT()
	if err != nil {
		f.t.Fatal(err)
	}
	f.put(backend.Key, string(revision.AppendKey(nil, revision.Revision{Main: f.rev}, false)), encoded)
}

func (f *fixture) del(key string) {
	f.t.Helper()
	f.rev++
	encoded, err := (&mvccpb.KeyValue{Key: []byte(key)}).MarshalVT()
	if err != nil {
		f.t.Fatal(err)
	}
	f.put(backend.Key, string(revision.AppendKey(nil, revision.Revision{Main: f.rev}, true)), encoded)
}

func (f *fixture) mark(name string, rev int64) {
	f.put(backend.Meta, name, revision.AppendKey(nil, revision.Revision{Main: rev}, false))
}

// snapshot closes the database and returns the path of a snapshot file of it.
func (f *fixture) snapshot() string {
	f.t.Helper()
	if err := f.db.Close(); err != nil {
		f.t.Fatal(err)
	}
	data, err := os.ReadFile(f.path)
	if err != nil {
		f.t.Fatal(err)
	}
	path := f.path + ".snapshot"
	if err := os.WriteFile(path, withTrailer(data), 0o600); err != nil {
		f.t.Fatal(err)
	}
	return path
}

func withTrailer(data []byte) []byte {
	sum := sha256.Sum256(data)
	return append(bytes.Clone(data), sum[:]...)
}

// history is a database with 30 keys at revisions 2 to 31, each set again at 32 to 61; keys divisible by 5 deleted at
// 62 to 67; compacted at 40.
func historyFixture(t *testing.T) *fixture {
	f := newFixture(t)
	f.lease(7)
	for round := range 2 {
		for i := range 30 {
			f.set(fmt.Sprintf("k%02d", i), fmt.Sprint(round), int64(7+i%2)*int64(1-round))
		}
	}
	for i := 0; i < 30; i += 5 {
		f.del(fmt.Sprintf("k%02d", i))
	}
	f.update(func(tx *bolt.Tx) error {
		for rev := int64(2); rev <= 10; rev++ { // what a compaction at 40 deletes: k00 to k08 were set again at 32 to 40
			if err := bucketOf(tx, backend.Key).Delete(revision.AppendKey(nil, revision.Revision{Main: rev}, false)); err != nil {
				return err
			}
		}
		return nil
	})
	f.mark(metaScheduledCompact, 40)
	f.mark(metaFinishedCompact, 40)
	return f
}

// tree lists all files below dir with their content.
func tree(t *testing.T, dir string) map[string]string {
	t.Helper()
	found := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		content, err := os.ReadFile(path)
		name, _ := filepath.Rel(dir, path)
		found[name] = string(content)
		return err
	})
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return found
}
