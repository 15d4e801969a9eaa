package badinput

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/upkeep-kv/upkeep/tests/proc"
)

// TestBadBackups: a snapshot that is not what was saved, or a restore that contradicts itself, is refused, and nothing is
// written.
func TestBadBackups(t *testing.T) {
	t.Parallel()
	ctl := upkeepctl(t)
	m := proc.Single(t, upkeep(t), filepath.Join(t.TempDir(), "data"), peerURL(t))
	client := m.Client()
	fillKeys(t, client, 20, 1000)
	good := filepath.Join(t.TempDir(), "good.db")
	run(t, ctl, "--endpoints", m.ClientURL, "snapshot", "save", good).says(t, 0)
	whole, err := os.ReadFile(good)
	check(t, err)
	m.Stop()

	damaged := func(name string, change func([]byte) []byte) string {
		path := filepath.Join(t.TempDir(), name)
		check(t, os.WriteFile(path, change(append([]byte(nil), whole...)), 0o600))
		return path
	}
	flipped := func(at int) func([]byte) []byte {
		return func(b []byte) []byte { b[at] ^= 4; return b }
	}
	inValue := strings.Index(string(whole), "k0007") + 200
	hash := damaged("hash.db", flipped(len(whole)-3))
	value := damaged("value.db", flipped(inValue))
	pages := damaged("pages.db", func(b []byte) []byte { clear(b[3*4096 : 9*4096]); return b })
	half := damaged("half.db", func(b []byte) []byte { return b[:len(b)/2&^511] })
	text := damaged("text.db", func([]byte) []byte { return []byte(strings.Repeat("no database at all. ", 1000)) })
	for _, c := range []struct {
		name string
		args []string
		code int
		want string
	}{
		{"wrong hash", []string{"restore", hash}, 1, `expected sha256 .*got`},
		{"flipped bit", []string{"restore", value}, 1, `expected sha256 .*got`},
		{"flipped bit, verified", []string{"verify", value}, 1, `expected sha256 .*got`},
		{"cut off", []string{"restore", half}, 1, `snapshot missing hash but --skip-hash-check=false`},
		{"cut off, taken as it is", []string{"restore", half, "--skip-hash-check"}, 1, `half\.db.*cut off|integrity check failed`},
		{"damaged pages, taken as they are", []string{"restore", pages, "--skip-hash-check"}, 1, `pages\.db.*page \d+|integrity check failed`},
		{"status of damaged pages", []string{"status", pages}, 1, `snapshot file integrity check failed`},
		{"no database", []string{"restore", text, "--skip-hash-check"}, 1, `text\.db.*neither meta page is valid|integrity check failed`},
		{"status of no database", []string{"status", text}, 1, `integrity check failed`},
		{"copied database", []string{"restore", database(m)}, 1, `snapshot missing hash but --skip-hash-check=false`},
		{"no such file", []string{"restore", good + "x"}, 1, `good\.dbx.*no such file`},
		{"a directory", []string{"restore", t.TempDir()}, 1, `is a directory|not a regular file`},
		{"bump without mark", []string{"restore", good, "--bump-revision", "5"}, 128, `--mark-compacted required`},
		{"mark without bump", []string{"restore", good, "--mark-compacted"}, 128, `--mark-compacted required`},
		{"unknown name", []string{"restore", good, "--name", "m7"}, 1, `"m7"`},
		{"other URL", []string{"restore", good, "--initial-advertise-peer-urls", "http://127.0.0.1:9"}, 1, `--initial-cluster .*--initial-advertise-peer-urls`},
		{"malformed cluster", []string{"restore", good, "--initial-cluster", "default"}, 1, `default`},
		{"a revision of the future", []string{"restore", good, "--to-revision", "1000"}, 1, `1000 was asked for, but this snapshot holds revisions 1 to \d+`},
		{"unknown flag", []string{"restore", good, "--nosuch"}, 1, `--nosuch`},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "restored")
			args := append([]string{"snapshot"}, c.args...)
			if c.args[0] == "restore" {
				args = append(args, "--data-dir", dir)
			}
			run(t, ctl, args...).says(t, c.code, c.want)
			if _, err := os.Stat(dir); err == nil {
				t.Errorf("%s was made all the same", dir)
			}
		})
	}
	t.Run("occupied", func(t *testing.T) {
		dir := t.TempDir()
		other := filepath.Join(dir, "other")
		check(t, os.WriteFile(other, []byte("precious"), 0o600))
		run(t, ctl, "snapshot", "restore", good, "--data-dir", dir).says(t, 1, fmt.Sprintf(`data-dir "%s" not empty`, dir))
		run(t, ctl, "snapshot", "restore", good, "--data-dir", other).says(t, 1, fmt.Sprintf(`data-dir "%s" not empty or could not be read`, other))
		fresh := filepath.Join(t.TempDir(), "data")
		run(t, ctl, "snapshot", "restore", good, "--data-dir", fresh, "--wal-dir", dir).says(t, 1, fmt.Sprintf(`wal-dir "%s" exists`, dir))
		if text, err := os.ReadFile(other); err != nil || string(text) != "precious" {
			t.Errorf("the file there is %q, %v", text, err)
		}
		if _, err := os.Stat(fresh); err == nil {
			t.Error("the data directory was made all the same")
		}
		run(t, ctl, "snapshot", "restore", good, "--data-dir", fresh).says(t, 0)
		run(t, ctl, "snapshot", "restore", good, "--data-dir", fresh).says(t, 1, `not empty`)
	})
}

// TestToolOnRunningMember: what belongs to a running member is not worked on behind its back.
func TestToolOnRunningMember(t *testing.T) {
	t.Parallel()
	ctl := upkeepctl(t)
	m := proc.Single(t, upkeep(t), filepath.Join(t.TempDir(), "data"), peerURL(t))
	put(t, m.Client(), "k", "v")
	for _, args := range [][]string{
		{"defrag", "--data-dir", m.DataDir},
		{"check", database(m)},
		{"snapshot", "status", database(m), "--timeout=100ms"},
		{"hashkv", database(m), "--timeout=100ms"},
	} {
		e := run(t, ctl, args...)
		if e.code == 0 {
			t.Errorf("%v: exit code 0", args)
		}
		mustMatch(t, e.out, fmt.Sprintf(`locked by process %d \(upkeep\)`, m.Pid()))
		noPanic(t, e.out)
		if t.Failed() {
			t.Fatalf("%v printed\n%s", args, e.out)
		}
	}
	put(t, m.Client(), "k", "w")
}
