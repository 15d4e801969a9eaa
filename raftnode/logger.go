package raftnode

import (
	"go.etcd.io/raft/v3"
	"go.uber.org/zap"
)

// raftLogger lets raft log through zap under its own words. Its step-by-step account of elections and configurations
// is for debugging; the outcomes are logged by the node itself.
type raftLogger struct{ *zap.SugaredLogger }

var _ raft.Logger = raftLogger{}

func newRaftLogger(l *zap.Logger) raftLogger {
	return raftLogger{l.WithOptions(zap.AddCallerSkip(1)).Sugar()}
}

func (l raftLogger) Warning(v ...any)                 { l.SugaredLogger.Warn(v...) }
func (l raftLogger) Warningf(format string, v ...any) { l.SugaredLogger.Warnf(format, v...) }

func (l raftLogger) Info(v ...any)                 { l.SugaredLogger.Debug(v...) }
func (l raftLogger) Infof(format string, v ...any) { l.SugaredLogger.Debugf(format, v...) }
