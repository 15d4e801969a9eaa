package server

import (
	"context"
	"net/http"
	"strconv"

	"google.golang.org/grpc/test/bufconn"

	"github.com/upkeep-kv/upkeep/mvcc"
	"github.com/upkeep-kv/upkeep/server/gateway"
	"github.com/upkeep-kv/upkeep/server/httpapi"
	"github.com/upkeep-kv/upkeep/server/rpc"

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
		State:    httpState{s},
		Metrics:  s.metrics.Handler(),
		Vars:     s.debugVars,
		Origins:  s.cfg.CORSOrigins,
		Hosts:    s.cfg.HostWhitelist,
		Pprof:    s.cfg.EnablePprof || s.cfg.Log.Level == "debug",
		Requests: s.cfg.Log.Level == "debug",
		Timeout:  s.cfg.requestTimeout(),
		Observer: httpapi.Observer{
			HealthChecked: s.metrics.HealthChecked,
			CheckDone:     s.metrics.CheckDone,
		},
		Logger: s.logger,
	}
}

func (s *Server) clientHandler() http.Handler {
	c := s.httpConfig()
	if s.gateway != nil {
		c.Gateway = s.gateway
	}
	return httpapi.ClientHandler(c)
}

// loopbackBytes is how much the gateway and the gRPC server may have on the way to each other, in each direction.
const loopbackBytes = 64 << 10

// openGateway prepares JSON over HTTP: through a listener in memory, it is one more client of the gRPC server.
func (s *Server) openGateway() {
	if !s.cfg.EnableGRPCGateway {
		return
	}
	loopback := bufconn.Listen(loopbackBytes)
	s.listeners.clientGRPC = append(s.listeners.clientGRPC, port{Listener: loopback})
	s.gateway = gateway.New(gateway.Config{
		Dial:              loopback.DialContext,
		MaxMessageBytes:   rpc.MaxMessageBytes(int(s.cfg.MaxRequestBytes)),
		IgnoresCommonName: func() bool { return s.cfg.ClientTLS.ClientCertAuth && s.auth.Enabled() },
		Logger:            s.logger,
	})
}

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
