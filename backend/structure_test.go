package backend

import (
	"context"
	"encoding/binary"
	"errors"
	"math/rand"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// soundFile makes a file with branch pages, overflow pages and inline buckets.
func soundFile(t *testing.T) string {
	t.Helper()
	b := open(t, Config{NoSync: true})
	for i := 2; i < 4000; i++ {
		put(b, i, strings.Repeat("x", i%300))
	}
	put(b, 4000, strings.Repeat("large", 4000))
	closeAndCheck(t, b)
	return b.cfg.Path
}

// TestCheckFindsDamage flips bytes of page headers, elements and keys. Whatever
// the checker lets pass must be harmless: opening the file and reading all of it
// must not kill the process, which bbolt left to itself would.
func TestCheckFindsDamage(t *testing.T) {
	sound, err := os.ReadFile(soundFile(t))
	must(t, err)
	f := &walker{data: sound, limit: 1}
	pages := int(f.newestMeta().pages)
	sound = sound[:pages*4096] // without what the file was grown by in advance
	rng := rand.New(rand.NewSource(1))
	path := filepath.Join(t.TempDir(), "db")
	found := 0
	for i := range 300 {
		data := append([]byte(nil), sound...)
		at := (2+rng.Intn(pages-2))*4096 + rng.Intn(64)
		data[at] ^= byte(1 + rng.Intn(255))
		must(t, os.WriteFile(path, data, 0o600))
		problems, err := Check(context.Background(), path)
		if err == nil && len(problems) == 0 {
			b, err := Open(Config{Path: path})
			if err != nil {
				t.Fatalf("damage %d at %d: checked, but %v", i, at, err)
			}
			_, err = b.Hash(context.Background())
			must(t, err)
			must(t, b.Close())
			continue
		}
		found++
		switch b, err := Open(Config{Path: path}); {
		case err == nil: // only what a key says is wrong, not the structure
			must(t, b.Close())
		case !errors.Is(err, ErrCorrupt):
			t.Fatalf("damage %d at %d: %v", i, at, err)
		}
	}
	// Many flips hit values or free pages, which nothing can tell.
	if found < 100 {
		t.Errorf("%d of 300 flips were found", found)
	}
}

func TestCheckNamesTheProblem(t *testing.T) {
	sound, err := os.ReadFile(soundFile(t))
	must(t, err)
	w := &walker{data: sound, limit: 1}
	root := w.newestMeta().root
	for _, c := range []struct {
		want   string
		damage func(data []byte) []byte
	}{
		{"neither meta page is valid", func(d []byte) []byte { d[40]++; d[4096+40]++; return d }},
		{"it was cut off", func(d []byte) []byte { return d[:8*4096] }},
		{"has only 100 bytes", func(d []byte) []byte { return d[:100] }},
		{"says it is page 77", func(d []byte) []byte {
			binary.LittleEndian.PutUint64(d[root*4096:], 77)
			return d
		}},
		{"neither branch nor leaf", func(d []byte) []byte { d[root*4096+8] = 0x20; return d }},
		{"impossible number of keys", func(d []byte) []byte { d[root*4096+11] = 0xff; return d }},
		{"lies outside of the page", func(d []byte) []byte { d[root*4096+16+11] = 0xff; return d }},
	} {
		path := filepath.Join(t.TempDir(), "db")
		must(t, os.WriteFile(path, c.damage(append([]byte(nil), sound...)), 0o600))
		problems, err := Check(context.Background(), path)
		must(t, err)
		if len(problems) == 0 || !strings.Contains(strings.Join(problems, "\n"), c.want) {
			t.Errorf("want %q, got %q", c.want, problems)
		}
		if _, err := Open(Config{Path: path}); !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("open: %v, want %q", err, c.want)
		}
		if _, err := OpenFile(path); !errors.Is(err, ErrCorrupt) {
			t.Errorf("open for reading: %v", err)
		}
	}
}

// TestOneMetaPageIsEnough: that is what bbolt keeps two for.
func TestOneMetaPageIsEnough(t *testing.T) {
	sound, err := os.ReadFile(soundFile(t))
	must(t, err)
	for page := range 2 {
		data := append([]byte(nil), sound...)
		data[page*4096+60]++
		path := filepath.Join(t.TempDir(), "db")
		must(t, os.WriteFile(path, data, 0o600))
		b := open(t, Config{Path: path})
		must(t, b.Close())
	}
}

func TestCensus(t *testing.T) {
	b := open(t, Config{NoSync: true})
	defer closeAndCheck(t, b)
	for i := 2; i < 4000; i++ {
		put(b, i, strings.Repeat("x", 200))
	}
	put(b, 4000, strings.Repeat("large", 4000))
	flush(t, b)
	c, err := b.Census(context.Background())
	must(t, err)
	if c.Pages*int64(c.PageSize) != b.Sizes().File || c.Pending < 0 {
		t.Errorf("%+v", c)
	}
	key := c.Buckets[Key]
	if key.Name != "key" || key.Keys != 3999 || key.Leaf < 200 || key.Branch < 1 || key.Overflow < 4 || key.Fill < 0.85 || key.Fill > 1 {
		t.Errorf("%+v", key)
	}
	var sum int64
	for _, b := range c.Buckets {
		sum += b.Branch + b.Leaf + b.Overflow
	}
	if sum+1 != c.Branch+c.Leaf+c.Overflow || c.Meta+sum+1+c.Free+c.Pending != c.Pages {
		t.Errorf("pages do not add up: %+v", c)
	}
}
