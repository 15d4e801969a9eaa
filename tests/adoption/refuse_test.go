package adoption

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	bolt "go.etcd.io/bbolt"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/upkeep-kv/upkeep/backend/vfs"
	"github.com/upkeep-kv/upkeep/raftnode/wal"
	"github.com/upkeep-kv/upkeep/tests/proc"
)

// TestRefuse gives Upkeep directories that it cannot go on from. It must say why, and leave every file as it was.
func TestRefuse(t *testing.T) {
	t.Parallel()
	plain := proc.Start(t, proc.Peer(t, "etcd"), 1, "--snapshot-count=10")
	for i := range 40 {
		if _, err := plain.Client().Put(t.Context(), "k", fmt.Sprint(i)); err != nil {
			t.Fatal(err)
		}
	}
	plain.Members[0].Stop()
	for _, c := range []struct {
		name   string
		change func(t *testing.T, dir string)
		want   string
	}{
		{"a newer cluster", put("cluster", "clusterVersion", "3.8.0"), `is of version 3\.8\.0, and the newest .* is 3\.7\.0: downgrade`},
		{"a newer schema", put("meta", "storageVersion", "3.8.0"), `is of version 3\.8\.0, and the newest`},
		{"an older cluster", put("cluster", "clusterVersion", "3.4.0"), `is of version 3\.4\.0, and the oldest .*etcd 3\.5 first`},
		{"a learner that votes", turnLearner, `disagree on whether member [0-9a-f]+ votes, .*newest etcd 3\.5`},
		{"no database", remove("member/snap/db"), `database file .*/member/snap/db.* is missing, and the log .* starts behind index \d+`},
		{"no log", remove("member/wal"), `holds the log up to index \d+, but there is no log in .*/member/wal`},
		{"no position", forgetPosition, `not up to which entry of the log: its .meta. bucket is damaged`},
		{"a database ahead", ahead, `is applied up to index 9999, but its log .* ends at \d+`},
		{"a database of another member", another, `does not know member [0-9a-f]+, to which the log .* belongs`},
		{"a proxy", mkdir("proxy"), `belongs to an etcd v2 proxy`},
		{"joint consensus", entry(raftpb.EntryConfChangeV2, nil), `entry \d+ of term \d+ cannot be applied: .*joint consensus`},
		{"an unknown request", entry(raftpb.EntryNormal, unknownRequest()), `entry \d+ .*a kind that this version does not know; start the member once with the program that wrote`},
		{"rubbish", entry(raftpb.EntryNormal, []byte("rubbish")), `entry \d+ of term \d+ cannot be applied: `},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "data")
			if out, err := exec.Command("cp", "-a", "--sparse=always", plain.Members[0].DataDir, dir).CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			c.change(t, dir)
			refuses(t, plain.Members[0], dir, c.want)
		})
	}
}

// TestRefuseV2Keys: what clients have stored through the v2 API would be lost, whether it is in the log or in a snapshot.
func TestRefuseV2Keys(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		count int
		want  string
	}{
		"in the log":  {10000, `the log .*keys of the v2 API`},
		"in the snap": {5, `\.snap holds keys of the v2 API.*migrate or delete them with etcd 3\.5`},
	} {
		t.Run(name, func(t *testing.T) {
			m := proc.Start(t, proc.Peer(t, "etcd-3.5"), 1, "--enable-v2", fmt.Sprintf("--snapshot-count=%d", c.count)).Members[0]
			req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, m.ClientURL+"/v2/keys/old", strings.NewReader(url.Values{"value": {"v"}}.Encode()))
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
			resp, err := http.DefaultClient.Do(req)
			if err != nil || resp.StatusCode != http.StatusCreated {
				t.Fatalf("%v, %v", resp, err)
			}
			resp.Body.Close()
			for range 20 {
				if _, err := m.Client().Put(t.Context(), "new", "v"); err != nil {
					t.Fatal(err)
				}
			}
			m.Stop()
			refuses(t, m, m.DataDir, c.want)
		})
	}
}

