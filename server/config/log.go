package config

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"github.com/coreos/go-systemd/v22/journal"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"gopkg.in/natefinch/lumberjack.v2"
)

// Log outputs that are not files.
const (
	logDefault  = "default"
	logStderr   = "stderr"
	logStdout   = "stdout"
	logJournald = "systemd/journal"
)

func (l *LogConfig) validate() error {
	if _, err := zapcore.ParseLevel(l.Level); err != nil {
		return fmt.Errorf("--log-level: %w, supported values debug, info, warn, error, dpanic, panic, fatal", err)
	}
	if l.Format != "json" && l.Format != "console" {
		return fmt.Errorf("--log-format: unknown log format: %s, supported values json, console", l.Format)
	}
	if len(l.Outputs) == 0 || slices.Contains(l.Outputs, "") {
		return errors.New("--log-outputs must not be empty")
	}
	if len(l.Outputs) > 1 && slices.Contains(l.Outputs, logDefault) {
		return fmt.Errorf("--log-outputs: %q cannot be combined with other outputs", logDefault)
	}
	if l.Rotate {
		return l.validateRotation()
	}
	return nil
}

func (l *LogConfig) validateRotation() error {
	if len(l.Outputs) != 1 || !isLogFile(l.Outputs[0]) {
		return errors.New("--enable-log-rotation requires exactly one file in --log-outputs")
	}
	if r := l.Rotation; r.MaxSizeMBytes < 0 || r.MaxAgeDays < 0 || r.MaxBackups < 0 {
		return errors.New("--log-rotation-config-json: maxsize, maxage and maxbackups must not be negative")
	}
	return nil
}

func isLogFile(output string) bool {
	return !slices.Contains([]string{logDefault, logStderr, logStdout, logJournald}, output)
}

// Build opens the outputs and returns a logger on them, and a function that flushes and closes them. Lines look as
// etcd's do, so that what reads its logs reads these.
func (l *LogConfig) Build() (*zap.Logger, func() error, error) {
	level, err := zapcore.ParseLevel(l.Level)
	if err != nil {
		return nil, nil, fmt.Errorf("--log-level: %w", err)
	}
	var cores []zapcore.Core
	var closers []io.Closer
	closeAll := func() error {
		var errs []error
		for _, c := range closers {
			errs = append(errs, c.Close())
		}
		return errors.Join(errs...)
	}
	for _, output := range l.Outputs {
		if output == logJournald {
			if !journal.Enabled() {
				return nil, nil, errors.Join(fmt.Errorf("--log-outputs: %s: no journal on this machine", output), closeAll())
			}
			cores = append(cores, &journalCore{LevelEnabler: level, encoder: l.encoder()})
			continue
		}
		sink, closer, err := l.open(output)
		if err != nil {
			return nil, nil, errors.Join(fmt.Errorf("--log-outputs: %w", err), closeAll())
		}
		if closer != nil {
			closers = append(closers, closer)
		}
		cores = append(cores, zapcore.NewCore(l.encoder(), zapcore.Lock(sink), level))
	}
	// Of identical lines in one second the first hundred are written, then every hundredth.
	core := zapcore.NewSamplerWithOptions(zapcore.NewTee(cores...), time.Second, 100, 100)
	return zap.New(core, zap.AddCaller(), zap.ErrorOutput(zapcore.Lock(os.Stderr))), closeAll, nil
}

func (l *LogConfig) encoder() zapcore.Encoder {
	cfg := zapcore.EncoderConfig{
		LevelKey: "level", TimeKey: "ts", CallerKey: "caller", NameKey: "logger", MessageKey: "msg", StacktraceKey: "stacktrace",
		EncodeLevel:    zapcore.LowercaseLevelEncoder,
		EncodeTime:     zapcore.TimeEncoderOfLayout("2006-01-02T15:04:05.000000Z0700"),
		EncodeDuration: zapcore.StringDurationEncoder,
		EncodeCaller:   zapcore.ShortCallerEncoder,
	}
	if l.Format == "console" {
		return zapcore.NewConsoleEncoder(cfg)
	}
	return zapcore.NewJSONEncoder(cfg)
}

// open returns the sink of one output and what has to be closed with it, if anything.
func (l *LogConfig) open(output string) (zapcore.WriteSyncer, io.Closer, error) {
	switch {
	case output == logDefault || output == logStderr:
		return os.Stderr, nil, nil
	case output == logStdout:
		return os.Stdout, nil, nil
	case l.Rotate:
		rotator := &lumberjack.Logger{
			Filename: output, MaxSize: l.Rotation.MaxSizeMBytes, MaxAge: l.Rotation.MaxAgeDays,
			MaxBackups: l.Rotation.MaxBackups, LocalTime: l.Rotation.LocalTime, Compress: l.Rotation.Compress,
		}
		return zapcore.AddSync(rotator), rotator, nil
	default:
		file, err := os.OpenFile(output, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o644)
		if err != nil {
			return nil, nil, err
		}
		return file, file, nil
	}
}

// journalCore sends each line to systemd's journal with the priority of its level.
type journalCore struct {
	zapcore.LevelEnabler
	encoder zapcore.Encoder
}

func (j *journalCore) With(fields []zapcore.Field) zapcore.Core {
	clone := &journalCore{LevelEnabler: j.LevelEnabler, encoder: j.encoder.Clone()}
	for i := range fields {
		fields[i].AddTo(clone.encoder)
	}
	return clone
}

func (j *journalCore) Check(e zapcore.Entry, ce *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if j.Enabled(e.Level) {
		return ce.AddCore(e, j)
	}
	return ce
}

func (j *journalCore) Write(e zapcore.Entry, fields []zapcore.Field) error {
	line, err := j.encoder.EncodeEntry(e, fields)
	if err != nil {
		return err
	}
	defer line.Free()
	return journal.Send(line.String(), journalPriority(e.Level), map[string]string{"SYSLOG_IDENTIFIER": "upkeep"})
}

func (j *journalCore) Sync() error { return nil }

func journalPriority(level zapcore.Level) journal.Priority {
	switch level {
	case zapcore.DebugLevel:
		return journal.PriDebug
	case zapcore.InfoLevel:
		return journal.PriInfo
	case zapcore.WarnLevel:
		return journal.PriWarning
	case zapcore.ErrorLevel:
		return journal.PriErr
	default:
		return journal.PriCrit
	}
}
