package httpapi

import (
	"fmt"
	"net"
	"net/http"
	"slices"
)

// crossOrigin tells browsers which sites' pages may call. Other clients do not care.
func (c Config) crossOrigin(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if origin, ok := c.allowedOrigin(r); ok {
			h := w.Header()
			h.Set("Access-Control-Allow-Methods", "POST, GET, OPTIONS, PUT, DELETE")
			h.Set("Access-Control-Allow-Origin", origin)
			h.Set("Access-Control-Allow-Headers", "accept, content-type, authorization")
		}
		if r.Method == http.MethodOptions {
			w.WriteHeader(http.StatusOK)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// allowedOrigin is what to answer to the site that r comes from, if it may call.
func (c Config) allowedOrigin(r *http.Request) (string, bool) {
	if c.Origins == nil {
		return "*", true
	}
	origin := r.Header.Get("Origin")
	return origin, slices.Contains(c.Origins, origin)
}

// misdirected is what a request under an unknown name is told.
const misdirected = `
The request was addressed to a host that this member does not go by.

To fix this, choose one of:
- Enable TLS: a request over TLS may use any host name.
- Allow the name, for example: upkeep --host-whitelist %q

The check protects against DNS rebinding (CVE-2018-5702), by which a web page reaches servers in its reader's network.

`

// onlyKnownHosts refuses requests to other names. TLS does the same by the names in its certificate.
func (c Config) onlyKnownHosts(next http.Handler) http.Handler {
	if c.Hosts == nil {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host := r.Host
		if name, _, err := net.SplitHostPort(host); err == nil {
			host = name
		}
		if r.TLS == nil && !slices.Contains(c.Hosts, host) {
			http.Error(w, fmt.Sprintf(misdirected, host), http.StatusMisdirectedRequest)
			return
		}
		next.ServeHTTP(w, r)
	})
}
