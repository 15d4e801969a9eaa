package raftnode

import (
	"context"
	"fmt"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/upkeep-kv/upkeep/backend/vfs"
	"github.com/upkeep-kv/upkeep/proto/walpb"
	"github.com/upkeep-kv/upkeep/raftnode/wal"
)

// nullMachine answers at once.
type nullMachine struct {
	index   atomic.Uint64
	results []Result
}

func (m *nullMachine) Apply(e Entry) []Result {
	m.index.Store(e.Index)
	m.results = m.results[:0]
	for range e.Commands {
		m.results = append(m.results, Result{})
	}
	return m.results
}

func (m *nullMachine) ApplyConfChange(index, _ uint64, _ *raftpb.ConfChange, install func(bool) *raftpb.ConfState) Result {
	install(true)
	m.index.Store(index)
	return Result{}
}
func (m *nullMachine) Snapshot(context.Context) (Snapshot, error) {
	return Snapshot{}, context.Canceled
}
func (m *nullMachine) Restore(string, uint64, uint64) error     { return nil }
func (*nullMachine) Rebuild(string, uint64, func() error) error { return nil }
func (m *nullMachine) Durable() uint64                          { return m.index.Load() }

// BenchmarkPropose measures one member on a real disk with a number of clients.
func BenchmarkPropose(b *testing.B) {
	for _, clients := range []int{1, 16, 256, 1024} {
		for _, coalesce := range []bool{false, true} {
			b.Run(fmt.Sprintf("clients=%d/coalesce=%v", clients, coalesce), func(b *testing.B) {
				dir := filepath.Join(b.TempDir(), "wal")
				md := &walpb.Metadata{NodeID: new(uint64(1)), ClusterID: new(uint64(2))}
				err := wal.Bootstrap(vfs.OS{}, dir, md, wal.BootstrapState{Members: []wal.BootstrapMember{{ID: 1, Context: []byte("{}")}}})
				if err != nil {
					b.Fatal(err)
				}
				w, rec, err := wal.Open(vfs.OS{}, dir)
				if err != nil {
					b.Fatal(err)
				}
				var entries atomic.Int64
				n, err := Start(Config{
					ID: 1, ClusterID: 2, WAL: w, Recovered: rec, StateMachine: &nullMachine{}, Transport: &member{},
					Coalesce: coalesce, PreVote: true, InitialElectionTickAdvance: true, TickInterval: 100 * time.Millisecond,
					Observer: Observer{EntryCoalesced: func(int) { entries.Add(1) }},
				})
				if err != nil {
					b.Fatal(err)
				}
				defer n.Stop()
				value := make([]byte, 256)
				b.ReportAllocs()
				b.SetParallelism((clients + 1) / 2)
				b.RunParallel(func(p *testing.PB) {
					for p.Next() {
						req := put("some-key")
						req.Put.Value = value
						if _, err := n.Propose(context.Background(), req); err != nil {
							b.Error(err)
						}
					}
				})
				b.ReportMetric(float64(b.N)/float64(max(1, entries.Load())), "commands/entry")
				b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "puts/s")
			})
		}
	}
}
