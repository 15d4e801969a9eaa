package auth

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// FuzzJWT: only a token that was signed is believed, whatever it says of its own method.
func FuzzJWT(f *testing.F) {
	key := filepath.Join(f.TempDir(), "key")
	if err := os.WriteFile(key, []byte("between the members"), 0o600); err != nil {
		f.Fatal(err)
	}
	kind, err := ParseTokens("jwt,sign-method=HS256,ttl=1000h,priv-key=" + key)
	if err != nil {
		f.Fatal(err)
	}
	tokens, err := newSignedTokens(kind)
	if err != nil {
		f.Fatal(err)
	}
	genuine, err := tokens.sign(Identity{Username: "root", Revision: 5})
	if err != nil {
		f.Fatal(err)
	}
	parts := strings.Split(genuine, ".")
	f.Add(genuine)
	f.Add("eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0." + parts[1] + ".") // "alg": "none"
	f.Add(parts[0] + "." + parts[1] + ".")
	f.Add("..")
	f.Fuzz(func(t *testing.T, text string) {
		id, err := tokens.verify(text)
		if err != nil {
			return
		}
		// The last character of the signature has bits that count for nothing.
		if p := strings.Split(text, "."); len(p) != 3 || p[2][:len(p[2])-1] != parts[2][:len(parts[2])-1] || id.Username != "root" {
			t.Errorf("%q is believed to be of %+v", text, id)
		}
	})
}

// FuzzTokenSpec: what --auth-token says is understood or refused.
func FuzzTokenSpec(f *testing.F) {
	for _, spec := range []string{"simple", "jwt,sign-method=RS256,pub-key=a,priv-key=b,ttl=5m", "jwt", "", "simple,a", "jwt,="} {
		f.Add(spec)
	}
	f.Fuzz(func(t *testing.T, spec string) {
		if _, err := ParseTokens(spec); err != nil && err.Error() == "" {
			t.Errorf("%q: an error without words", spec)
		}
	})
}
