package auth

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/upkeep-kv/upkeep/backend"
	"github.com/upkeep-kv/upkeep/proto/authpb"
)

// inMemory is a store with users root and ann, authentication on, at revision 5.
func inMemory(t *testing.T, cfg Config) *Store {
	t.Helper()
	s, err := newStore(cfg)
	if err != nil {
		t.Fatal(err)
	}
	s.current.Store(&state{enabled: true, revision: 5, roles: map[string]*authpb.Role{}, users: map[string]*user{
		"root": newUser(&authpb.User{Name: []byte("root"), Roles: []string{"root"}}),
		"ann":  newUser(&authpb.User{Name: []byte("ann"), Options: &authpb.UserAddOptions{}}),
		"cert": newUser(&authpb.User{Name: []byte("cert"), Options: &authpb.UserAddOptions{NoPassword: true}}),
	}})
	s.wg.Go(s.sweep)
	t.Cleanup(s.Close)
	return s
}

func (t *simpleTokens) count() (n int) {
	t.byText.Range(func(_, _ any) bool { n++; return true })
	return n
}

func issue(t *testing.T, s *Store, index uint64, name string) string {
	t.Helper()
	part := s.TokenPart()
	token, revision, err := s.Authenticated(index, name, part)
	if err != nil {
		t.Fatal(err)
	}
	token, err = s.Sign(token, Identity{Username: name, Revision: revision})
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func wantIdentity(t *testing.T, s *Store, token, name string, revision uint64) {
	t.Helper()
	id, err := s.Identify(t.Context(), token)
	if name == "" {
		if !errors.Is(err, ErrInvalidToken) {
			t.Fatalf("%q: %+v, %v, want it to be invalid", token, id, err)
		}
		return
	}
	if err != nil || id != (Identity{name, revision}) {
		t.Fatalf("%q: %+v, %v, want %s at %d", token, id, err, name, revision)
	}
}

func TestSimpleTokensLive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := inMemory(t, Config{})
		used, idle := issue(t, s, 57, "ann"), issue(t, s, 58, "ann")
		if form := regexp.MustCompile(`^[a-zA-Z]{16}\.57$`); !form.MatchString(used) {
			t.Fatalf("token %q, want 16 letters and the index", used)
		}
		for range 10 {
			time.Sleep(DefaultSimpleTTL - time.Second)
			wantIdentity(t, s, used, "ann", 5)
		}
		wantIdentity(t, s, "Bearer "+used, "ann", 5)
		wantIdentity(t, s, idle, "", 0)
		time.Sleep(DefaultSimpleTTL)
		wantIdentity(t, s, used, "", 0) // to the second, long before it is swept
		time.Sleep(DefaultSimpleTTL)
		synctest.Wait()
		if n := s.simple.count(); n != 0 {
			t.Fatalf("%d tokens are still remembered", n)
		}
	})
}

func TestSimpleTokensEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := inMemory(t, Config{})
		ann, root := issue(t, s, 1, "ann"), issue(t, s, 2, "root")
		if _, _, err := s.Authenticated(3, "cert", s.TokenPart()); !errors.Is(err, ErrAuthFailed) {
			t.Fatalf("a user without a password gets a token: %v", err)
		}
		s.simple.drop(func(name string) bool { return name == "ann" })
		wantIdentity(t, s, ann, "", 0)
		wantIdentity(t, s, root, "root", 5)
		s.simple.drop(nil)
		wantIdentity(t, s, root, "", 0)
		for _, garbage := range []string{"", ".", "x.1", ann + "x", "abcdefghijklmnop.0", "abcdefghijklmnop.x"} {
			wantIdentity(t, s, garbage, "", 0)
		}
	})
}

