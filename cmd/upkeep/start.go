package main

import (
	"context"
	"io"

	"github.com/coreos/go-systemd/v22/daemon"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/grpclog"

	"github.com/upkeep-kv/upkeep/server"
	"github.com/upkeep-kv/upkeep/server/config"
)

func startServer(ctx context.Context, cfg *config.Config, logger *zap.Logger) (member, error) {
	if cfg.Log.Level != "debug" {
		// gRPC's own remarks, on clients that send nonsense for the most part, are no lines of our log.
		grpclog.SetLoggerV2(grpclog.NewLoggerV2(io.Discard, io.Discard, io.Discard))
	}
	// The latest calls are kept for /debug/requests.
	grpc.EnableTracing = cfg.Log.Level == "debug"
	s, err := server.Start(ctx, cfg, server.Options{Logger: logger})
	if err != nil {
		return nil, err // not s: a nil *Server would not be a nil member
	}
	return s, nil
}

// notifySystemd tells systemd, if it started this program and asked to be told.
func notifySystemd(state string) {
	_, _ = daemon.SdNotify(false, state) // a service manager that is gone is no reason to stop
}
