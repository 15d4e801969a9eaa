package backend

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/upkeep-kv/upkeep/backend/pace"
	"github.com/upkeep-kv/upkeep/backend/vfs"
)

// Config says where the file is and how it is committed to. Zero values mean
// the defaults given.
type Config struct {
	Path   string
	Logger *zap.Logger // none
	// A batch is committed BatchInterval (100ms) after its first entry, or as
	// soon as it has BatchLimit (10000) operations or BatchBytes (32 MiB).
	BatchInterval time.Duration
	BatchLimit    int
	BatchBytes    int
	// InitialMmapBytes (10 GiB) is the least size of the memory map. The map is
	// address space only and in fact made much larger, see mapBytes.
	InitialMmapBytes int64
	// FreelistArray selects bbolt's array freelist instead of the map.
	FreelistArray bool
	// NoSync leaves out fsync: a crash of the machine may lose the file.
	NoSync bool
	// Walked says that the file at Path has just been through OpenFile: Open does not look at all of its pages again.
	Walked bool
	// Mlock keeps the file in memory.
	Mlock bool
	// OnCommit is called on the committer goroutine after every commit, when
	// readers already see it. It must be quick.
	OnCommit func(CommitInfo)

	// Pace says how fast defragmentations, snapshots and hashes may go. nil: as fast
	// as they can.
	Pace *pace.Governor
	// BeforeCommit, if set, is called on the committer goroutine before every
	// commit. Its error fails the commit as the disk's would; it may wait.
	BeforeCommit func() error
	// FreeBytes tells the room on the disk of a directory; vfs.FreeBytes.
	FreeBytes func(dir string) (int64, error)

	// step, if set, is called in tests before each step of a defragmentation or a
	// snapshot, with the path of the file that it makes.
	step func(name, path string)
	// rename and syncDir replace those of the disk in tests.
	rename  func(from, to string) error
	syncDir func(dir string) error
}

// CommitInfo describes one transaction. The durations are bbolt's, Duration is
// the whole.
type CommitInfo struct {
	Applied  uint64 // index
	Duration time.Duration
	// Write is the time of writing and syncing pages, Rebalance that of merging
	// pages after deletions, Spill that of splitting them.
	Write, Rebalance, Spill time.Duration
	Ops, Bytes              int
	Sizes                   Sizes
}

func (c *Config) setDefaults() {
	if c.Logger == nil {
		c.Logger = zap.NewNop()
	}
	if c.BatchInterval <= 0 {
		c.BatchInterval = 100 * time.Millisecond
	}
	if c.BatchLimit <= 0 {
		c.BatchLimit = 10000
	}
	if c.BatchBytes <= 0 {
		c.BatchBytes = 32 << 20
	}
	if c.InitialMmapBytes <= 0 {
		c.InitialMmapBytes = 10 << 30
	}
	if c.step == nil {
		c.step = func(string, string) {}
	}
	disk := vfs.OS{}
	if c.FreeBytes == nil {
		c.FreeBytes = vfs.FreeBytes
	}
	if c.rename == nil {
		c.rename = disk.Rename
	}
	if c.syncDir == nil {
		c.syncDir = disk.SyncDir
	}
}

// Backend is the file of one member. Begin belongs to the apply goroutine;
// everything else may be called from anywhere.
type Backend struct {
	cfg      Config
	pipeline *pipeline
	reaper   *reaper

	state   atomic.Pointer[readState] // nil after Close; written with pipeline.mu held
	durable atomic.Pointer[applied]
	views   atomic.Int64
	sizes   sizeGauges

	journals journals

	// Of the committer goroutine: the handle it writes to, the generations
	// after and before the transaction just committed, and what that was.
	current  *handle
	next     *generation
	retired  *generation
	info     CommitInfo
	accounts pageAccounts
	failing  bool // the last commit failed and is tried again

	defrag defragSlot
	jobs   jobs // long calls that Close has to end
}

type applied struct{ index, term uint64 }

