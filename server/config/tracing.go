package config

import "fmt"

// DefaultTracingService is the name that spans carry unless --distributed-tracing-service-name says otherwise. Source: etcd.
const (
	DefaultTracingService = "etcd"
	defaultTracingAddress = "localhost:4317"

	// MaxSamplingRate of --distributed-tracing-sampling-rate takes every request.
	MaxSamplingRate = 1_000_000
)

// Tracing says whether and where spans of requests are sent, by OTLP over gRPC.
type Tracing struct {
	Enabled    bool
	Address    string // host:port of the collector
	Service    string
	InstanceID string
	// SamplingRate is how many of a million requests are traced that come without a decision of their caller's. A caller
	// that has decided is followed.
	SamplingRate int
}

func tracingOptions(t *Tracing) []*option {
	return []*option{
		truth("enable-distributed-tracing", observingSection, false, "Send traces of requests to a collector, by OTLP over gRPC.", &t.Enabled),
		text("distributed-tracing-address", observingSection, defaultTracingAddress, "Collector of traces, host:port. The connection is not encrypted.", &t.Address),
		text("distributed-tracing-service-name", observingSection, DefaultTracingService, "Service that traces are of; the same on all members.", &t.Service),
		text("distributed-tracing-instance-id", observingSection, "", "Name of this member in traces, unlike any other's.", &t.InstanceID),
		whole("distributed-tracing-sampling-rate", observingSection, "0", "Of a million requests, so many are traced whose caller did not decide it.", &t.SamplingRate),
	}
}

func (t *Tracing) check() error {
	switch {
	case !t.Enabled:
		return nil
	case t.SamplingRate < 0:
		return fmt.Errorf("--distributed-tracing-sampling-rate must be positive (set to %d)", t.SamplingRate)
	case t.SamplingRate > MaxSamplingRate:
		return fmt.Errorf("--distributed-tracing-sampling-rate must be at most %d (set to %d)", MaxSamplingRate, t.SamplingRate)
	case t.Address == "":
		return fmt.Errorf("--distributed-tracing-address must be set with --enable-distributed-tracing, such as %s", defaultTracingAddress)
	case t.Service == "":
		return fmt.Errorf("--distributed-tracing-service-name must be set with --enable-distributed-tracing, such as %s", DefaultTracingService)
	}
	return nil
}
