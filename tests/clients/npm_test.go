package clients

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/upkeep-kv/upkeep/tests/proc"
)

// TestNpmClient installs the versions that package-lock.json names, once, into bin/npm.
func TestNpmClient(t *testing.T) {
	t.Parallel()
	node, err := exec.LookPath("node")
	if err != nil {
		t.Skip("node is missing: the npm client etcd3 is not tested")
	}
	dir := install(t)
	c := proc.Start(t, proc.Build(t, "upkeep"), 3)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, node, "client.js", c.Members[0].ClientURL)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if err != nil || !bytes.HasSuffix(out, []byte("\nok\n")) {
		t.Fatalf("%v\n%s", err, out)
	}
}

func install(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(proc.Root(t), "bin", "npm")
	check(t, os.MkdirAll(dir, 0o755))
	for _, name := range []string{"package.json", "package-lock.json", "client.js"} {
		text, err := os.ReadFile(filepath.Join("testdata", "npm", name))
		check(t, err)
		if have, err := os.ReadFile(filepath.Join(dir, name)); err != nil || !bytes.Equal(have, text) {
			check(t, os.WriteFile(filepath.Join(dir, name), text, 0o644))
			if name == "package-lock.json" {
				check(t, os.RemoveAll(filepath.Join(dir, "node_modules")))
			}
		}
	}
	// What npm installed last stands in a lock file of its own.
	if _, err := os.Stat(filepath.Join(dir, "node_modules", ".package-lock.json")); err == nil {
		return dir
	}
	cmd := exec.Command("npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts")
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("npm ci: %v\n%s", err, out)
	}
	return dir
}
