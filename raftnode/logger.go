package raftnode

import (
	"fmt"

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

// raftPanic is how raft gives up, through its logger: with a log or a state that cannot be.
type raftPanic string

func (l raftLogger) Panic(v ...any)                 { panic(raftPanic(fmt.Sprint(v...))) }
func (l raftLogger) Panicf(format string, v ...any) { panic(raftPanic(fmt.Sprintf(format, v...))) }

// raftError turns what recover returned into an error, if raft gave up; any other panic goes on.
func raftError(recovered any) error {
	switch r := recovered.(type) {
	case nil:
		return nil
	case raftPanic:
		return fmt.Errorf("%w: %s", ErrLogLost, string(r))
	default:
		panic(r)
	}
}

func (l raftLogger) Warning(v ...any)                 { l.SugaredLogger.Warn(v...) }
func (l raftLogger) Warningf(format string, v ...any) { l.SugaredLogger.Warnf(format, v...) }

func (l raftLogger) Info(v ...any)                 { l.SugaredLogger.Debug(v...) }
func (l raftLogger) Infof(format string, v ...any) { l.SugaredLogger.Debugf(format, v...) }
