package config

import (
	"strings"

	"go.uber.org/zap"
)

// Warning is something odd about the configuration that does not stop the server. Fields are pairs of name and value.
type Warning struct {
	Message string
	Fields  []string
}

func warn(message string, fields ...string) Warning { return Warning{Message: message, Fields: fields} }

func (w Warning) String() string {
	var b strings.Builder
	b.WriteString(w.Message)
	for i := 0; i+1 < len(w.Fields); i += 2 {
		b.WriteString(" " + w.Fields[i] + "=" + w.Fields[i+1])
	}
	return b.String()
}

// Log writes the warning as one line.
func (w Warning) Log(lg *zap.Logger) {
	fields := make([]zap.Field, 0, len(w.Fields)/2)
	for i := 0; i+1 < len(w.Fields); i += 2 {
		fields = append(fields, zap.String(w.Fields[i], w.Fields[i+1]))
	}
	lg.Warn(w.Message, fields...)
}
