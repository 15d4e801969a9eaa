package crash

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"strings"
	"testing"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/upkeep-kv/upkeep/backend/vfs"
	"github.com/upkeep-kv/upkeep/raftnode/snapfile"
	"github.com/upkeep-kv/upkeep/snapshot"
)

const choicesPerCut = 12

// everyCut runs check on disks of every cut of a recorded run. acknowledged says what a disk must hold at least.
func everyCut(t *testing.T, y *tally, disk *Recorder, run uint64, acknowledged func(at int) int,
	check func(left vfs.FS, acknowledged int) error) {
	t.Helper()
	for cuts := disk.Cuts(); cuts.Next(); {
		for choice := range uint64(choicesPerCut) {
			if choice > 1 {
				choice += run * 1000
			}
			want := acknowledged(cuts.At())
			left := y.disk(cuts, choice, run, want)
			if left == nil {
				continue
			}
			if err := check(left, want); err != nil {
				t.Fatalf("run %d, power cut after operation %d, choice %d: %v\nbefore the cut:\n%s", run, cuts.At(), choice, err,
					cuts.Recent(20))
			}
		}
	}
}

// acknowledgedAt turns moments into the function that everyCut wants: how many of them have passed.
func acknowledgedAt(moments []int) func(at int) int {
	return func(at int) (n int) {
		for n < len(moments) && moments[n] <= at {
			n++
		}
		return n
	}
}

// TestSnapFiles writes and purges .snap files. The newest that was acknowledged must be there, and every one that is
// there under its name must be whole.
func TestSnapFiles(t *testing.T) {
	const dir = "data/member/snap"
	disks := newTally()
	for run := range uint64(5) {
		seed := firstSeed(t) + run
		rng := rand.New(rand.NewPCG(seed, 3))
		disk := NewRecorder()
		must(t, disk.MkdirAll(dir, 0o700))
		must(t, disk.SyncDir(dir))
		var done []int
		for n := range uint64(7) {
			s := &snapfile.Snapshot{Term: 1 + n/3, Index: 10 * (n + 1), ConfState: &raftpb.ConfState{Voters: []uint64{1}}}
			for id := range uint64(1 + rng.IntN(20)) {
				s.Members = append(s.Members, snapfile.Member{ID: id + 1, Name: "m", PeerURLs: []string{"http://a:1"}})
			}
			_, err := snapfile.Write(disk, dir, s)
			must(t, err)
			done = append(done, disk.Now())
			if rng.IntN(2) == 0 {
				_, err := snapfile.Purge(disk, dir, 2)
				must(t, err)
			}
		}
		everyCut(t, disks, disk, seed, acknowledgedAt(done), func(left vfs.FS, acknowledged int) error {
			names, err := snapfile.List(left, dir)
			if errors.Is(err, fs.ErrNotExist) && acknowledged == 0 {
				return nil
			}
			if err != nil {
				return err
			}
			newest := uint64(0)
			for _, name := range names {
				s, err := snapfile.Read(left, dir+"/"+name)
				if err != nil {
					return err
				}
				newest = max(newest, s.Index)
			}
			if newest < 10*uint64(acknowledged) {
				return fmt.Errorf("the newest file is of index %d, that of %d was acknowledged", newest, 10*acknowledged)
			}
			_, err = snapfile.Purge(left, dir, 2)
			return err
		})
	}
	disks.report(t, ".snap files")
}

// saved is the n-th database that a test saves.
func saved(run uint64, n int) []byte {
	rng := rand.NewChaCha8([32]byte{byte(run), byte(n)})
	b := make([]byte, 512*(2+n%7)) // databases are whole pages, sized as such
	rng.Read(b)
	return b
}

type imageOf []byte

func (i imageOf) Size() int64 { return int64(len(i)) }

func (i imageOf) WriteTo(w io.Writer) (n int64, err error) {
	for piece := i; len(piece) > 0; piece = piece[min(700, len(piece)):] {
		m, err := w.Write(piece[:min(700, len(piece))])
		if n += int64(m); err != nil {
			return n, err
		}
	}
	return n, nil
}

// TestSnapshotSave saves one backup over another, from a stream and from an image. What stands at the path is always
// one of them, whole, and not an older one than was acknowledged.
func TestSnapshotSave(t *testing.T) {
	const path = "backups/newest.db"
	disks := newTally()
	for run := range uint64(60) {
		seed := firstSeed(t) + run
		disk := NewRecorder()
		must(t, disk.MkdirAll("backups", 0o700))
		must(t, disk.SyncDir("backups"))
		var done []int
		var files [][]byte
		for n := range 8 {
			data := saved(seed, n)
			sum := sha256.Sum256(data)
			files = append(files, append(data, sum[:]...))
			var err error
			if n%2 == 0 {
				_, err = snapshot.Save(context.Background(), snapshot.FromReader(bytes.NewReader(files[n])), path,
					snapshot.SaveOptions{FS: disk})
			} else {
				_, err = snapshot.SaveImage(context.Background(), imageOf(files[n][:len(data)]), path, snapshot.SaveOptions{FS: disk})
			}
			must(t, err)
			done = append(done, disk.Now())
		}
		everyCut(t, disks, disk, seed, acknowledgedAt(done), func(left vfs.FS, acknowledged int) error {
			got, err := vfs.ReadFile(left, path)
			if errors.Is(err, fs.ErrNotExist) && acknowledged == 0 {
				return nil
			}
			if err != nil {
				return err
			}
			for n := max(0, acknowledged-1); n < len(files); n++ {
				if bytes.Equal(got, files[n]) {
					return nil
				}
			}
			return fmt.Errorf("the file holds %d bytes that are no backup from the acknowledged number %d on", len(got), acknowledged)
		})
	}
	disks.report(t, "snapshot save")
}

// listed shows a directory for error messages.
func listed(disk vfs.FS, dir string) string {
	entries, err := disk.ReadDir(dir)
	if err != nil {
		return err.Error()
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return strings.Join(names, " ")
}
