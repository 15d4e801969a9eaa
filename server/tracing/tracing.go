package tracing

import (
	"context"
	"fmt"
	"time"

	"go.opentelemetry.io/contrib/instrumentation/google.golang.org/grpc/otelgrpc"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/metric/noop"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.uber.org/zap"
	"google.golang.org/grpc"
)

// million is the unit of Config.PerMillion.
const million = 1_000_000

// shutdownTimeout bounds how long the spans that are left may take to reach the collector.
const shutdownTimeout = 3 * time.Second

// Config says where spans go. All fields but InstanceID are required.
type Config struct {
	Address    string // host:port of the collector, reached without TLS
	Service    string
	InstanceID string
	Version    string
	PerMillion int // sampled requests, of a million that come without a caller's decision
	Logger     *zap.Logger
}

// Tracer makes spans of calls and sends them. Its methods may be called from any goroutine.
type Tracer struct {
	provider *sdktrace.TracerProvider
}

// Open starts to send. It does not wait for the collector, which may come later.
func Open(ctx context.Context, c Config) (*Tracer, error) {
	exporter, err := otlptracegrpc.New(ctx, otlptracegrpc.WithEndpoint(c.Address), otlptracegrpc.WithInsecure())
	if err != nil {
		return nil, fmt.Errorf("--distributed-tracing-address %q: %w", c.Address, err)
	}
	// Names of attributes: OpenTelemetry's conventions for resources.
	who := []attribute.KeyValue{attribute.String("service.name", c.Service), attribute.String("service.version", c.Version)}
	if c.InstanceID != "" {
		who = append(who, attribute.String("service.instance.id", c.InstanceID))
	}
	return &Tracer{provider: sdktrace.NewTracerProvider(
		sdktrace.WithBatcher(&logged{SpanExporter: exporter, logger: c.Logger}),
		sdktrace.WithSampler(sdktrace.ParentBased(sdktrace.TraceIDRatioBased(float64(c.PerMillion)/million))),
		sdktrace.WithResource(resource.NewSchemaless(who...)),
	)}, nil
}

// ServerOption makes a gRPC server trace its calls.
func (t *Tracer) ServerOption() grpc.ServerOption {
	return grpc.StatsHandler(otelgrpc.NewServerHandler(
		otelgrpc.WithTracerProvider(t.provider),
		otelgrpc.WithPropagators(propagation.NewCompositeTextMapPropagator(propagation.TraceContext{}, propagation.Baggage{})),
		otelgrpc.WithMeterProvider(noop.NewMeterProvider()),
	))
}

// Close sends what is left, for a short while, and joins the sender.
func (t *Tracer) Close() {
	ctx, cancel := context.WithTimeout(context.Background(), shutdownTimeout)
	defer cancel()
	_ = t.provider.Shutdown(ctx) // failures to send were logged
}

// logged is an exporter whose failures go to the member's log, and not to OpenTelemetry's one handler per process.
type logged struct {
	sdktrace.SpanExporter
	logger *zap.Logger
}

func (l *logged) ExportSpans(ctx context.Context, spans []sdktrace.ReadOnlySpan) error {
	if err := l.SpanExporter.ExportSpans(ctx, spans); err != nil {
		l.logger.Warn("cannot send traces to the collector", zap.Int("lost-spans", len(spans)), zap.Error(err))
	}
	return nil
}
