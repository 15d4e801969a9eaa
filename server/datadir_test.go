package server

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.uber.org/zap"

	"github.com/upkeep-kv/upkeep/server/config"
	"github.com/upkeep-kv/upkeep/snapshot"
)

// "db" is a hexadecimal number too.
func TestOnlyOldTransfersAreRemoved(t *testing.T) {
	cfg := config.Default()
	cfg.DataDir = t.TempDir()
	d := newDataDir(cfg)
	if err := os.MkdirAll(d.snap, dirMode); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{
		"db", "00000000000000db.snap.db", "00000000000000dc.snap.db", "0000000000000002-00000000000000db.snap", "x.snap.db",
	} {
		if err := os.WriteFile(filepath.Join(d.snap, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.removeTransfers(0xdb); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(d.snap)
	if err != nil {
		t.Fatal(err)
	}
	var left []string
	for _, e := range entries {
		left = append(left, e.Name())
	}
	want := []string{"0000000000000002-00000000000000db.snap", "00000000000000dc.snap.db", "db", "x.snap.db"}
	if !slices.Equal(left, want) {
		t.Fatalf("left are %q, want %q", left, want)
	}
}

// A restore that was broken off must not become an empty member.
func TestUnfinishedRestoreIsRefused(t *testing.T) {
	cfg := config.Default()
	cfg.DataDir = t.TempDir()
	d := newDataDir(cfg)
	part := filepath.Join(cfg.DataDir, snapshot.UnfinishedName)
	if err := os.MkdirAll(filepath.Join(part, "member", "snap"), dirMode); err != nil {
		t.Fatal(err)
	}
	err := d.prepare(zap.NewNop())
	if err == nil || !strings.Contains(err.Error(), "broken off") {
		t.Fatalf("got %v", err)
	}
	if _, err := os.Stat(filepath.Join(cfg.DataDir, "member")); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("the directory was touched: %v", err)
	}
	if err := os.Rename(filepath.Join(part, "member"), filepath.Join(cfg.DataDir, "member")); err != nil {
		t.Fatal(err)
	}
	if err := d.prepare(zap.NewNop()); err != nil {
		t.Fatalf("after the member was put in place: %v", err)
	}
}
