package httpapi

import (
	"encoding/json"
	"expvar"
	"fmt"
	"net/http"
	"net/http/pprof"
	"slices"

	"golang.org/x/net/trace"
)

func (c Config) handleDebug(mux *http.ServeMux) {
	mux.HandleFunc("/debug/vars", c.vars)
	if c.Requests {
		mux.HandleFunc("/debug/requests", trace.Traces)
		mux.HandleFunc("/debug/events", trace.Events)
	}
	if !c.Pprof {
		return
	}
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	for _, profile := range []string{"heap", "goroutine", "threadcreate", "block", "mutex"} {
		mux.Handle("/debug/pprof/"+profile, pprof.Handler(profile))
	}
}

// vars writes the process's variables (cmdline, memstats) and this member's as one JSON object, sorted by name.
func (c Config) vars(w http.ResponseWriter, _ *http.Request) {
	texts := map[string]string{}
	expvar.Do(func(kv expvar.KeyValue) { texts[kv.Key] = kv.Value.String() })
	if c.Vars != nil {
		for name, value := range c.Vars() {
			text, err := json.Marshal(value)
			if err != nil {
				http.Error(w, err.Error(), http.StatusInternalServerError)
				return
			}
			texts[name] = string(text)
		}
	}
	names := make([]string, 0, len(texts))
	for name := range texts {
		names = append(names, name)
	}
	slices.Sort(names)
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	for i, name := range names {
		open := ",\n"
		if i == 0 {
			open = "{\n"
		}
		_, _ = fmt.Fprintf(w, "%s%q: %s", open, name, texts[name])
	}
	_, _ = fmt.Fprint(w, "\n}\n")
}
