// Package tidy keeps the shape of the code: which room may import which, and that functions and files stay readable.
package tidy

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"strings"
	"testing"
)

const (
	module           = "github.com/upkeep-kv/upkeep/"
	root             = "../.."
	maxFunctionLines = 75
	maxFileLines     = 520
)

// mayImport lists, for each room, the rooms of ours that it may import, by prefix of the path. A room that is not
// listed here is a mistake.
var mayImport = map[string][]string{
	"proto":              {"proto"},
	"backend/vfs":        {},
	"backend/pace":       {},
	"backend":            {"backend/vfs", "backend/pace"},
	"mvcc/revision":      {},
	"mvcc/index":         {"mvcc/revision"},
	"mvcc":               {"proto", "backend", "mvcc/index", "mvcc/revision"},
	"mvcc/watch":         {"proto", "mvcc"},
	"mvcc/lease":         {"proto", "mvcc", "backend"},
	"raftnode/identity":  {},
	"raftnode/wal":       {"proto", "backend/vfs"},
	"raftnode/snapfile":  {"proto", "backend/vfs"},
	"raftnode/memnet":    {},
	"raftnode/transport": {"proto", "backend/vfs", "raftnode"},
	"raftnode":           {"proto", "backend/vfs", "raftnode/wal", "raftnode/identity"},
	"quota":              {"proto", "backend"},
	"snapshot":           {"proto", "backend", "mvcc/revision", "raftnode/wal", "raftnode/snapfile", "raftnode/identity"},
	"server/apply":       {"proto", "backend", "mvcc", "quota", "raftnode", "server/auth", "server/member", "server/schedule"},
	"server/auth":        {"proto", "backend"},
	"server/member":      {"proto", "backend"},
	"server/config":      {"server/tlsconfig", "server/maintenance/rule", "server/maintenance/window"},
	"server/tlsconfig":   {},
	"server/metrics":     {},
	"server/maintenance": {"proto", "server/schedule"},
	"server/schedule":    {"proto", "backend"},
	"server/integrity":   {},
	"server/discovery":   {},
	"server/tracing":     {},
	"server/httpapi":     {"server/metrics", "server/tlsconfig"},
	"server/gateway":     {"proto"},
	"server/rpc":         {"proto", "backend", "mvcc", "quota", "raftnode", "server/apply", "server/auth", "server/member", "server/schedule"},
	"server":             {"proto", "backend", "mvcc", "quota", "raftnode", "snapshot", "server"},
	"cmd/upkeep":         {"proto", "server", "cmd/upkeep"},
	"cmd/upkeepctl":      {"proto", "snapshot", "backend", "raftnode", "server", "cmd/upkeepctl"},
	"tests":              {""},
}

// roomOf returns the listed room with the longest name that dir lies in.
func roomOf(dir string) string {
	for room := dir; room != "." && room != ""; room = filepath.Dir(room) {
		if _, ok := mayImport[room]; ok {
			return room
		}
	}
	return ""
}

func TestShape(t *testing.T) {
	files := 0
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(root, path)
		if d.IsDir() {
			if name := d.Name(); rel != "." && (strings.HasPrefix(name, ".") || name == "bin" || name == "testdata") {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, ".pb.go") || strings.HasSuffix(path, ".pb.gw.go") {
			return nil
		}
		files++
		checkFile(t, path, rel)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if files < 50 {
		t.Fatalf("only %d files seen: is %s the root of the module?", files, root)
	}
}

func checkFile(t *testing.T, path, rel string) {
	fset := token.NewFileSet()
	file, err := parser.ParseFile(fset, path, nil, parser.SkipObjectResolution)
	if err != nil {
		t.Error(err)
		return
	}
	test := strings.HasSuffix(rel, "_test.go") || strings.HasPrefix(rel, "tests/")
	if lines := fset.Position(file.End()).Line; lines > maxFileLines && !test {
		t.Errorf("%s has %d lines, more than %d", rel, lines, maxFileLines)
	}
	for _, decl := range file.Decls {
		fn, ok := decl.(*ast.FuncDecl)
		if !ok || test {
			continue
		}
		if lines := fset.Position(fn.End()).Line - fset.Position(fn.Pos()).Line; lines > maxFunctionLines {
			t.Errorf("%s: %s has %d lines, more than %d", rel, fn.Name.Name, lines, maxFunctionLines)
		}
	}
	if !test {
		checkImports(t, file, rel)
	}
}

func checkImports(t *testing.T, file *ast.File, rel string) {
	dir := filepath.Dir(rel)
	room := roomOf(dir)
	if room == "" {
		t.Errorf("%s lies in no room of the design", rel)
		return
	}
	for _, spec := range file.Imports {
		imported, ours := strings.CutPrefix(strings.Trim(spec.Path.Value, `"`), module)
		if !ours || roomOf(imported) == room {
			continue
		}
		if !allowed(mayImport[room], imported) {
			t.Errorf("%s: room %s must not import %s", rel, room, imported)
		}
	}
}

// allowed tells whether imported is one of rooms or lies inside one.
func allowed(rooms []string, imported string) bool {
	for _, room := range rooms {
		if imported == room || strings.HasPrefix(imported, room+"/") {
			return true
		}
	}
	return false
}
