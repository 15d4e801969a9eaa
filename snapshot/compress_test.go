package snapshot

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestCompressed: what is saved compressed is smaller, and is the same file when it is unpacked.
func TestCompressed(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	ctx := context.Background()
	plainPath, path := filepath.Join(t.TempDir(), "plain.db"), filepath.Join(t.TempDir(), "small.zst")
	database := bytes.Repeat([]byte("pages and more pages"), 100*512)
	image := withTrailer(database)
	if _, err := Save(ctx, FromReader(bytes.NewReader(image)), plainPath, SaveOptions{}); err != nil {
		t.Fatal(err)
	}
	saved, err := Save(ctx, FromReader(bytes.NewReader(image)), path, SaveOptions{Compress: true})
	if err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(path)
	if err != nil || saved.Size != int64(len(image)) || len(content) > len(image)/10 {
		t.Fatalf("%d bytes of %d on disk, %+v, %v", len(content), len(image), saved, err)
	}
	plain, remove, err := Unpack(ctx, path)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(plain); err != nil || !bytes.Equal(got, image) {
		t.Errorf("unpacked %d bytes, not what was saved: %v", len(got), err)
	}
	if err := errors.Join(Verify(ctx, plain), remove()); err != nil {
		t.Error(err)
	}
	if same, remove, err := Unpack(ctx, plainPath); same != plainPath || err != nil || remove() != nil {
		t.Errorf("a plain file unpacks to %s, %v", same, err)
	}
	if left, _ := os.ReadDir(os.TempDir()); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// TestDamagedCompressed: a bit that flipped, or an end that is missing, is found and said once.
func TestDamagedCompressed(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	ctx := context.Background()
	database := bytes.Repeat([]byte("pages and more pages"), 100*512)
	path := filepath.Join(t.TempDir(), "small.zst")
	image := withTrailer(database)
	if _, err := Save(ctx, FromReader(bytes.NewReader(image)), path, SaveOptions{Compress: true}); err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	flipped := bytes.Clone(content)
	flipped[len(flipped)/2] ^= 4
	for name, damaged := range map[string][]byte{"flipped": flipped, "cut": content[:len(content)-3]} {
		if err := os.WriteFile(path, damaged, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, _, err := Unpack(ctx, path); err == nil || !strings.Contains(err.Error(), path+": the compressed stream is damaged") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if left, _ := os.ReadDir(os.TempDir()); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}
