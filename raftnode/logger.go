package raftnode

import (
	"go.etcd.io/raft/v3"
	"go.uber.org/zap"
)

// raftLogger lets raft log through zap under its own words, which operators know.
type raftLogger struct{ *zap.SugaredLogger }

var _ raft.Logger = raftLogger{}

func newRaftLogger(l *zap.Logger) raftLogger {
	return raftLogger{l.WithOptions(zap.AddCallerSkip(1)).Sugar()}
}

func (l raftLogger) Warning(v ...any)                 { l.SugaredLogger.Warn(v...) }
func (l raftLogger) Warningf(format string, v ...any) { l.SugaredLogger.Warnf(format, v...) }
