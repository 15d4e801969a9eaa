package auth

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// TokenKind is the kind of tokens that --auth-token asks for.
type TokenKind string

const (
	Simple   TokenKind = ""
	JWT      TokenKind = "jwt"
	NoTokens TokenKind = "none"
)

// Tokens is --auth-token, taken apart.
type Tokens struct {
	Kind TokenKind
	// Of a JWT: the signing method by its name in RFC 7518, and files with keys in PEM form, or with the secret itself for
	// HS*. Without a private key, tokens can be verified but not issued.
	Method                string
	PublicKey, PrivateKey string
	TTL                   time.Duration
}

// defaultSignedTTL is etcd's.
const defaultSignedTTL = 5 * time.Minute

// ParseTokens reads `simple`, the empty text (no tokens at all) or `jwt,sign-method=M,priv-key=F,pub-key=F,ttl=5m`.
func ParseTokens(spec string) (Tokens, error) {
	kind, rest, _ := strings.Cut(spec, ",")
	options := map[string]string{}
	for option := range strings.SplitSeq(rest, ",") {
		if rest == "" {
			break
		}
		name, value, ok := strings.Cut(option, "=")
		if _, twice := options[name]; !ok || twice {
			return Tokens{}, fmt.Errorf("expected name=value pairs behind %q, each name once, not %q", kind, option)
		}
		options[name] = value
	}
	switch kind {
	case "":
		return Tokens{Kind: NoTokens}, onlyKnown(options)
	case "simple":
		return Tokens{}, onlyKnown(options)
	case string(JWT):
		return parseJWT(options)
	}
	return Tokens{}, fmt.Errorf("unknown kind of tokens %q: expected simple or jwt", kind)
}

func onlyKnown(options map[string]string, known ...string) error {
	for name := range options {
		found := false
		for _, k := range known {
			found = found || k == name
		}
		if !found {
			return fmt.Errorf("unknown option %q", name)
		}
	}
	return nil
}

func parseJWT(options map[string]string) (Tokens, error) {
	t := Tokens{
		Kind: JWT, Method: options["sign-method"], PublicKey: options["pub-key"], PrivateKey: options["priv-key"],
		TTL: defaultSignedTTL,
	}
	if err := onlyKnown(options, "sign-method", "pub-key", "priv-key", "ttl"); err != nil {
		return t, err
	}
	if text, given := options["ttl"]; given {
		ttl, err := time.ParseDuration(text)
		if err != nil || ttl <= 0 {
			return t, fmt.Errorf("ttl=%s: expected a positive duration like 5m", text)
		}
		t.TTL = ttl
	}
	_, err := newSignedTokens(t)
	return t, err
}

// signedTokens issues and verifies JWTs. Members share the keys, and nothing about the tokens is stored.
type signedTokens struct {
	method  jwt.SigningMethod
	ttl     time.Duration
	private any // nil: cannot issue
	public  any
	parser  *jwt.Parser
}

// claims are what a token says. A revision that is missing is one that is too old for everything.
type claims struct {
	Username string `json:"username"`
	Revision uint64 `json:"revision"`
	jwt.RegisteredClaims
}

func newSignedTokens(t Tokens) (*signedTokens, error) {
	s := &signedTokens{method: jwt.GetSigningMethod(t.Method), ttl: t.TTL}
	if s.method == nil || s.method == jwt.SigningMethodNone {
		return nil, fmt.Errorf("sign-method=%s: expected one of RS256 RS384 RS512 PS256 PS384 PS512 ES256 ES384 ES512 "+
			"HS256 HS384 HS512 EdDSA", t.Method)
	}
	if err := s.readKeys(t); err != nil {
		return nil, err
	}
	s.parser = jwt.NewParser(jwt.WithValidMethods([]string{s.method.Alg()}))
	if s.private == nil {
		return s, nil
	}
	// Keys that do not belong together, or not to the method, are found now and not when the first user comes.
	token, err := s.sign(Identity{Username: rootName, Revision: 1})
	if err != nil {
		return nil, fmt.Errorf("priv-key=%s cannot sign with %s: %w", t.PrivateKey, t.Method, err)
	}
	if _, err := s.verify(token); err != nil {
		return nil, fmt.Errorf("pub-key=%s and priv-key=%s do not belong together", t.PublicKey, t.PrivateKey)
	}
	return s, nil
}

