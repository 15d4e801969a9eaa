package config

import (
	"errors"
	"fmt"
	"slices"

	"go.uber.org/zap/zapcore"
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
