package httpapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"go.uber.org/zap"
)

const (
	alarmNoSpace = "NOSPACE"
	alarmCorrupt = "CORRUPT"
)

func (c Config) handleHealth(mux *http.ServeMux) {
	if c.Metrics != nil {
		mux.Handle("/metrics", c.Metrics)
	}
	mux.HandleFunc("/health", c.health)
	serializable := check{"serializable_read", func(ctx context.Context) error { return c.State.Read(ctx, false) }}
	c.handleChecks(mux, "livez", serializable)
	c.handleChecks(mux, "readyz",
		check{"data_corruption", func(context.Context) error {
			if slices.Contains(c.State.Alarms(), alarmCorrupt) {
				return errors.New("alarm activated: CORRUPT")
			}
			return nil
		}},
		serializable,
		check{"linearizable_read", func(ctx context.Context) error { return c.State.Read(ctx, true) }},
		check{"non_learner", func(context.Context) error {
			if c.State.IsLearner() {
				return errors.New("not supported for learner")
			}
			return nil
		}},
	)
}

// health is one verdict over everything, for load balancers: /health?serializable=true&exclude=NOSPACE.
func (c Config) health(w http.ResponseWriter, r *http.Request) {
	if !onlyGet(w, r) {
		return
	}
	reason := c.unhealthy(r)
	c.Observer.HealthChecked(reason == "")
	body, err := json.Marshal(struct {
		Health string `json:"health"`
		Reason string `json:"reason"`
	}{fmt.Sprint(reason == ""), reason})
	switch {
	case err != nil:
		http.Error(w, err.Error(), http.StatusInternalServerError)
	case reason != "":
		c.Logger.Warn("serving /health false", zap.String("reason", reason))
		http.Error(w, string(body), http.StatusServiceUnavailable)
	default:
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		_, _ = w.Write(body)
	}
}

// unhealthy says what is wrong, "" for nothing.
func (c Config) unhealthy(r *http.Request) string {
	query := r.URL.Query()
	for _, alarm := range c.State.Alarms() {
		switch {
		case slices.Contains(query["exclude"], alarm):
		case alarm == alarmNoSpace || alarm == alarmCorrupt:
			return "ALARM " + alarm
		default:
			return "ALARM UNKNOWN"
		}
	}
	serializable := query.Get("serializable") == "true"
	if !serializable && !c.State.HasLeader() {
		return "RAFT NO LEADER"
	}
	ctx, cancel := context.WithTimeout(r.Context(), c.Timeout)
	defer cancel()
	if err := c.State.Read(ctx, !serializable); err != nil {
		return fmt.Sprintf("RANGE ERROR:%s", err)
	}
	return ""
}

// check is one thing that has to hold.
type check struct {
	name string
	run  func(context.Context) error
}

// handleChecks serves /endpoint with all checks and /endpoint/name with one.
func (c Config) handleChecks(mux *http.ServeMux, endpoint string, checks ...check) {
	mux.HandleFunc("/"+endpoint, func(w http.ResponseWriter, r *http.Request) {
		excluded := r.URL.Query()["exclude"]
		c.run(w, r, endpoint, slices.DeleteFunc(slices.Clone(checks), func(one check) bool {
			return slices.Contains(excluded, one.name)
		}))
	})
	for _, one := range checks {
		mux.HandleFunc("/"+endpoint+"/"+one.name, func(w http.ResponseWriter, r *http.Request) {
			c.run(w, r, endpoint, []check{one})
		})
	}
}

// run answers for checks. One that is asked for by its path runs even if it is excluded, as in etcd.
func (c Config) run(w http.ResponseWriter, r *http.Request, endpoint string, checks []check) {
	if !onlyGet(w, r) {
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), c.Timeout)
	defer cancel()
	var lines strings.Builder
	failed := false
	for _, one := range checks {
		err := one.run(ctx)
		c.Observer.CheckDone(endpoint, one.name, err == nil)
		if err != nil {
			failed = true
			fmt.Fprintf(&lines, "[-]%s failed: %v\n", one.name, err)
		} else {
			fmt.Fprintf(&lines, "[+]%s ok\n", one.name)
		}
	}
	if failed {
		c.Logger.Error("Health check error", zap.String("path", r.URL.Path), zap.String("reason", lines.String()),
			zap.Int("status-code", http.StatusServiceUnavailable))
		http.Error(w, lines.String(), http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	if r.URL.Query().Has("verbose") {
		_, _ = fmt.Fprint(w, lines.String())
	}
	_, _ = fmt.Fprintln(w, "ok")
}