func (s *signedTokens) readKeys(t Tokens) error {
	private, err := readKey("priv-key", t.PrivateKey)
	if err != nil {
		return err
	}
	if _, secret := s.method.(*jwt.SigningMethodHMAC); secret {
		if len(private) == 0 {
			return fmt.Errorf("%s needs priv-key, a file that holds the secret", t.Method)
		}
		s.private, s.public = private, private
		return nil
	}
	public, err := readKey("pub-key", t.PublicKey)
	if err != nil {
		return err
	}
	if private == nil && public == nil {
		return fmt.Errorf("%s needs priv-key, or pub-key to verify only", t.Method)
	}
	if private != nil {
		key, err := parsePrivate(s.method, private)
		if err != nil {
			return fmt.Errorf("priv-key=%s is no private key for %s: %w", t.PrivateKey, t.Method, err)
		}
		s.private, s.public = key, key.Public()
	}
	if public != nil {
		if s.public, err = parsePublic(s.method, public); err != nil {
			return fmt.Errorf("pub-key=%s is no public key for %s: %w", t.PublicKey, t.Method, err)
		}
	}
	return nil
}

func readKey(option, path string) ([]byte, error) {
	if path == "" {
		return nil, nil
	}
	text, err := os.ReadFile(path)
	if err == nil && len(bytes.TrimSpace(text)) == 0 {
		err = errors.New("the file is empty")
	}
	if err != nil {
		return nil, fmt.Errorf("%s=%s: %w", option, path, err)
	}
	return text, nil
}

func parsePrivate(method jwt.SigningMethod, text []byte) (crypto.Signer, error) {
	switch method.(type) {
	case *jwt.SigningMethodRSA, *jwt.SigningMethodRSAPSS:
		return signer[*rsa.PrivateKey](jwt.ParseRSAPrivateKeyFromPEM(text))
	case *jwt.SigningMethodECDSA:
		return signer[*ecdsa.PrivateKey](jwt.ParseECPrivateKeyFromPEM(text))
	}
	key, err := jwt.ParseEdPrivateKeyFromPEM(text)
	if err != nil {
		return nil, err
	}
	return key.(ed25519.PrivateKey), nil
}

func signer[K crypto.Signer](key K, err error) (crypto.Signer, error) {
	if err != nil {
		return nil, err
	}
	return key, nil
}

func parsePublic(method jwt.SigningMethod, text []byte) (any, error) {
	switch method.(type) {
	case *jwt.SigningMethodRSA, *jwt.SigningMethodRSAPSS:
		return jwt.ParseRSAPublicKeyFromPEM(text)
	case *jwt.SigningMethodECDSA:
		return jwt.ParseECPublicKeyFromPEM(text)
	}
	return jwt.ParseEdPublicKeyFromPEM(text)
}

func (s *signedTokens) sign(id Identity) (string, error) {
	if s.private == nil {
		return "", ErrVerifyOnly
	}
	return jwt.NewWithClaims(s.method, jwt.MapClaims{
		"username": id.Username, "revision": id.Revision, "exp": time.Now().Add(s.ttl).Unix(),
	}).SignedString(s.private)
}

func (s *signedTokens) verify(text string) (Identity, error) {
	var said claims
	_, err := s.parser.ParseWithClaims(text, &said, func(*jwt.Token) (any, error) { return s.public, nil })
	if err != nil || said.Username == "" {
		return Identity{}, ErrInvalidToken
	}
	return Identity{Username: said.Username, Revision: said.Revision}, nil
}
