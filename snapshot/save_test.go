package snapshot

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"slices"
	"testing"
	"testing/iotest"

	"github.com/upkeep-kv/upkeep/backend/vfs"
)

func database(pages int) []byte {
	return bytes.Repeat([]byte("0123456789abcdef"), pages*4096/16)
}

// pieces is a Source of equal pieces that knows what remains.
func pieces(data []byte, size int, end error) Source {
	return SourceFunc(func() ([]byte, uint64, error) {
		if len(data) == 0 {
			return nil, 0, end
		}
		piece := data[:min(size, len(data))]
		data = data[len(piece):]
		return piece, uint64(len(data)), nil
	})
}

func TestSaveWhateverThePieces(t *testing.T) {
	whole := withTrailer(database(5))
	for _, size := range []int{1, 31, 32, 33, 64, 4096, len(whole) - 1, len(whole)} {
		disk := vfs.NewMem()
		var seen []int64
		saved, err := Save(t.Context(), pieces(whole, size, io.EOF), "backup", SaveOptions{
			FS: disk, Progress: func(received, total int64) { seen = append(seen, received, total) },
		})
		if err != nil {
			t.Fatalf("pieces of %d: %v", size, err)
		}
		got, err := vfs.ReadFile(disk.CrashClone(1), "backup")
		if err != nil || !bytes.Equal(got, whole) {
			t.Errorf("pieces of %d: durable are %d bytes, %v", size, len(got), err)
		}
		if saved.Size != int64(len(whole)) || string(saved.SHA256[:]) != string(whole[len(whole)-32:]) {
			t.Errorf("pieces of %d: %+v", size, saved)
		}
		if n := len(seen); seen[0] != int64(min(size, len(whole))) || seen[n-2] != saved.Size {
			t.Errorf("pieces of %d: progress %v", size, seen)
		}
		if size < len(whole) && seen[1] != saved.Size {
			t.Errorf("pieces of %d: announced total %d", size, seen[1])
		}
	}
}

func TestSaveFromReader(t *testing.T) {
	whole := withTrailer(database(100))
	disk := vfs.NewMem()
	r := iotest.DataErrReader(bytes.NewReader(whole)) // the last bytes come together with io.EOF
	if _, err := Save(t.Context(), FromReader(r), "backup", SaveOptions{FS: disk}); err != nil {
		t.Fatal(err)
	}
	if got, _ := vfs.ReadFile(disk, "backup"); !bytes.Equal(got, whole) {
		t.Errorf("%d bytes", len(got))
	}
}

// Whatever goes wrong, an older file stays as it was and nothing else is left.
func TestSaveThatFails(t *testing.T) {
	whole := withTrailer(database(5))
	broken := errors.New("broken")
	damaged := bytes.Clone(whole)
	damaged[5000] ^= 1
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	tests := map[string]struct {
		source Source
		ctx    context.Context
		fault  vfs.Op
		want   error
	}{
		"stream breaks":             {source: pieces(whole[:10000], 4096, broken), want: broken},
		"stream ends early":         {source: pieces(whole[:10000], 4096, io.EOF), want: ErrIncomplete},
		"stream ends before hash":   {source: pieces(whole[:5*4096], 4096, io.EOF), want: ErrIncomplete},
		"stream cut like a trailer": {source: pieces(whole[:4096+32], 4096, io.EOF), want: ErrHashMismatch},
		"empty stream":              {source: pieces(nil, 1, io.EOF), want: ErrIncomplete},
		"a bit flipped":             {source: pieces(damaged, 4096, io.EOF), want: ErrHashMismatch},
		"cancelled":                 {source: pieces(whole, 4096, io.EOF), ctx: cancelled, want: context.Canceled},
		"cannot write":              {source: pieces(whole, 4096, io.EOF), fault: vfs.OpWrite, want: fs.ErrInvalid},
		"cannot sync":               {source: pieces(whole, 4096, io.EOF), fault: vfs.OpSync, want: fs.ErrInvalid},
		"cannot rename":             {source: pieces(whole, 4096, io.EOF), fault: vfs.OpRename, want: fs.ErrInvalid},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			disk := vfs.NewMem()
			old, _ := disk.Create("backup")
			old.Write([]byte("old"))
			old.Close()
			faulty := vfs.NewFaulty(disk)
			if test.fault != 0 {
				faulty.Inject(vfs.Rule{Ops: test.fault, Err: fs.ErrInvalid})
			}
			ctx := test.ctx
			if ctx == nil {
				ctx = t.Context()
			}
			if _, err := Save(ctx, test.source, "backup", SaveOptions{FS: faulty}); !errors.Is(err, test.want) {
				t.Errorf("%v, want %v", err, test.want)
			}
			if got, _ := vfs.ReadFile(disk, "backup"); string(got) != "old" {
				t.Errorf("older file is now %d bytes", len(got))
			}
			if entries, _ := disk.ReadDir("."); len(entries) != 1 {
				t.Errorf("left behind: %v", entries)
			}
		})
	}
}

type memoryImage struct {
	data []byte
	size int64
}

func (i memoryImage) Size() int64 { return i.size }

func (i memoryImage) WriteTo(w io.Writer) (int64, error) {
	for part := range slices.Chunk(i.data, 3000) {
		if _, err := w.Write(part); err != nil {
			return 0, err
		}
	}
	return int64(len(i.data)), nil
}

func TestSaveImage(t *testing.T) {
	data := database(3)
	disk := vfs.NewMem()
	var last [2]int64
	saved, err := SaveImage(t.Context(), memoryImage{data, int64(len(data))}, "backup", SaveOptions{
		FS: disk, Progress: func(received, total int64) { last = [2]int64{received, total} },
	})
	if err != nil {
		t.Fatal(err)
	}
	got, _ := vfs.ReadFile(disk.CrashClone(1), "backup")
	if !bytes.Equal(got, withTrailer(data)) || saved.Size != int64(len(got)) || last != [2]int64{saved.Size, saved.Size} {
		t.Errorf("%d bytes, %+v, progress %v", len(got), saved, last)
	}
	if _, err := SaveImage(t.Context(), memoryImage{data, int64(len(data)) + 1}, "short", SaveOptions{FS: disk}); !errors.Is(err, ErrIncomplete) {
		t.Error(err)
	}
	if entries, _ := disk.ReadDir("."); len(entries) != 1 {
		t.Errorf("left behind: %v", entries)
	}
}
