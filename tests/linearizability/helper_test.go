package linearizability_test

import (
	"errors"
	"io"
	"os"
	"testing"

	"github.com/upkeep-kv/upkeep/tests/linearizability"
)

// drain reads a snapshot to its end.
func drain(r io.ReadCloser, err error) error {
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, r)
	return errors.Join(err, r.Close())
}

// TestHistory checks a history again that a failed test has left in the directory UPKEEP_HISTORY.
func TestHistory(t *testing.T) {
	dir := os.Getenv("UPKEEP_HISTORY")
	if dir == "" {
		t.Skip("UPKEEP_HISTORY names no directory")
	}
	h, err := linearizability.ReadHistory(dir)
	if err != nil {
		t.Fatal(err)
	}
	report := linearizability.Check(h)
	t.Log(report)
	for _, v := range report.Violations {
		t.Error(v)
	}
	if err := report.SaveTo(dir, h); err != nil {
		t.Error(err)
	}
}