// A member that has not applied the entry that issued a token waits for it, but not for an entry that nobody wrote.
func TestTokenOfAnotherMember(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s *Store
		caughtUp := 0
		s = inMemory(t, Config{
			Applied: func() uint64 { return 56 },
			CatchUp: func(ctx context.Context) error {
				caughtUp++
				if caughtUp == 3 {
					return context.DeadlineExceeded
				}
				time.Sleep(time.Second)
				if _, _, err := s.Authenticated(57, "ann", "abcdefghijklmnop"); err != nil {
					t.Error(err)
				}
				return nil
			},
		})
		wantIdentity(t, s, "abcdefghijklmnop.57", "ann", 5)
		wantIdentity(t, s, "qrstuvwxyzabcdef.9999999", "", 0)
		if _, err := s.Identify(t.Context(), "qrstuvwxyzabcdef.9999999"); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("while there is no leader: %v", err)
		}
		wantIdentity(t, s, "qrstuvwxyzabcdef.56", "", 0)
		if caughtUp != 3 {
			t.Fatalf("caught up %d times, want 3: an index that is applied needs no waiting", caughtUp)
		}
	})
}

// Checks and tokens are used by many while the state changes.
func TestConcurrentUse(t *testing.T) {
	s := inMemory(t, Config{})
	token := issue(t, s, 1, "ann")
	batch := discard{}
	if err := s.RoleAdd(batch, "r"); err != nil {
		t.Fatal(err)
	}
	if err := s.UserGrantRole(batch, "ann", "r"); err != nil {
		t.Fatal(err)
	}
	var users sync.WaitGroup
	stop := make(chan struct{})
	for range 4 {
		users.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				id, err := s.Identify(context.Background(), token)
				if err != nil {
					t.Error(err)
					return
				}
				switch err := s.CheckRead(id, []byte("k"), nil); err {
				case nil, ErrOldRevision, ErrPermissionDenied:
				default:
					t.Error(err)
				}
			}
		})
	}
	for range 200 {
		if err := s.RoleGrantPermission(batch, "r", &authpb.Permission{Key: []byte("k")}); err != nil {
			t.Error(err)
		}
		id, err := s.Identify(context.Background(), token)
		if err != nil || s.CheckRead(id, []byte("k"), nil) != nil {
			t.Errorf("just granted: %v", err)
		}
		all := s.current.Load().roles["r"].KeyPermission
		if len(all) != 1 {
			t.Fatalf("%d permissions", len(all))
		}
	}
	close(stop)
	users.Wait()
}

type discard struct{}

func (discard) Put(backend.Bucket, []byte, []byte) {}
func (discard) Delete(backend.Bucket, []byte)      {}

