package day

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/upkeep-kv/upkeep/proto/schedulepb"
	"github.com/upkeep-kv/upkeep/proto/upkeeppb"
	"github.com/upkeep-kv/upkeep/tests/cluster"
)

const (
	// valueBytes is the size of the values that fill the database.
	valueBytes = 64 << 10
	// rottenKey is the one whose value is damaged.
	rottenKey = "precious"
)

// fill writes n values. It returns the last revision, 0 if the quota was full before.
func (d *day) fill(n int, key func(int) string) (rev int64) {
	d.t.Helper()
	value := strings.Repeat("f", valueBytes)
	for i := range n {
		ctx, cancel := context.WithTimeout(context.Background(), requestTimeout)
		resp, err := d.c.Client().Put(ctx, key(i), fmt.Sprint(i)+value)
		cancel()
		switch {
		case errors.Is(err, rpctypes.ErrNoSpace):
			return 0
		case err != nil:
			d.t.Fatalf("put: %v", err)
		}
		rev = resp.Header.Revision
		if i%20 == 0 {
			time.Sleep(time.Second) // commits are neither many nor large
		}
	}
	return rev
}

func (d *day) delete(key string) {
	d.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), requestTimeout)
	defer cancel()
	if _, err := d.c.Client().Delete(ctx, key); err != nil {
		d.t.Fatalf("delete: %v", err)
	}
}

func (d *day) kill(m *cluster.Member) {
	d.over.setDown(m, true)
	m.Kill()
}

func (d *day) restart(m *cluster.Member) {
	d.over.setDown(m, false)
	m.Restart()
}

// ask asks for maintenance of one member.
func (d *day) ask(kind schedulepb.Kind, m *cluster.Member, parameters ...*schedulepb.Parameter) (run uint64) {
	d.t.Helper()
	resp, err := d.c.Leader().UpkeepClient().Run(d.t.Context(), &upkeeppb.RunRequest{
		Kind: kind, Members: []uint64{m.Server().ID()}, Parameters: parameters,
	})
	if err != nil {
		d.t.Fatalf("%s: %v", kind, err)
	}
	return resp.Run
}

// finished waits until a run has succeeded.
func (d *day) finished(id uint64) {
	d.t.Helper()
	var run *schedulepb.Run
	d.c.WaitFor(time.Hour, fmt.Sprintf("run %d", id), func() bool {
		for _, r := range d.c.Leader().Maintenance().Runs {
			if r.Id == id && r.State != schedulepb.Run_OPEN {
				run = r
			}
		}
		return run != nil
	})
	if run.State != schedulepb.Run_SUCCEEDED {
		d.t.Fatalf("%s: %s\n%s", run.Kind, run.Message, d.c.EventLines(d.c.Events(0)))
	}
}

// read returns all keys of one member.
func (d *day) read(m *cluster.Member) map[string]string {
	d.t.Helper()
	resp, err := m.Client().Get(d.t.Context(), "", clientv3.WithPrefix(), clientv3.WithSerializable())
	if err != nil {
		d.t.Fatalf("reading %s: %v", m.Name, err)
	}
	state := map[string]string{}
	for _, kv := range resp.Kvs {
		state[string(kv.Key)] = string(kv.Value)
	}
	return state
}

// rot inverts a bit of a value in the member's database file, in every copy of the page.
func rot(t *testing.T, m *cluster.Member, value string) {
	t.Helper()
	var content []byte
	for range 50 {
		time.Sleep(5 * time.Second) // a commit that is under way would write what it has read before
		var err error
		if content, err = os.ReadFile(m.DatabaseFile()); err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(content, []byte(value)) {
			break
		}
	}
	found := false
	for at := 0; ; {
		i := bytes.Index(content[at:], []byte(value))
		if i < 0 {
			break
		}
		m.FlipBit(m.DatabaseFile(), int64(at+i))
		at, found = at+i+len(value), true
	}
	if !found {
		t.Fatalf("%q is not in the database of %s", value, m.Name)
	}
}
