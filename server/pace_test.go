package server

import (
	"bytes"
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

func TestPacedWriter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		p := &pacedWriter{ctx: context.Background(), to: &out, rate: 1000}
		start := time.Now()
		for range 10 {
			if n, err := p.Write(make([]byte, 500)); n != 500 || err != nil {
				t.Fatal(n, err)
			}
		}
		if took := time.Since(start); took != 5*time.Second || out.Len() != 5000 {
			t.Fatalf("5000 bytes at 1000 a second took %v, %d arrived", took, out.Len())
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		p.ctx = ctx
		if _, err := p.Write(make([]byte, 5000)); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("a caller who has gone is written to: %v", err)
		}
	})
}
