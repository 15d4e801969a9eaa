// Command prove breaks Upkeep on purpose, one small edit after the other, and shows which tests notice.
//
//	go run ./tests/prove [-only REGEXP] [-markdown]
//
// Each mutation in mutations.go replaces a piece of one source file, in an overlay of `go test`: nothing in the tree is
// touched. It names the tests that should fail. First these run on the sound tree, where they must pass; then on each
// broken one. The program exits with 1 if a mutation survives, and with 2 if it cannot be applied: the code that it
// edits has changed, and the mutation must follow.
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
)

// mutation is one way to break the product.
type mutation struct {
	what string
	file string
	// old stands in file exactly once, and is replaced.
	old, mutated string
	tests        []suite
}

// suite is some tests of one package; run is a pattern of `go test`, empty for all of them.
type suite struct{ pkg, run string }

func main() {
	only := flag.String("only", "", "try only the mutations whose description matches this pattern")
	markdown := flag.Bool("markdown", false, "print the table for docs/testing.md")
	flag.Parse()
	pattern, err := regexp.Compile(*only)
	if err != nil {
		fail(fmt.Errorf("-only: %w", err))
	}
	chosen := slices.DeleteFunc(mutations(), func(m mutation) bool { return !pattern.MatchString(m.what) })
	if len(chosen) == 0 {
		fail(fmt.Errorf("-only %q matches no mutation", *only))
	}
	p, err := newProver()
	if err != nil {
		fail(err)
	}
	survivors, err := p.proveAll(chosen, *markdown)
	p.close()
	if err != nil {
		fail(err)
	}
	fmt.Printf("\n%d mutations, %d caught, %d survived\n", len(chosen), len(chosen)-len(survivors), len(survivors))
	if len(survivors) > 0 {
		os.Exit(1)
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "prove:", err)
	os.Exit(2)
}

type prover struct {
	root string // of the module
	dir  string // for overlays
}

func newProver() (*prover, error) {
	out, err := exec.Command("go", "env", "GOMOD").Output()
	if err != nil {
		return nil, err
	}
	root := filepath.Dir(strings.TrimSpace(string(out)))
	if _, err := os.Stat(filepath.Join(root, "tests", "prove")); err != nil {
		return nil, errors.New("run it inside the tree of Upkeep")
	}
	dir, err := os.MkdirTemp("", "upkeep-prove-*")
	return &prover{root: root, dir: dir}, err
}

func (p *prover) close() { _ = os.RemoveAll(p.dir) }

func (p *prover) proveAll(all []mutation, markdown bool) (survivors []string, err error) {
	// A mutation that does not fit any more is told before an hour of tests.
	overlays := make([]string, len(all))
	for i, m := range all {
		if overlays[i], err = p.overlay(i, m); err != nil {
			return nil, fmt.Errorf("%s: %w", m.what, err)
		}
	}
	if err := p.sound(all); err != nil {
		return nil, err
	}
	row, between := "%-62s  %-8s  %s\n", ""
	if markdown {
		row, between = "| %s | %s | %s |\n", "|---|---|---|\n"
	}
	fmt.Printf(row, "what was broken", "after", "caught by")
	fmt.Print(between)
	for i, m := range all {
		started := time.Now()
		caught, err := p.try(overlays[i], m.tests)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", m.what, err)
		}
		by := strings.Join(caught, ", ")
		if len(caught) == 0 {
			survivors = append(survivors, m.what)
			by = "NOTHING"
		}
		fmt.Printf(row, m.what, time.Since(started).Round(time.Second/10), by)
	}
	return survivors, nil
}

// overlay writes the broken file and the list that tells `go test` to read it.
func (p *prover) overlay(n int, m mutation) (string, error) {
	source := filepath.Join(p.root, filepath.FromSlash(m.file))
	sound, err := os.ReadFile(source)
	if err != nil {
		return "", err
	}
	if count := strings.Count(string(sound), m.old); count != 1 {
		return "", fmt.Errorf("%s holds the code to be broken %d times instead of once", m.file, count)
	}
	broken := filepath.Join(p.dir, fmt.Sprintf("%d.go", n))
	if err := os.WriteFile(broken, []byte(strings.Replace(string(sound), m.old, m.mutated, 1)), 0o600); err != nil {
		return "", err
	}
	list, err := json.Marshal(map[string]map[string]string{"Replace": {source: broken}})
	if err != nil {
		return "", err
	}
	path := filepath.Join(p.dir, fmt.Sprintf("%d.json", n))
	return path, os.WriteFile(path, list, 0o600)
}

// sound runs every named test without any mutation.
func (p *prover) sound(all []mutation) error {
	var seen []suite
	for _, m := range all {
		for _, s := range m.tests {
			if !slices.Contains(seen, s) {
				seen = append(seen, s)
			}
		}
	}
	for _, s := range seen {
		failed, err := p.run("", s)
		if err != nil {
			return err
		}
		if len(failed) > 0 {
			return fmt.Errorf("%s fails although nothing is broken: nothing could be concluded", strings.Join(failed, ", "))
		}
	}
	return nil
}

// try runs the suites and names what failed.
func (p *prover) try(overlay string, tests []suite) ([]string, error) {
	var caught []string
	for _, s := range tests {
		failed, err := p.run(overlay, s)
		if err != nil {
			return nil, err
		}
		caught = append(caught, failed...)
	}
	return caught, nil
}

// failedTest finds the names of tests that failed; subtests are indented.
var failedTest = regexp.MustCompile(`(?m)^--- FAIL: (\S+)`)

// run returns the tests of a suite that failed, as "package.Test". Code that does not compile proves nothing.
func (p *prover) run(overlay string, s suite) ([]string, error) {
	failed, err := p.runOnce(overlay, s)
	if errors.Is(err, errBuild) { // somebody may have emptied the build cache underneath
		failed, err = p.runOnce(overlay, s)
	}
	return failed, err
}

var errBuild = errors.New("does not compile")

func (p *prover) runOnce(overlay string, s suite) ([]string, error) {
	args := []string{"test", "-count=1", "-timeout=3m"}
	if overlay != "" {
		args = append(args, "-overlay", overlay)
	}
	if s.run != "" {
		args = append(args, "-run", "^("+s.run+")$")
	}
	cmd := exec.Command("go", append(args, "./"+s.pkg)...)
	cmd.Dir = p.root
	out, err := cmd.CombinedOutput()
	text := string(out)
	if strings.Contains(text, "[build failed]") || strings.Contains(text, "[setup failed]") {
		return nil, fmt.Errorf("%s %w:\n%s", s.pkg, errBuild, text)
	}
	if strings.Contains(text, "no tests to run") {
		return nil, fmt.Errorf("%s has no test that matches %q", s.pkg, s.run)
	}
	if err == nil {
		return nil, nil
	}
	var failed []string
	for _, match := range failedTest.FindAllStringSubmatch(text, -1) {
		failed = append(failed, s.pkg+"."+match[1])
	}
	if len(failed) == 0 { // a panic or a deadlock ends the process before it can say which
		failed = []string{fmt.Sprintf("%s.%s (ended early)", s.pkg, s.run)}
	}
	return failed, nil
}