// Open opens the file, creating it with etcd's ten buckets if it is absent, and
// removes what an interrupted defragmentation left. The error is a *LockedError
// if another process has the file open and is of class ErrCorrupt if the file
// cannot be a store.
func Open(cfg Config) (*Backend, error) {
	cfg.setDefaults()
	b := &Backend{cfg: cfg, reaper: newReaper()}
	db, err := openBolt(cfg.Path, &cfg)
	if err != nil {
		return nil, err
	}
	if err := removeLeftovers(&cfg); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	if b.current, err = newHandle(db, b.reaper); err != nil {
		return nil, err
	}
	gen, err := b.prepare(b.current)
	if err != nil {
		return nil, errors.Join(err, db.Close(), b.current.file.Close())
	}
	b.pipeline = newPipeline(environment{
		write: b.write, frozen: b.frozen, committed: b.committed, finished: b.finished, failed: b.commitFailed,
	}, cfg.BatchInterval, cfg.BatchLimit, int64(cfg.BatchBytes))
	b.install(gen)
	b.pipeline.lastAppended.main, b.pipeline.lastAppended.sub = gen.lastRevision()
	b.jobs.init()
	go b.pipeline.run()
	go b.reaper.run()
	return b, nil
}

// install makes a generation of the current handle the state of the backend. It
// is called before the pipeline runs, or on its goroutine with its lock held.
func (b *Backend) install(gen *generation) {
	old := b.state.Load()
	s := &readState{gen: gen, open: b.pipeline.mu.open.run}
	if b.pipeline.mu.frozen != nil {
		s.committing = b.pipeline.mu.frozen.run
	}
	b.state.Store(s)
	b.durable.Store(&applied{gen.index, gen.term})
	b.accounts = accountsOf(gen)
	b.sizes.set(gen, b.accounts, 0)
	if old != nil {
		old.gen.unref()
	}
}

// frozen and committed are the two moves of readers; see environment.
func (b *Backend) frozen(committing, open *run) {
	b.state.Store(&readState{gen: b.state.Load().gen, committing: committing, open: open})
}

func (b *Backend) committed() {
	old := b.state.Load()
	next := &readState{gen: b.next, open: b.pipeline.mu.open.run}
	// A batch may have been frozen while background work alone was being written: it is still to come.
	if frozen := b.pipeline.mu.frozen; frozen != nil {
		next.committing = frozen.run
	}
	b.state.Store(next)
	b.durable.Store(&applied{b.next.index, b.next.term})
	b.next, b.retired = nil, old.gen
}

func (b *Backend) finished(*job) {
	if err := b.retired.unrefHere(); err != nil {
		b.cfg.Logger.Error("could not end a read transaction", zap.Error(err))
	}
	b.retired = nil
	if b.failing {
		b.failing = false
		b.cfg.Logger.Info("backend commits succeed again, nothing was lost", zap.String("path", b.cfg.Path))
	}
	if b.cfg.OnCommit != nil {
		b.info.Sizes = b.Sizes()
		b.cfg.OnCommit(b.info)
	}
}

func (b *Backend) commitFailed(err error, retryIn time.Duration) {
	b.failing = true
	if retryIn == 0 {
		b.cfg.Logger.Error("backend commit failed for good, the state will not advance on disk",
			zap.String("path", b.cfg.Path), zap.Error(err))
		return
	}
	b.cfg.Logger.Error("backend commit failed, keeping the batch and trying again",
		zap.String("path", b.cfg.Path), zap.Duration("retry-in", retryIn), zap.Error(err))
}

// Begin starts the effects of one log entry. It waits only while both batches
// are full, that is, while the disk cannot keep up or a commit keeps failing.
// After Close it returns a batch whose effects go nowhere.
func (b *Backend) Begin() *Batch { return b.pipeline.begin() }

// Unbind lets Begin go on where it would wait for the disk, so that an apply
// goroutine can be joined while the disk is full. Memory is not bounded from then
// on: it is for the entry at hand, just before Close.
func (b *Backend) Unbind() { b.pipeline.unbind() }

// Flush waits until everything sealed before the call is durable. It must not
// be called between Begin and Commit on the apply goroutine.
func (b *Backend) Flush(ctx context.Context) error { return b.pipeline.flush(ctx) }

