package httpapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"
)

// fakeState is a member whose answers a script sets.
type fakeState struct {
	alarms          []string
	noLeader        bool
	learner         bool
	serializableErr error
	linearizableErr error
	versions        Versions
}

func (f *fakeState) Alarms() []string   { return f.alarms }
func (f *fakeState) HasLeader() bool    { return !f.noLeader }
func (f *fakeState) IsLearner() bool    { return f.learner }
func (f *fakeState) Versions() Versions { return f.versions }
func (f *fakeState) Read(ctx context.Context, linearizable bool) error {
	if _, limited := ctx.Deadline(); !limited {
		return errors.New("no deadline")
	}
	if linearizable {
		return f.linearizableErr
	}
	return f.serializableErr
}

// TestEndpoints runs the scripts under testdata. "state" describes the member, every other block asks one handler for
// the paths listed and shows code and body, and what the observer was told.
func TestEndpoints(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		state := &fakeState{}
		var told strings.Builder
		config := Config{
			State:   state,
			Metrics: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "the metrics") }),
			Observer: Observer{
				HealthChecked: func(ok bool) { fmt.Fprintf(&told, "  healthy=%v\n", ok) },
				CheckDone:     func(endpoint, check string, ok bool) { fmt.Fprintf(&told, "  %s/%s=%v\n", endpoint, check, ok) },
			},
		}
		handlers := map[string]http.Handler{"client": ClientHandler(config), "metrics": MetricsHandler(config), "peer": PeerHandler(config)}
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			if d.Cmd == "state" {
				setState(t, state, d)
				return ""
			}
			var b strings.Builder
			for line := range strings.Lines(d.Input) {
				method, target, _ := strings.Cut(strings.TrimSpace(line), " ")
				recorder := httptest.NewRecorder()
				handlers[d.Cmd].ServeHTTP(recorder, httptest.NewRequest(method, "http://member"+target, nil))
				fmt.Fprintf(&b, "%s %s: %d %s %q\n", method, target, recorder.Code, recorder.Header().Get("Content-Type"), recorder.Body)
				if d.HasArg("observed") {
					b.WriteString(told.String())
				}
				told.Reset()
			}
			return b.String()
		})
	})
}

func setState(t *testing.T, state *fakeState, d *datadriven.TestData) {
	*state = fakeState{versions: Versions{Server: "3.7.3", Cluster: "3.7.0", Storage: "3.7.0", Program: "0.1.0"}}
	for _, arg := range d.CmdArgs {
		switch arg.Key {
		case "alarms":
			state.alarms = arg.Vals
		case "no-leader":
			state.noLeader = true
		case "learner":
			state.learner = true
		case "serializable":
			state.serializableErr = errors.New(arg.Vals[0])
		case "linearizable":
			state.linearizableErr = errors.New(arg.Vals[0])
		case "undecided":
			state.versions.Cluster, state.versions.Storage = "", ""
		default:
			t.Fatalf("unknown state %s", arg.Key)
		}
	}
}

func TestCrossOrigin(t *testing.T) {
	handler := ClientHandler(Config{State: &fakeState{}})
	for _, path := range []string{"/health", "/nowhere"} {
		recorder := httptest.NewRecorder()
		handler.ServeHTTP(recorder, httptest.NewRequest(http.MethodOptions, path, nil))
		if recorder.Code != http.StatusOK || recorder.Header().Get("Access-Control-Allow-Origin") != "*" ||
			recorder.Header().Get("Access-Control-Allow-Methods") != "POST, GET, OPTIONS, PUT, DELETE" ||
			recorder.Header().Get("Access-Control-Allow-Headers") != "accept, content-type, authorization" {
			t.Errorf("OPTIONS %s: %d %v", path, recorder.Code, recorder.Header())
		}
	}
}

func TestVars(t *testing.T) {
	handler := ClientHandler(Config{State: &fakeState{}, Vars: func() map[string]any {
		return map[string]any{"raft.status": map[string]any{"id": "8e9e05c52164694d", "term": 2}, "file_descriptor_limit": 20000}
	}})
	recorder := httptest.NewRecorder()
	handler.ServeHTTP(recorder, httptest.NewRequest(http.MethodGet, "/debug/vars", nil))
	var vars struct {
		Cmdline []string       `json:"cmdline"`
		Mem     map[string]any `json:"memstats"`
		Files   int            `json:"file_descriptor_limit"`
		Raft    struct {
			ID   string `json:"id"`
			Term int    `json:"term"`
		} `json:"raft.status"`
	}
	if err := json.Unmarshal(recorder.Body.Bytes(), &vars); err != nil {
		t.Fatalf("%v in %s", err, recorder.Body)
	}
	if len(vars.Cmdline) == 0 || len(vars.Mem) == 0 || vars.Files != 20000 || vars.Raft.ID != "8e9e05c52164694d" || vars.Raft.Term != 2 {
		t.Errorf("variables are %+v", vars)
	}
}

func TestPprofIsOptional(t *testing.T) {
	for _, on := range []bool{false, true} {
		handler := ClientHandler(Config{State: &fakeState{}, Pprof: on})
		for _, path := range []string{"/debug/pprof/", "/debug/pprof/heap", "/debug/pprof/cmdline"} {
			recorder := httptest.NewRecorder()
			handler.ServeHTTP(recorder, httptest.NewRequest(http.MethodGet, path, nil))
			if got := recorder.Code == http.StatusOK; got != on {
				t.Errorf("%s with pprof %v: %d", path, on, recorder.Code)
			}
		}
	}
}
