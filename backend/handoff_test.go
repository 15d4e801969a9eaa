package backend

import (
	"context"
	"errors"
	"sync"
	"testing"
)

// TestFrozenDuringBackgroundStaysVisible: a batch that is frozen while background work is being written is part of every
// view, before and after that work is durable.
func TestFrozenDuringBackgroundStaysVisible(t *testing.T) {
	b := open(t, Config{BatchLimit: 4})
	defer closeAndCheck(t, b)
	ctx, cancel := context.WithCancel(context.Background())
	var background sync.WaitGroup
	background.Go(func() {
		for ctx.Err() == nil {
			err := b.Background(ctx, []Op{{Bucket: Meta, Key: []byte("piece"), Value: []byte("done")}})
			if err != nil && !errors.Is(err, context.Canceled) {
				t.Error(err)
				return
			}
		}
	})
	for main := 2; main < 3000 && !t.Failed(); main++ {
		put(b, main, "v")
		v := b.View()
		for seen := max(2, main-10); seen <= main; seen++ {
			if v.Get(revKey(seen)) == nil {
				t.Errorf("revision %d is not in a view taken after revision %d was applied", seen, main)
			}
		}
		v.Close()
	}
	cancel()
	background.Wait()
}