// keys writes a key pair, or a secret, into files.
func keys(t *testing.T, key crypto.Signer) (private, public string) {
	t.Helper()
	dir := t.TempDir()
	write := func(name, kind string, der []byte, err error) string {
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	private = write("private.pem", "PRIVATE KEY", der, err)
	der, err = x509.MarshalPKIXPublicKey(key.Public())
	return private, write("public.pem", "PUBLIC KEY", der, err)
}

func secretFile(t *testing.T, secret string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(path, []byte(secret), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// signers are one key for each family of methods.
func signers(t *testing.T) map[string]crypto.Signer {
	t.Helper()
	out := map[string]crypto.Signer{}
	add := func(name string, key crypto.Signer, err error) {
		if err != nil {
			t.Fatal(err)
		}
		out[name] = key
	}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	add("RSA", rsaKey, err)
	for name, curve := range map[string]elliptic.Curve{"ES256": elliptic.P256(), "ES384": elliptic.P384(), "ES512": elliptic.P521()} {
		key, err := ecdsa.GenerateKey(curve, rand.Reader)
		add(name, key, err)
	}
	_, edKey, err := ed25519.GenerateKey(rand.Reader)
	add("EdDSA", edKey, err)
	return out
}

func TestSignedTokens(t *testing.T) {
	pairs := signers(t)
	for _, method := range []string{
		"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA", "HS256", "HS384", "HS512",
	} {
		t.Run(method, func(t *testing.T) {
			signing, verifying := "priv-key="+secretFile(t, "secret"), ""
			if !strings.HasPrefix(method, "HS") {
				key := pairs[method]
				if key == nil {
					key = pairs["RSA"]
				}
				private, public := keys(t, key)
				signing, verifying = "priv-key="+private+",pub-key="+public, "pub-key="+public
			}
			synctest.Test(t, func(t *testing.T) { signAndVerify(t, method, signing, verifying) })
		})
	}
}

func signAndVerify(t *testing.T, method, signing, verifying string) {
	s := inMemory(t, Config{Tokens: mustParse(t, "jwt,sign-method="+method+",ttl=1m,"+signing)})
	if part := s.TokenPart(); part != "" {
		t.Fatalf("the log carries %q for a signed token", part)
	}
	token := issue(t, s, 57, "ann")
	wantIdentity(t, s, token, "ann", 5)
	wantIdentity(t, s, "Bearer "+token, "ann", 5)
	wantIdentity(t, s, token[:len(token)-8]+"AAAAAAAA", "", 0)
	wantIdentity(t, s, "garbage", "", 0)
	if verifying != "" {
		other := inMemory(t, Config{Tokens: mustParse(t, "jwt,sign-method="+method+","+verifying)})
		wantIdentity(t, other, token, "ann", 5)
		if _, err := other.Sign("", Identity{"ann", 5}); !errors.Is(err, ErrVerifyOnly) {
			t.Fatalf("signing without a private key: %v", err)
		}
	}
	// What was signed says so for as long as it lives, even if it is outdated by now; checks look at the revision.
	s.current.Load().revision = 6
	wantIdentity(t, s, token, "ann", 5)
	if err := s.CheckRead(Identity{"ann", 5}, []byte("k"), nil); !errors.Is(err, ErrOldRevision) {
		t.Fatalf("outdated token: %v", err)
	}
	time.Sleep(time.Minute + time.Second)
	wantIdentity(t, s, token, "", 0)
}

func mustParse(t *testing.T, spec string) Tokens {
	t.Helper()
	tokens, err := ParseTokens(spec)
	if err != nil {
		t.Fatal(err)
	}
	return tokens
}

// Tokens that somebody else made: with another key, another method, or none.
func TestForgedTokens(t *testing.T) {
	secret := secretFile(t, "secret")
	s := inMemory(t, Config{Tokens: mustParse(t, "jwt,sign-method=HS256,priv-key="+secret)})
	said := jwt.MapClaims{"username": "root", "revision": 5, "exp": time.Now().Add(time.Hour).Unix()}
	forge := func(method jwt.SigningMethod, key any, said jwt.MapClaims) string {
		token, err := jwt.NewWithClaims(method, said).SignedString(key)
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
	good := forge(jwt.SigningMethodHS256, []byte("secret"), said)
	wantIdentity(t, s, good, "root", 5)
	for name, token := range map[string]string{
		"other secret": forge(jwt.SigningMethodHS256, []byte("guess"), said),
		"other method": forge(jwt.SigningMethodHS512, []byte("secret"), said),
		"no method":    forge(jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, said),
		"no name":      forge(jwt.SigningMethodHS256, []byte("secret"), jwt.MapClaims{"revision": 5}),
		"odd name":     forge(jwt.SigningMethodHS256, []byte("secret"), jwt.MapClaims{"username": 7, "revision": 5}),
		"odd revision": forge(jwt.SigningMethodHS256, []byte("secret"), jwt.MapClaims{"username": "root", "revision": -1}),
	} {
		t.Run(name, func(t *testing.T) { wantIdentity(t, s, token, "", 0) })
	}
	// The public key of RSA must not do as a secret.
	private, public := keys(t, signers(t)["RSA"])
	s = inMemory(t, Config{Tokens: mustParse(t, "jwt,sign-method=RS256,priv-key="+private)})
	text, err := os.ReadFile(public)
	if err != nil {
		t.Fatal(err)
	}
	wantIdentity(t, s, forge(jwt.SigningMethodHS256, text, said), "", 0)
}

func TestNoTokens(t *testing.T) {
	s := inMemory(t, Config{Tokens: mustParse(t, "")})
	if _, err := s.Sign("", Identity{"ann", 5}); !errors.Is(err, ErrAuthFailed) {
		t.Fatalf("%v", err)
	}
	wantIdentity(t, s, "abcdefghijklmnop.1", "", 0)
}

// Each refusal names the option at fault.
func TestBadSpecs(t *testing.T) {
	pairs := signers(t)
	rsaPrivate, rsaPublic := keys(t, pairs["RSA"])
	ecPrivate, ecPublic := keys(t, pairs["ES256"])
	_, otherPublic := keys(t, signers(t)["RSA"])
	for _, test := range []struct{ spec, want string }{
		{"bogus", `unknown kind of tokens "bogus"`},
		{"simple,ttl=5m", `unknown option "ttl"`},
		{"jwt", "sign-method=: expected one of RS256"},
		{"jwt,sign-method=XX,priv-key=" + rsaPrivate, "sign-method=XX: expected"},
		{"jwt,sign-method=none,priv-key=" + rsaPrivate, "sign-method=none: expected"},
		{"jwt,sign-method=RS256", "RS256 needs priv-key"},
		{"jwt,sign-method=HS256,pub-key=" + rsaPublic, "HS256 needs priv-key"},
		{"jwt,sign-method=RS256,priv-key=/does/not/exist", "priv-key=/does/not/exist: open"},
		{"jwt,sign-method=RS256,priv-key=" + secretFile(t, ""), "the file is empty"},
		{"jwt,sign-method=RS256,priv-key=" + secretFile(t, "x"), "is no private key for RS256"},
		{"jwt,sign-method=RS256,priv-key=" + ecPrivate, "is no private key for RS256"},
		{"jwt,sign-method=ES256,pub-key=" + rsaPublic, "is no public key for ES256"},
		{"jwt,sign-method=EdDSA,priv-key=" + ecPrivate, "is no private key for EdDSA"},
		{"jwt,sign-method=ES384,priv-key=" + ecPrivate, "cannot sign with ES384"},
		{"jwt,sign-method=ES256,priv-key=" + ecPrivate + ",pub-key=" + ecPublic + ",x=y", `unknown option "x"`},
		{"jwt,sign-method=RS256,priv-key=" + rsaPrivate + ",pub-key=" + otherPublic, "do not belong together"},
		{"jwt,sign-method=RS256,ttl=5,priv-key=" + rsaPrivate, "ttl=5: expected a positive duration"},
		{"jwt,sign-method=RS256,ttl=-5m,priv-key=" + rsaPrivate, "ttl=-5m: expected a positive duration"},
		{"jwt,sign-method=RS256,sign-method=RS512", `not "sign-method=RS512"`},
		{"jwt,sign-method", `not "sign-method"`},
	} {
		_, err := ParseTokens(test.spec)
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %q", test.spec, err, test.want)
		}
	}
}

// Passwords wait for each other, and stop waiting when nobody waits for them.
func TestHashingIsBounded(t *testing.T) {
	s := inMemory(t, Config{BcryptCost: 4})
	for range cap(s.hashing) {
		if err := s.startHashing(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Hash(ctx, "pw"); !errors.Is(err, context.Canceled) {
		t.Errorf("hashing: %v", err)
	}
	if _, err := s.CheckPassword(ctx, "ann", "pw"); !errors.Is(err, context.Canceled) {
		t.Errorf("checking: %v", err)
	}
	s.endHashing()
	if _, err := s.Hash(t.Context(), "pw"); err != nil {
		t.Error(err)
	}
	if _, err := s.Hash(t.Context(), strings.Repeat("x", 73)); fmt.Sprint(err) != "bcrypt: password length exceeds 72 bytes" {
		t.Errorf("long password: %v", err)
	}
}
