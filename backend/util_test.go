package backend

import (
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// revKey is the key of revision main, sub 0.
func revKey(main int) []byte { return subKey(main, 0) }

func subKey(main, sub int) []byte {
	k := binary.BigEndian.AppendUint64(nil, uint64(main))
	return binary.BigEndian.AppendUint64(append(k, '_'), uint64(sub))
}

func open(t testing.TB, cfg Config) *Backend {
	t.Helper()
	if cfg.Path == "" {
		cfg.Path = filepath.Join(t.TempDir(), "db")
	}
	b, err := Open(cfg)
	must(t, err)
	return b
}

// closeAndCheck closes a store and runs the checker on what it leaves: every
// store a test opens ends here.
func closeAndCheck(t testing.TB, b *Backend) {
	t.Helper()
	must(t, b.Close())
	checkFile(t, b.cfg.Path)
}

func checkFile(t testing.TB, path string) {
	t.Helper()
	problems, err := Check(context.Background(), path)
	must(t, err)
	for _, p := range problems {
		t.Errorf("%s: %s", path, p)
	}
}

// put applies one entry that writes revision main.
func put(b *Backend, main int, value string) {
	e := b.Begin()
	e.Append(revKey(main), []byte(value))
	e.Commit(uint64(main), 1)
}

func flush(t testing.TB, b *Backend) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	must(t, b.Flush(ctx))
}

// dump is everything in bucket Key as text.
func dump(t testing.TB, v *View) string {
	t.Helper()
	var s strings.Builder
	must(t, v.Scan(nil, nil, func(k, val []byte) error {
		main, sub, _ := parseRevision(k)
		fmt.Fprintf(&s, "%d.%d=%s ", main, sub, val)
		return nil
	}))
	return s.String()
}

func dumpNow(t testing.TB, b *Backend) string {
	t.Helper()
	v := b.View()
	defer v.Close()
	return dump(t, v)
}

// copyOf copies the file as it is now, as a crash would leave it.
func copyOf(t testing.TB, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	must(t, err)
	to := filepath.Join(t.TempDir(), "db")
	must(t, os.WriteFile(to, data, 0o600))
	return to
}
