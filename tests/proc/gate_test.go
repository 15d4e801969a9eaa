package proc

import (
	"context"
	"testing"
	"time"
)

// The disk of a real process is as slow as the test says, and as fast as before afterwards.
func TestSyncGate(t *testing.T) {
	peerURL := "http://127.0.0.1:1" // a cluster of one talks to nobody
	m := Prepare(t, Build(t, "upkeep"), "m0", t.TempDir()+"/m0", peerURL, "--listen-peer-urls=http://127.0.0.1:0")
	gate := m.GateSyncs()
	m.Restart()
	if err := gate.Err(); err != nil {
		t.Skipf("not permitted here: %v", err)
	}
	client := m.Client()
	put := func() time.Duration {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		start := time.Now()
		if _, err := client.Put(ctx, "k", "v"); err != nil {
			t.Fatal(err)
		}
		return time.Since(start)
	}
	before := gate.Stopped()
	put()
	if gate.Stopped() == before {
		t.Error("a put was acknowledged without a sync")
	}
	const delay = time.Second
	gate.SetDelay(delay)
	if took := put(); took < delay {
		t.Errorf("a put took %v on a disk that takes %v for a sync", took, delay)
	}
	gate.SetDelay(0)
	put()
	m.Kill()
	m.Restart()
	put()
}
