package lease

import (
	"errors"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/upkeep-kv/upkeep/backend"
)

var (
	// ErrNotFound: there is no such lease, or it has run out.
	ErrNotFound = errors.New("lease not found")
	// ErrExists: the id is in use.
	ErrExists = errors.New("lease already exists")
	// ErrTTLTooLarge: the time to live is above MaxTTL.
	ErrTTLTooLarge = errors.New("too large lease TTL")
	// ErrNotPrimary: this member does not lead, so it does not know how much time leases have left.
	ErrNotPrimary = errors.New("not a primary lessor")
	// ErrClosed: the lessor is closed.
	ErrClosed = errors.New("lease: lessor closed")
)

// MaxTTL is the longest time to live in seconds, as in etcd. A deadline that far away still fits a time.Duration.
const MaxTTL int64 = 9_000_000_000

// maxCheckpoints is how many checkpoints one log entry may hold.
const maxCheckpoints = 1000

// Batch takes the effects of one log entry. *backend.Batch is one. It owns the slices.
type Batch interface {
	Put(bucket backend.Bucket, key, value []byte)
	Delete(bucket backend.Bucket, key []byte)
}

// Config sets a lessor's numbers. The zero value of a field means the default in brackets.
type Config struct {
	// MinTTL is the shortest time to live in seconds [1]; a grant of less gets this. It must be the same on all members.
	MinTTL int64
	// CheckpointEnabled makes the leader offer checkpoints, each CheckpointInterval [5m], of leases with more than that left.
	CheckpointEnabled  bool
	CheckpointInterval time.Duration
	// CheckpointPersist writes checkpoints to disk. It must be the same on all members.
	CheckpointPersist bool
	// ExpireBatch leases at most are offered in an ExpireInterval [500 in 500ms], evenly.
	ExpireBatch    int
	ExpireInterval time.Duration
	// RetryInterval is the time after which a lease that was offered and still exists is offered again [3s]. The same for
	// checkpoints that were asked for.
	RetryInterval time.Duration
	Logger        *zap.Logger
	// Granted, Revoked and Renewed are told of each, for metrics. They may be nil.
	Granted func(ttlSeconds int64)
	Revoked func()
	Renewed func()
}

func (c Config) withDefaults() Config {
	set := func(d *time.Duration, def time.Duration) {
		if *d <= 0 {
			*d = def
		}
	}
	c.MinTTL = max(c.MinTTL, 1)
	set(&c.CheckpointInterval, 5*time.Minute)
	set(&c.ExpireInterval, 500*time.Millisecond)
	set(&c.RetryInterval, 3*time.Second)
	if c.ExpireBatch <= 0 {
		c.ExpireBatch = 500
	}
	if c.Logger == nil {
		c.Logger = zap.NewNop()
	}
	if c.Granted == nil {
		c.Granted = func(int64) {}
	}
	if c.Revoked == nil {
		c.Revoked = func() {}
	}
	if c.Renewed == nil {
		c.Renewed = func() {}
	}
	return c
}

// Lease is what all members know of a lease.
type Lease struct {
	ID int64
	// TTL is the granted time to live in seconds, RemainingTTL what was left at the last checkpoint; 0 without one.
	TTL, RemainingTTL int64
}

// item is a lease with what the leader knows of it.
type item struct {
	Lease

	// Only while primary.
	deadline      time.Time // when it runs out
	checkpointDue time.Time // when its remaining time should be checkpointed
	slots         [schedules]slot
	// noted: a checkpoint was offered and not taken back since, so it may be in the log though it is not applied.
	noted bool
	// takenBack is closed when the checkpoint of a renewed lease was taken back, or nobody need wait for it any more; nil
	// unless someone waits.
	takenBack chan struct{}
}

// Lessor keeps all leases of a member.
//
// Grant, Remove, Checkpoint, Attach, Detach and Reload change replicated state and are called by the apply goroutine.
// All else may be called by any.
//
// Lock order: mu, then keys.mu.
type Lessor struct {
	cfg  Config
	load func(fn func(id, ttl, remaining int64)) error

	expired     chan []int64
	checkpoints chan []Checkpoint
	wake        chan struct{} // holds a token when the loop should look again
	stop        chan struct{}
	closeOnce   sync.Once
	wg          sync.WaitGroup // the loop

	keys attachments

	mu      sync.RWMutex
	leases  map[int64]*item
	primary bool
	extend  time.Duration // of the last Promote
	// term counts promotions, demotions and reloads: what the loop took from the schedules before is void.
	term    uint64
	expiry  schedule // while primary: all leases but those on their way through Expired, when to look at them
	due     schedule // while primary: leases to checkpoint
	paceEnd time.Time
}

// Open loads the leases and starts the lessor, not primary; Close ends it. Keys are attached by the caller, from the
// store.
func Open(b *backend.Backend, cfg Config) (*Lessor, error) {
	return open(func(fn func(id, ttl, remaining int64)) error {
		view := b.View()
		defer view.Close()
		return view.ScanBucket(backend.Lease, nil, nil, func(_, value []byte) error {
			id, ttl, remaining, err := decode(value)
			if err == nil {
				fn(id, ttl, remaining)
			}
			return err
		})
	}, cfg)
}

func open(load func(fn func(id, ttl, remaining int64)) error, cfg Config) (*Lessor, error) {
	l := &Lessor{
		cfg:         cfg.withDefaults(),
		load:        load,
		expired:     make(chan []int64),
		checkpoints: make(chan []Checkpoint),
		wake:        make(chan struct{}, 1),
		stop:        make(chan struct{}),
		expiry:      schedule{kind: expirySchedule},
		due:         schedule{kind: checkpointSchedule},
	}
	if err := l.Reload(); err != nil {
		return nil, err
	}
	l.wg.Go(l.loop)
	return l, nil
}

// Close joins the lessor's goroutine.
func (l *Lessor) Close() {
	l.closeOnce.Do(func() { close(l.stop) })
	l.wg.Wait()
}

// Reload reads all leases again, with no key attached to any, after the backend's content was replaced.
func (l *Lessor) Reload() error {
	leases := make(map[int64]*item)
	if err := l.load(func(id, ttl, remaining int64) {
		leases[id] = newItem(Lease{ID: id, TTL: ttl, RemainingTTL: remaining})
	}); err != nil {
		return err
	}
	l.keys.reset()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.voidLocked()
	l.leases = leases
	if l.primary {
		l.scheduleAllLocked()
	}
	return nil
}

func newItem(lease Lease) *item {
	it := &item{Lease: lease}
	for i := range it.slots {
		it.slots[i].at = absent
	}
	return it
}

// Len is the number of leases.
func (l *Lessor) Len() int {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return len(l.leases)
}

// Exists reports whether there is such a lease, run out or not: until it is revoked, keys may be attached to it.
func (l *Lessor) Exists(id int64) bool {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.leases[id] != nil
}
