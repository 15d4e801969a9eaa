package httpapi

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"time"

	"go.uber.org/zap"
)

// State is the member that is asked about. All methods may be called from any goroutine.
type State interface {
	// Alarms lists the types of the raised alarms, such as NOSPACE; a type may occur several times.
	Alarms() []string
	HasLeader() bool
	IsLearner() bool
	// Read performs the smallest possible read, linearizable (through the leader) or from what this member has.
	Read(ctx context.Context, linearizable bool) error
	Versions() Versions
}

// Versions are those of /version. Cluster and Storage may be empty while they are not known.
type Versions struct {
	Server  string `json:"etcdserver"`  // of the API
	Cluster string `json:"etcdcluster"` // agreed on by all members
	Storage string `json:"storage"`     // of the schema on disk
	Program string `json:"upkeep"`      // the program's own
}

// Observer is told what health checks found, for metrics. Functions may be nil.
type Observer struct {
	HealthChecked func(healthy bool)
	CheckDone     func(endpoint, check string, ok bool)
}

// Config is what the handlers need. State is required.
type Config struct {
	State   State
	Metrics http.Handler          // of /metrics
	Gateway http.Handler          // of /v3/; nil serves nothing there
	Vars    func() map[string]any // further values of /debug/vars, written as JSON; may be nil
	Pprof   bool                  // serve /debug/pprof/
	// Requests serves /debug/requests and /debug/events, which show what golang.org/x/net/trace has collected in this
	// process, to callers on this machine.
	Requests bool
	// Origins are the sites whose pages may call, as browsers name them (http://host:port); nil means all.
	Origins []string
	// Hosts are the names under which requests without TLS may address the client port; nil means any.
	Hosts    []string
	Timeout  time.Duration // of a read for a health check; 0 means 5 s
	Observer Observer
	Logger   *zap.Logger // nil logs nothing
}

func (c *Config) fill() {
	if c.Timeout == 0 {
		c.Timeout = 5 * time.Second
	}
	if c.Logger == nil {
		c.Logger = zap.NewNop()
	}
	if c.Observer.HealthChecked == nil {
		c.Observer.HealthChecked = func(bool) {}
	}
	if c.Observer.CheckDone == nil {
		c.Observer.CheckDone = func(string, string, bool) {}
	}
}

// ClientHandler serves everything that the client port has over HTTP.
func ClientHandler(c Config) http.Handler {
	c.fill()
	mux := http.NewServeMux()
	c.handleHealth(mux)
	c.handleVersion(mux)
	c.handleDebug(mux)
	if c.Gateway == nil {
		return c.onlyKnownHosts(c.crossOrigin(mux))
	}
	mux.Handle("/v3/", c.Gateway)
	return c.onlyKnownHosts(c.crossOrigin(renameBeta(mux)))
}

// renameBeta serves the gateway under the name that it had before it was final.
func renameBeta(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if rest, ok := strings.CutPrefix(r.URL.Path, "/v3beta/"); ok {
			r = r.Clone(r.Context())
			r.URL.Path = "/v3/" + rest
		}
		next.ServeHTTP(w, r)
	})
}

// MetricsHandler serves what --listen-metrics-urls has: metrics and health.
func MetricsHandler(c Config) http.Handler {
	c.fill()
	mux := http.NewServeMux()
	c.handleHealth(mux)
	return mux
}

// PeerHandler serves what the peer port has over HTTP: the version.
func PeerHandler(c Config) http.Handler {
	c.fill()
	mux := http.NewServeMux()
	c.handleVersion(mux)
	return mux
}

func (c Config) handleVersion(mux *http.ServeMux) {
	mux.HandleFunc("/version", func(w http.ResponseWriter, r *http.Request) {
		if !onlyGet(w, r) {
			return
		}
		v := c.State.Versions()
		if v.Cluster == "" {
			v.Cluster = "not_decided"
		}
		if v.Storage == "" {
			v.Storage = "unknown"
		}
		body, err := json.Marshal(v)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(body) // the client has gone if this fails
	})
}

// onlyGet refuses other methods, HEAD too, as etcd does.
func onlyGet(w http.ResponseWriter, r *http.Request) bool {
	if r.Method == http.MethodGet {
		return true
	}
	w.Header().Set("Allow", http.MethodGet)
	http.Error(w, "Method Not Allowed", http.StatusMethodNotAllowed)
	return false
}
