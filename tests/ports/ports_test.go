package ports

import (
	"slices"
	"testing"
)

func TestNobodyElseGetsThem(t *testing.T) {
	got := append(Free(t, 200), Free(t, 200)...)
	slices.Sort(got)
	if len(slices.Compact(got)) != 400 {
		t.Error("a port was given twice")
	}
	dir := t.TempDir()
	if err := reserve(t, dir, got[0]); err != nil {
		t.Fatal(err)
	}
	if err := reserve(t, dir, got[0]); err == nil {
		t.Error("a reserved port was reserved again")
	}
}
