package auth

import (
	"context"
	"encoding/binary"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/upkeep-kv/upkeep/backend"
)

// Batch takes the effects of one log entry. *backend.Batch is one. It owns the slices.
type Batch interface {
	Put(bucket backend.Bucket, key, value []byte)
	Delete(bucket backend.Bucket, key []byte)
}

// Config sets up a Store.
type Config struct {
	// Tokens is what --auth-token says; see ParseTokens. The zero value issues simple tokens.
	Tokens Tokens
	// SimpleTTL is how long a simple token lives after its last use [5m].
	SimpleTTL time.Duration
	// BcryptCost is the cost of hashing a password [10].
	BcryptCost int
	// Applied returns the index up to which this member has applied the log, and CatchUp returns once it has applied all
	// that was committed before the call. They tell a token that is not known yet from one that is none.
	Applied func() uint64
	CatchUp func(ctx context.Context) error
	Logger  *zap.Logger
}

// Store is the replicated set of users and roles, its copy in etcd's buckets, and this member's tokens.
//
// The methods of users.go and roles.go, Enable, Disable, Authenticated and Reload change it and belong to the apply
// goroutine. All others may be called by any; they look at the state that was published last and take no lock.
type Store struct {
	cfg     Config
	current atomic.Pointer[state]
	simple  simpleTokens
	signed  *signedTokens // nil unless tokens are JWTs
	hashing chan struct{} // a token for each password that may be hashed at the same time

	closeOnce sync.Once
	stop      chan struct{}
	wg        sync.WaitGroup // the sweeper
}

// Identity is a user as a request presents it, and the auth revision that the presentation is good for.
// The zero Identity is nobody.
type Identity struct {
	Username string
	Revision uint64
}

// Open loads the store from b and, if it is a new one, writes its first revision. Close ends it.
func Open(b *backend.Backend, cfg Config) (*Store, error) {
	s, err := newStore(cfg)
	if err != nil {
		return nil, err
	}
	view := b.View()
	loaded, err := load(view)
	fresh := err == nil && !hasRevision(view)
	view.Close()
	if err != nil {
		return nil, err
	}
	s.current.Store(loaded)
	if fresh {
		batch := b.Begin()
		writeRevision(batch, loaded.revision)
		batch.Commit(0, 0)
	}
	s.wg.Go(s.sweep)
	return s, nil
}

func newStore(cfg Config) (*Store, error) {
	s := &Store{cfg: cfg.withDefaults(), stop: make(chan struct{})}
	s.simple.init(s.cfg.SimpleTTL)
	s.hashing = make(chan struct{}, passwordsAtOnce())
	var err error
	if s.cfg.Tokens.Kind == JWT {
		s.signed, err = newSignedTokens(s.cfg.Tokens)
	}
	return s, err
}

func (c Config) withDefaults() Config {
	if c.SimpleTTL <= 0 {
		c.SimpleTTL = DefaultSimpleTTL
	}
	if !ValidBcryptCost(c.BcryptCost) {
		c.BcryptCost = DefaultBcryptCost
	}
	if c.Logger == nil {
		c.Logger = zap.NewNop()
	}
	if c.Applied == nil {
		c.Applied = func() uint64 { return 0 }
	}
	if c.CatchUp == nil {
		c.CatchUp = func(context.Context) error { return nil }
	}
	return c
}

func hasRevision(view *backend.View) bool {
	found := false
	// The callback cannot fail, and load has read the bucket already.
	_ = view.ScanBucket(backend.Auth, keyRevision, append(keyRevision[:len(keyRevision):len(keyRevision)], 0),
		func(_, _ []byte) error { found = true; return nil })
	return found
}

// Close joins the store's goroutine.
func (s *Store) Close() {
	s.closeOnce.Do(func() { close(s.stop) })
	s.wg.Wait()
}

// Reload replaces everything by what view holds, after a state transfer. Tokens end: whose passwords have changed since is
// not known. Clients authenticate again by themselves.
func (s *Store) Reload(view *backend.View) error {
	loaded, err := load(view)
	if err != nil {
		return err
	}
	s.current.Store(loaded)
	s.simple.drop(nil)
	return nil
}

// Enabled tells whether requests are checked at all. It costs an atomic load.
func (s *Store) Enabled() bool { return s.current.Load().enabled }

// Revision counts the changes that were ever made, from 1 on.
func (s *Store) Revision() uint64 { return s.current.Load().revision }

// Status is Enabled and Revision of one moment.
func (s *Store) Status() (enabled bool, revision uint64) {
	now := s.current.Load()
	return now.enabled, now.revision
}

// Enable switches checking on. The user root must exist and hold the role root, which need not exist itself.
func (s *Store) Enable(b Batch) error {
	now := s.current.Load()
	if now.enabled {
		return nil
	}
	root := now.users[rootName]
	switch {
	case root == nil:
		return ErrRootUserMissing
	case !root.root:
		return ErrRootRoleMissing
	}
	next := *now // the maps stay as they are, and so may be shared
	next.enabled = true
	b.Put(backend.Auth, keyEnabled, []byte{1})
	s.current.Store(&next)
	s.cfg.Logger.Info("enabled authentication", zap.Uint64("auth-revision", next.revision))
	return nil
}

// Disable switches checking off and ends all tokens.
func (s *Store) Disable(b Batch) {
	now := s.current.Load()
	if !now.enabled {
		return
	}
	next := *now
	next.enabled = false
	b.Put(backend.Auth, keyEnabled, []byte{0})
	s.simple.drop(nil)
	s.publish(b, &next)
	s.cfg.Logger.Info("disabled authentication", zap.Uint64("auth-revision", next.revision))
}

// publish makes next the state of the next revision.
func (s *Store) publish(b Batch, next *state) {
	next.revision++
	writeRevision(b, next.revision)
	s.current.Store(next)
}

func writeRevision(b Batch, revision uint64) {
	b.Put(backend.Auth, keyRevision, binary.BigEndian.AppendUint64(nil, revision))
}