// Background commits operations that are not effects of a log entry, such as
// compaction's deletions, and returns when they are durable. They run against
// what is committed, not against what is pending: Flush what they are to delete
// first. If ctx ends the operations may or may not happen.
func (b *Backend) Background(ctx context.Context, ops []Op) error {
	for _, o := range ops {
		if o.Bucket >= bucketCount || len(o.Key) == 0 {
			return fmt.Errorf("backend: bad operation on bucket %d, key %q", o.Bucket, o.Key)
		}
	}
	return b.pipeline.writeBackground(ctx, ops)
}

// Durable is the applied position of the last durable commit: raft's log is not
// needed up to there.
func (b *Backend) Durable() (index, term uint64) {
	d := b.durable.Load()
	return d.index, d.term
}

// Err is the error of the last commit, nil if it succeeded.
func (b *Backend) Err() error {
	b.pipeline.mu.Lock()
	defer b.pipeline.mu.Unlock()
	if b.pipeline.mu.failure != nil {
		return b.pipeline.mu.failure
	}
	return b.pipeline.mu.lastError
}

// Failed is closed when a commit has failed in a way that retrying cannot mend.
func (b *Backend) Failed() <-chan struct{} {
	b.pipeline.mu.Lock()
	defer b.pipeline.mu.Unlock()
	return b.pipeline.failed
}

// Path is where the file is.
func (b *Backend) Path() string { return b.cfg.Path }

// Abandon makes the file stay as the last commit left it, as if the process had
// died now: what is sealed and not yet committed is dropped, and everything that
// would commit returns ErrAbandoned. A commit under way ends first. Close is
// still to be called.
func (b *Backend) Abandon() {
	_ = b.pipeline.exclusively(context.Background(), func() error { // only ErrClosed, and then all is over
		b.pipeline.mu.Lock()
		defer b.pipeline.mu.Unlock()
		if b.pipeline.mu.failure == nil {
			b.pipeline.failLocked(ErrAbandoned)
		}
		return nil
	})
}

// Close ends defragmentations and other long calls with ErrClosed, commits what
// is sealed, waits for open views (saying so in the log) and closes the file.
func (b *Backend) Close() error {
	if !b.jobs.close() {
		return ErrClosed
	}
	err := b.pipeline.close()
	b.pipeline.mu.Lock()
	s := b.state.Swap(nil)
	b.pipeline.mu.Unlock()
	s.gen.unref()
	b.current.unref()
	b.reaper.close()
	b.awaitViews()
	return errors.Join(err, b.reaper.mu.err)
}

func (b *Backend) awaitViews() {
	const patience = 5 * time.Second
	timer := time.NewTimer(patience)
	defer timer.Stop()
	for {
		select {
		case <-b.reaper.done:
			return
		case <-timer.C:
			b.cfg.Logger.Warn("closing the backend waits for open views and snapshots",
				zap.String("path", b.cfg.Path), zap.Int64("open", b.views.Load()))
			timer.Reset(patience)
		}
	}
}

// jobs counts calls in progress that are ended by Close.
type jobs struct {
	ctx    context.Context
	cancel context.CancelCauseFunc
	mu     struct {
		sync.Mutex
		wg     sync.WaitGroup
		closed bool
	}
}

func (j *jobs) init() { j.ctx, j.cancel = context.WithCancelCause(context.Background()) }

// start derives a context that Close ends with cause ErrClosed; done must be
// called.
func (j *jobs) start(ctx context.Context) (_ context.Context, done func(), err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.mu.closed {
		return nil, nil, ErrClosed
	}
	j.mu.wg.Add(1)
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(j.ctx, func() { cancel(context.Cause(j.ctx)) })
	return ctx, func() { stop(); cancel(nil); j.mu.wg.Done() }, nil
}

// close ends all and waits for them; false if that was done before.
func (j *jobs) close() bool {
	j.mu.Lock()
	was := j.mu.closed
	j.mu.closed = true
	j.mu.Unlock()
	if was {
		return false
	}
	j.cancel(ErrClosed)
	j.mu.wg.Wait()
	return true
}
