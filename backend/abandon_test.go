package backend

import (
	"context"
	"errors"
	"testing"
)

// An abandoned file is the one of the last commit; who waits for another one is told.
func TestAbandonLeavesTheLastCommit(t *testing.T) {
	b := open(t, Config{BatchInterval: never})
	path := b.Path()
	put(b, 2, "committed")
	flush(t, b)
	put(b, 3, "pending")
	b.Abandon()
	b.Abandon() // twice is as good as once
	if err := b.Flush(context.Background()); !errors.Is(err, ErrAbandoned) {
		t.Errorf("flush: %v", err)
	}
	put(b, 4, "too late")
	if err := b.Close(); !errors.Is(err, ErrAbandoned) {
		t.Errorf("close: %v", err)
	}
	checkFile(t, path)
	c := open(t, Config{Path: path})
	defer closeAndCheck(t, c)
	if got := dumpNow(t, c); got != "2.0=committed " {
		t.Errorf("%q", got)
	}
}
