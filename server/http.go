package server

import (
	"context"
	"net/http"
	"strconv"

	"github.com/upkeep-kv/upkeep/mvcc"
	"github.com/upkeep-kv/upkeep/server/httpapi"

	pb "github.com/upkeep-kv/upkeep/proto/etcdserverpb"
)

// httpState is the member as /health and /version see it.
type httpState struct{ *Server }

func (h httpState) Alarms() []string {
	var out []string
	for _, a := range h.alarms.List(pb.AlarmType_NONE) {
		out = append(out, a.Type.String())
	}
	return out
}

func (h httpState) HasLeader() bool { return state(h).HasLeader() }
func (h httpState) IsLearner() bool { return state(h).IsLearner() }

func (h httpState) Read(ctx context.Context, linearizable bool) error {
	if linearizable {
		if err := h.node.LinearizableRead(ctx); err != nil {
			return err
		}
	}
	_, err := h.store.Range(ctx, []byte{0}, []byte{0}, mvcc.RangeOptions{Limit: 1, KeysOnly: true})
	return err
}

func (h httpState) Versions() httpapi.Versions {
	version := h.cluster.Version()
	return httpapi.Versions{Server: APIVersion, Cluster: version, Storage: version, Program: Version}
}

func (s *Server) httpConfig() httpapi.Config {
	return httpapi.Config{
		State:   httpState{s},
		Metrics: s.metrics.Handler(),
		Vars:    s.debugVars,
		Pprof:   s.cfg.EnablePprof || s.cfg.Log.Level == "debug",
		Timeout: s.cfg.requestTimeout(),
		Observer: httpapi.Observer{
			HealthChecked: s.metrics.HealthChecked,
			CheckDone:     s.metrics.CheckDone,
		},
		Logger: s.logger,
	}
}

func (s *Server) clientHandler() http.Handler  { return httpapi.ClientHandler(s.httpConfig()) }
func (s *Server) metricsHandler() http.Handler { return httpapi.MetricsHandler(s.httpConfig()) }
func (s *Server) peerHandler() http.Handler    { return httpapi.PeerHandler(s.httpConfig()) }

// debugVars is what /debug/vars tells of raft. Source: etcd.
func (s *Server) debugVars() map[string]any {
	status := s.node.Status()
	progress := map[string]any{}
	for id, p := range status.Progress {
		progress[strconv.FormatUint(id, 16)] = map[string]any{"match": p.Match, "next": p.Next, "state": p.State}
	}
	return map[string]any{"raft.status": map[string]any{
		"id": hexID(status.ID), "term": status.Term, "vote": hexID(status.Vote), "commit": status.Commit,
		"lead": hexID(status.Lead), "raftState": status.State, "applied": status.Applied,
		"progress": progress, "leadtransferee": hexID(status.LeadTransferee),
	}}
}
