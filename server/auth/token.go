package auth

import (
	"context"
	"crypto/rand"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// DefaultSimpleTTL is how long a simple token lives after its last use.
const DefaultSimpleTTL = 5 * time.Minute

// A simple token is 16 random letters, a dot, and the index of the log entry that issued it, in decimal. The proposer
// chooses the letters; apply learns the index; so every member knows the token without being told.
const (
	simpleLetters = 16
	alphabet      = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
)

// simpleTokens are the simple tokens that this member has seen issued. They are not replicated: each member extends the
// life of those that are presented to it. Looking one up takes no lock.
type simpleTokens struct {
	ttl    time.Duration
	epoch  time.Time
	byText sync.Map // string -> *simpleToken
}

type simpleToken struct {
	username string
	lastUse  atomic.Int64 // nanoseconds since epoch
}

func (t *simpleTokens) init(ttl time.Duration) { t.ttl, t.epoch = ttl, time.Now() }

func (t *simpleTokens) now() int64 { return int64(time.Since(t.epoch)) }

func (t *simpleTokens) add(text, username string) {
	token := &simpleToken{username: username}
	token.lastUse.Store(t.now())
	t.byText.Store(text, token)
}

// user returns whose token it is, and lets it live for another while.
func (t *simpleTokens) user(text string) (string, bool) {
	found, ok := t.byText.Load(text)
	if !ok {
		return "", false
	}
	token := found.(*simpleToken)
	now := t.now()
	idle := now - token.lastUse.Load()
	if idle >= int64(t.ttl) {
		return "", false
	}
	if idle > int64(t.ttl)/128 { // many calls share a token: not each needs to write to it
		token.lastUse.Store(now)
	}
	return token.username, true
}

// drop ends the tokens of the users that match, or all if match is nil.
func (t *simpleTokens) drop(match func(username string) bool) {
	t.byText.Range(func(text, token any) bool {
		if match == nil || match(token.(*simpleToken).username) {
			t.byText.Delete(text)
		}
		return true
	})
}

// sweep forgets tokens that nobody used for long.
func (s *Store) sweep() {
	ticker := time.NewTicker(s.cfg.SimpleTTL)
	defer ticker.Stop()
	for {
		select {
		case <-s.stop:
			return
		case <-ticker.C:
			oldest := s.simple.now() - int64(s.cfg.SimpleTTL)
			s.simple.byText.Range(func(text, token any) bool {
				if token.(*simpleToken).lastUse.Load() <= oldest {
					s.simple.byText.Delete(text)
				}
				return true
			})
		}
	}
}

// TokenPart chooses what a proposal to authenticate carries so that all members come to know the same token. Empty where
// tokens are signed instead.
func (s *Store) TokenPart() string {
	if s.cfg.Tokens.Kind != Simple {
		return ""
	}
	letters := make([]byte, 0, simpleLetters)
	var random [2 * simpleLetters]byte
	for len(letters) < simpleLetters {
		_, _ = rand.Read(random[:]) // never fails
		for _, r := range random {
			// Of 256 values 208 are a whole number of alphabets; the others would make its start more likely.
			if int(r) < 4*len(alphabet) && len(letters) < simpleLetters {
				letters = append(letters, alphabet[int(r)%len(alphabet)])
			}
		}
	}
	return string(letters)
}

// Authenticated is told, by apply, that a user has proved itself, and returns the simple token that this makes. part is
// from TokenPart. The token is empty where tokens are not simple; then Sign makes one for the revision returned.
func (s *Store) Authenticated(index uint64, username, part string) (token string, revision uint64, err error) {
	now := s.current.Load()
	if !now.enabled {
		return "", 0, ErrNotEnabled
	}
	u := now.users[username]
	if u == nil || u.Options.GetNoPassword() {
		return "", 0, ErrAuthFailed
	}
	if part == "" || s.cfg.Tokens.Kind != Simple {
		return "", now.revision, nil
	}
	token = part + "." + strconv.FormatUint(index, 10)
	s.simple.add(token, username)
	return token, now.revision, nil
}

// Sign returns the token that the client is given for what Authenticated returned.
func (s *Store) Sign(token string, id Identity) (string, error) {
	switch s.cfg.Tokens.Kind {
	case JWT:
		return s.signed.sign(id)
	case NoTokens:
		return "", ErrAuthFailed
	}
	return token, nil
}

// Identify returns who presents a token. ErrInvalidToken.
func (s *Store) Identify(ctx context.Context, token string) (Identity, error) {
	now := s.current.Load()
	if !now.enabled {
		return Identity{}, nil
	}
	token = strings.TrimPrefix(token, "Bearer ")
	switch s.cfg.Tokens.Kind {
	case JWT:
		return s.signed.verify(token)
	case NoTokens:
		return Identity{}, ErrInvalidToken
	}
	// The revision comes before the look at the token, and tokens end before a revision is published: whoever changes
	// after this is refused for an old revision.
	revision := now.revision
	username, ok := s.simple.user(token)
	if !ok && s.issuedLater(token) {
		// Another member has answered the client before this one has applied the entry.
		if err := s.cfg.CatchUp(ctx); err != nil {
			return Identity{}, err
		}
		revision = s.Revision()
		username, ok = s.simple.user(token)
	}
	if !ok {
		return Identity{}, ErrInvalidToken
	}
	return Identity{Username: username, Revision: revision}, nil
}

// issuedLater tells whether an unknown token may have been issued by a log entry that is still to be applied here.
func (s *Store) issuedLater(token string) bool {
	part, index, found := strings.Cut(token, ".")
	if !found || len(part) != simpleLetters {
		return false
	}
	issued, err := strconv.ParseUint(index, 10, 64)
	return err == nil && issued > s.cfg.Applied()
}
