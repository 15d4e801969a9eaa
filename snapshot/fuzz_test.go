package snapshot

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"testing"
)

// FuzzSnapshotFile: whatever a file holds, plain or compressed, its status is told or it is refused.
func FuzzSnapshotFile(f *testing.F) {
	f.Add([]byte("no snapshot"))
	f.Add(bytes.Repeat([]byte{0}, 544))
	var packed bytes.Buffer
	w, err := compressor(&packed)
	if err != nil {
		f.Fatal(err)
	}
	_, _ = w.Write(bytes.Repeat([]byte("page"), 2000))
	if err := w.Close(); err != nil {
		f.Fatal(err)
	}
	f.Add(packed.Bytes())
	f.Add(packed.Bytes()[:packed.Len()/2])
	f.Fuzz(func(t *testing.T, content []byte) {
		path := filepath.Join(t.TempDir(), "file.db")
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		plain, remove, err := Unpack(context.Background(), path)
		if err == nil {
			_ = Verify(context.Background(), plain)
		}
		if err := remove(); err != nil {
			t.Error(err)
		}
	})
}
