//go:build deps

// Package deps keeps modules in go.mod that are about to be used.
package deps

import (
	_ "github.com/coreos/go-systemd/v22/daemon"
	_ "github.com/coreos/go-systemd/v22/journal"
	_ "github.com/golang-jwt/jwt/v5"
	_ "github.com/grpc-ecosystem/grpc-gateway/v2/protoc-gen-openapiv2/options"
	_ "github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	_ "github.com/klauspost/compress/zstd"
	_ "github.com/minio/minio-go/v7"
	_ "github.com/tmc/grpc-websocket-proxy/wsproxy"
	_ "go.opentelemetry.io/contrib/instrumentation/google.golang.org/grpc/otelgrpc"
	_ "go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	_ "go.opentelemetry.io/otel/sdk/trace"
	_ "golang.org/x/crypto/bcrypt"
	_ "google.golang.org/genproto/googleapis/api/annotations"
	_ "gopkg.in/natefinch/lumberjack.v2"
)
