package badinput

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/upkeep-kv/upkeep/tests/proc"
)

// TestDataDirInUse: of Upkeep or of etcd, the message names the flag and the process, and the other one is not disturbed.
func TestDataDirInUse(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"upkeep", "etcd"} {
		t.Run(name, func(t *testing.T) {
			program := upkeep(t)
			if name == "etcd" {
				program = proc.Peer(t, "etcd")
			}
			owner := proc.Single(t, program, filepath.Join(t.TempDir(), "data"), peerURL(t))
			client := owner.Client()
			put(t, client, "before", "1")
			second := proc.Prepare(t, upkeep(t), "m0", owner.DataDir, peerURL(t))
			fails(t, second, fmt.Sprintf(`--data-dir .*%s.*process %d \(%s\)`, owner.DataDir, owner.Pid(), name))
			put(t, client, "after", "2")
		})
	}
}

// TestWALDirInUse: two members with data directories of their own must not write into one log.
func TestWALDirInUse(t *testing.T) {
	t.Parallel()
	log := filepath.Join(t.TempDir(), "wal")
	owner := proc.Single(t, upkeep(t), filepath.Join(t.TempDir(), "data"), peerURL(t), "--wal-dir", log)
	put(t, owner.Client(), "k", "v")
	second := proc.Prepare(t, upkeep(t), "m0", filepath.Join(t.TempDir(), "data"), peerURL(t), "--wal-dir", log)
	fails(t, second, fmt.Sprintf(`--wal-dir .*%s.*process %d \(upkeep\)`, log, owner.Pid()))
	put(t, owner.Client(), "k", "w")
	owner.Stop()
	owner.Restart()
	if got := get(t, owner.Client(), "k"); got != "w" {
		t.Errorf("k is %q", got)
	}
}

// TestDirectoryRefused: neither a file nor a directory without rights serves as a directory.
func TestDirectoryRefused(t *testing.T) {
	t.Parallel()
	base := t.TempDir()
	for dir := base; dir != os.TempDir() && dir != "/"; dir = filepath.Dir(dir) {
		check(t, os.Chmod(dir, 0o755))
	}
	file, readOnly, open := filepath.Join(base, "file"), filepath.Join(base, "readonly"), filepath.Join(base, "open")
	check(t, os.WriteFile(file, []byte("something else"), 0o600))
	check(t, os.Mkdir(readOnly, 0o555))
	check(t, os.Mkdir(open, 0o777))
	check(t, os.Chmod(open, 0o777))
	denied := filepath.Join(base, "denied")
	check(t, os.MkdirAll(filepath.Join(denied, "member", "snap"), 0o755))
	for _, c := range []struct {
		name, data, wal string
		want            string
	}{
		{"data is a file", file, "", `--data-dir .*/file.* is a file, not a directory`},
		{"below a file", filepath.Join(file, "data"), "", `--data-dir .*/file/data.*not a directory`},
		{"data cannot be made", filepath.Join(readOnly, "data"), "", `--data-dir .*/readonly/data.*permission denied`},
		{"data cannot be written", readOnly, "", `--data-dir .*/readonly.*permission denied`},
		{"snap cannot be written", denied, "", `--data-dir .*/denied.* not writable.*permission denied`},
		{"log is a file", filepath.Join(open, "a"), file, `--wal-dir .*/file.* is a file, not a directory`},
		{"log cannot be made", filepath.Join(open, "b"), filepath.Join(readOnly, "wal"), `--wal-dir .*/readonly/wal.*permission denied`},
		{"log cannot be written", filepath.Join(open, "c"), readOnly, `--wal-dir .*/readonly.*permission denied`},
	} {
		t.Run(c.name, func(t *testing.T) {
			args := proc.Prepare(t, upkeep(t), "m0", c.data, peerURL(t), "--wal-dir", c.wal).Arguments()
			uid := uint32(0)
			if os.Getuid() == 0 {
				uid = nobody // root may write anywhere
			}
			runAs(t, uid, upkeepFor(t, uid), args...).says(t, 1, c.want)
		})
	}
	if text, err := os.ReadFile(file); err != nil || string(text) != "something else" {
		t.Errorf("the file was changed to %q, %v", text, err)
	}
}

// upkeepFor returns the program where the user may execute it: the module may lie in root's home.
func upkeepFor(t *testing.T, uid uint32) string {
	t.Helper()
	if uid == 0 {
		return upkeep(t)
	}
	program, err := os.ReadFile(upkeep(t))
	check(t, err)
	dir, err := os.MkdirTemp("", "upkeep")
	check(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	check(t, os.Chmod(dir, 0o755))
	path := filepath.Join(dir, "upkeep")
	check(t, os.WriteFile(path, program, 0o755))
	return path
}
