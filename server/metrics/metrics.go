package metrics

import (
	"fmt"
	"net/http"
	"os"
	"runtime"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Metrics holds every metric of one server. All methods may be called from any goroutine.
type Metrics struct {
	registry *prometheus.Registry
	member   atomic.Pointer[string] // own id in hexadecimal, label Local

	serverMetrics
	networkMetrics
	diskMetrics
	mvccMetrics
	grpcMetrics
	upkeepMetrics
	maintenanceMetrics
	backupMetrics
}

// New registers every metric that is there from the start. extensive adds what --metrics=extensive adds.
func New(registry *prometheus.Registry, extensive bool) *Metrics {
	m := &Metrics{registry: registry}
	none := ""
	m.member.Store(&none)
	r := registrar{registry}
	m.serverMetrics.register(r)
	m.networkMetrics.register(r)
	m.diskMetrics.register(r)
	m.mvccMetrics.register(r)
	m.grpcMetrics.register(r, extensive)
	m.upkeepMetrics.register(r)
	m.maintenanceMetrics.register(r)
	m.backupMetrics.register(r)
	registerProcess(r)
	return m
}

// Handler serves the metrics in Prometheus' text format and counts its own scrapes.
func (m *Metrics) Handler() http.Handler {
	return promhttp.InstrumentMetricHandler(m.registry, promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{Registry: m.registry}))
}

// Identity is what a server is, for labels.
type Identity struct {
	MemberID uint64
	Version  string // of the API served, such as 3.7.3
	Gates    []Gate
}

// Gate is a feature gate.
type Gate struct {
	Name    string
	Stage   string // ALPHA or BETA
	Enabled bool
}

// Identify sets the metrics that say who this is. Call it before the transport starts: the peers' metrics carry the id.
func (m *Metrics) Identify(who Identity) {
	id := memberLabel(who.MemberID)
	m.member.Store(&id)
	m.id.WithLabelValues(id).Set(1)
	m.version.WithLabelValues(who.Version).Set(1)
	m.goVersion.WithLabelValues(runtime.Version()).Set(1)
	for _, gate := range who.Gates {
		m.featureEnabled.WithLabelValues(gate.Name, gate.Stage).Set(oneIf(gate.Enabled))
	}
}

func memberLabel(id uint64) string { return fmt.Sprintf("%x", id) }

func oneIf(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

func registerProcess(r registrar) {
	r.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	r.gaugeFunc("os_fd_used", "File descriptors in use.", func() float64 { return float64(usedDescriptors()) })
	r.gaugeFunc("os_fd_limit", "File descriptors that may be in use.", func() float64 { return float64(DescriptorLimit()) })
}

func usedDescriptors() int {
	dir, err := os.Open("/proc/self/fd")
	if err != nil {
		return 0
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return 0
	}
	return len(names) - 1 // not the one that is open for counting
}

// DescriptorLimit is how many files the process may have open.
func DescriptorLimit() uint64 {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return 0
	}
	return limit.Cur
}

// registrar makes metrics and registers them at once. Names are complete, so that they can be searched for.
type registrar struct{ registry *prometheus.Registry }

func (r registrar) counter(name, help string) prometheus.Counter {
	c := prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
	r.registry.MustRegister(c)
	return c
}

func (r registrar) counters(name, help string, labels ...string) *prometheus.CounterVec {
	c := prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
	r.registry.MustRegister(c)
	return c
}

func (r registrar) gauge(name, help string) prometheus.Gauge {
	g := prometheus.NewGauge(prometheus.GaugeOpts{Name: name, Help: help})
	r.registry.MustRegister(g)
	return g
}

func (r registrar) gauges(name, help string, labels ...string) *prometheus.GaugeVec {
	g := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: name, Help: help}, labels)
	r.registry.MustRegister(g)
	return g
}

func (r registrar) gaugeFunc(name, help string, value func() float64) {
	r.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, value))
}

func (r registrar) histogram(name, help string, buckets []float64) prometheus.Histogram {
	h := prometheus.NewHistogram(prometheus.HistogramOpts{Name: name, Help: help, Buckets: buckets})
	r.registry.MustRegister(h)
	return h
}

func (r registrar) histograms(name, help string, buckets []float64, labels ...string) *prometheus.HistogramVec {
	h := prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: name, Help: help, Buckets: buckets}, labels)
	r.registry.MustRegister(h)
	return h
}

// doubling is n bucket bounds: start, 2*start, 4*start, ...
func doubling(start float64, n int) []float64 { return prometheus.ExponentialBuckets(start, 2, n) }

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
