package config

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
)

func logTo(t *testing.T, l LogConfig, write func(*zap.Logger)) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "log")
	l.Outputs = []string{path}
	if err := l.validate(); err != nil {
		t.Fatal(err)
	}
	lg, done, err := l.Build()
	if err != nil {
		t.Fatal(err)
	}
	write(lg)
	if err := done(); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestLogLine(t *testing.T) {
	out := logTo(t, Default().Log, func(lg *zap.Logger) {
		lg.Named("raft").Warn("slow fdatasync", zap.Duration("took", 1500*time.Millisecond))
		lg.Debug("not shown at level info")
	})
	var line map[string]any
	if err := json.Unmarshal([]byte(out), &line); err != nil {
		t.Fatalf("%v in %q", err, out)
	}
	for key, pattern := range map[string]string{
		"level": `^warn$`, "ts": `^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}(Z|[+-]\d{4})$`, "logger": `^raft$`,
		"caller": `^config/log_test\.go:\d+$`, "msg": `^slow fdatasync$`, "took": `^1\.5s$`,
	} {
		if text, _ := line[key].(string); !regexp.MustCompile(pattern).MatchString(text) {
			t.Errorf("%s is %q, want %s", key, text, pattern)
		}
	}
	if !strings.HasPrefix(out, `{"level":"warn","ts":`) {
		t.Errorf("keys are not in etcd's order: %s", out)
	}
}

func TestLogConsoleAndRotation(t *testing.T) {
	l := Default().Log
	l.Format, l.Rotate = "console", true
	out := logTo(t, l, func(lg *zap.Logger) { lg.Info("hello", zap.Int("n", 1)) })
	if !regexp.MustCompile(`^\S+\tinfo\tconfig/log_test\.go:\d+\thello\t\{"n": 1\}\n$`).MatchString(out) {
		t.Errorf("console line is %q", out)
	}
}

func TestLogSampling(t *testing.T) {
	out := logTo(t, Default().Log, func(lg *zap.Logger) {
		for range 350 {
			lg.Info("same")
		}
	})
	// The sampler counts per second; the loop may straddle one boundary, not two.
	if n := strings.Count(out, "\n"); n < 100 || n > 204 {
		t.Errorf("%d of 350 identical lines were written, want the first 100 and every 100th", n)
	}
}

func TestLogOutputErrors(t *testing.T) {
	l := Default().Log
	l.Outputs = []string{filepath.Join(t.TempDir(), "no", "such", "dir")}
	if _, _, err := l.Build(); err == nil || !strings.Contains(err.Error(), "--log-outputs") {
		t.Errorf("error %v does not name the flag", err)
	}
}