// refuses starts Upkeep on a directory as a member was started.
func refuses(t *testing.T, like *proc.Member, dir, want string) {
	t.Helper()
	before := treeHash(t, dir)
	m := proc.Prepare(t, proc.Build(t, "upkeep"), "m0", dir, like.PeerURL)
	m.Launch()
	if code := m.WaitExit(); code != 1 {
		t.Errorf("exit code %d", code)
	}
	if out := m.Output(); !regexp.MustCompile(want).MatchString(out) || strings.Contains(out, "panic") {
		t.Errorf("want %s, it printed\n%s", want, out)
	}
	if after := treeHash(t, dir); after != before {
		t.Errorf("the directory was changed: before\n%s\nafter\n%s", before, after)
	}
}

// treeHash lists all files with size, mode, time of the last change and a hash.
func treeHash(t *testing.T, dir string) string {
	t.Helper()
	var list strings.Builder
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		var sum uint32
		if !d.IsDir() {
			content, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			sum = crc32.Checksum(content, crc32.MakeTable(crc32.Castagnoli))
		}
		fmt.Fprintf(&list, "%s %v %s %x\n", path, info.Mode(), info.ModTime().Format("15:04:05.000000000"), sum)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return list.String()
}

// update changes the database of a stopped member.
func update(t *testing.T, dir string, fn func(tx *bolt.Tx) error) {
	t.Helper()
	db, err := bolt.Open(filepath.Join(dir, "member", "snap", "db"), 0o600, &bolt.Options{NoFreelistSync: true})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if err := db.Update(fn); err != nil {
		t.Fatal(err)
	}
}

func put(bucket, key, value string) func(*testing.T, string) {
	return func(t *testing.T, dir string) {
		update(t, dir, func(tx *bolt.Tx) error { return tx.Bucket([]byte(bucket)).Put([]byte(key), []byte(value)) })
	}
}

func turnLearner(t *testing.T, dir string) {
	update(t, dir, func(tx *bolt.Tx) error {
		bucket := tx.Bucket([]byte("members"))
		id, value := bucket.Cursor().First()
		var m map[string]json.RawMessage
		if err := json.Unmarshal(value, &m); err != nil {
			return err
		}
		m["isLearner"] = json.RawMessage("true")
		changed, err := json.Marshal(m)
		if err != nil {
			return err
		}
		return bucket.Put(append([]byte(nil), id...), changed)
	})
}

func forgetPosition(t *testing.T, dir string) {
	update(t, dir, func(tx *bolt.Tx) error { return tx.Bucket([]byte("meta")).Delete([]byte("consistent_index")) })
}

func ahead(t *testing.T, dir string) {
	put("meta", "consistent_index", string(binary.BigEndian.AppendUint64(nil, 9999)))(t, dir)
}

func another(t *testing.T, dir string) {
	update(t, dir, func(tx *bolt.Tx) error {
		bucket := tx.Bucket([]byte("members"))
		id, value := bucket.Cursor().First()
		value = append([]byte(nil), value...)
		if err := bucket.Delete(append([]byte(nil), id...)); err != nil {
			return err
		}
		return bucket.Put([]byte("77"), []byte(strings.Replace(string(value), `"id":`, `"id":119,"was":`, 1)))
	})
}

func remove(path string) func(*testing.T, string) {
	return func(t *testing.T, dir string) {
		if err := os.RemoveAll(filepath.Join(dir, path)); err != nil {
			t.Fatal(err)
		}
	}
}

func mkdir(name string) func(*testing.T, string) {
	return func(t *testing.T, dir string) {
		if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
}

// entry adds a committed entry to the log.
func entry(typ raftpb.EntryType, data []byte) func(*testing.T, string) {
	return func(t *testing.T, dir string) {
		log, recovered, err := wal.Open(vfs.OS{}, filepath.Join(dir, "member", "wal"))
		if err != nil {
			t.Fatal(err)
		}
		term := recovered.HardState.GetTerm()
		index := recovered.Snapshot.GetIndex() + uint64(len(recovered.Entries)) + 1
		hs := &raftpb.HardState{Term: new(term), Vote: new(recovered.HardState.GetVote()), Commit: new(index)}
		e := &raftpb.Entry{Type: typ.Enum(), Term: new(term), Index: new(index), Data: data}
		if err := log.Append(hs, []*raftpb.Entry{e}, nil); err != nil {
			t.Fatal(err)
		}
		if err := log.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// unknownRequest is what a later etcd may write: a field that nobody knows yet.
func unknownRequest() []byte {
	return protowire.AppendBytes(protowire.AppendTag(nil, 1400, protowire.BytesType), []byte("new"))
}
