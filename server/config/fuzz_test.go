package config

import (
	"os"
	"path/filepath"
	"testing"
)

// FuzzConfigFile: a file is a configuration, or what is wrong is said in words.
func FuzzConfigFile(f *testing.F) {
	for _, text := range []string{
		"name: m0\ndata-dir: /tmp/x\n", "listen-client-urls: http://127.0.0.1:2379\n", "name: [1, 2]\n", "election-timeout: -1\n",
		"client-transport-security:\n  cert-file: a\n", "&a [*a]", "\x00", "name: !!binary zz\n", "{}", "- a\n",
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		path := filepath.Join(t.TempDir(), "upkeep.yaml")
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		cfg, err := Parse([]string{"--config-file", path}, nil)
		if err == nil && cfg == nil || err != nil && err.Error() == "" {
			t.Errorf("%q: %v, %v", text, cfg, err)
		}
	})
}
