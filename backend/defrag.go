package backend

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	bolt "go.etcd.io/bbolt"
	"go.uber.org/zap"
)

// DefragOptions is how a defragmentation reports.
type DefragOptions struct {
	// Progress, if set, is called after every piece with the bytes of keys and
	// values copied and the estimate of all. It must be quick.
	Progress func(copied, total int64)
}

// DefragResult is what a defragmentation did.
type DefragResult struct {
	SizeBefore, SizeAfter int64 // as Sizes.File
	BytesCopied           int64
	// LongestPause is how long the committer was held up at the end. Requests
	// do not wait for the committer.
	LongestPause time.Duration
	Duration     time.Duration
}

const (
	pieceKeys  = 10000
	pieceBytes = 4 << 20
	// syncEvery spreads the copy's disk writes, so that the log's fsync never
	// finds a large backlog before it.
	syncEvery = 16 << 20
	// The end is done between two commits once a round had no more than this,
	// or after so many rounds that it is not going to get any less.
	smallRest = 1000
	maxRounds = 16
	// A piece is followed by a pause as long as the piece took, within these.
	minPause = time.Millisecond
	maxPause = 100 * time.Millisecond
)

// Defrag copies the file into a new one without holes and continues on that.
// Requests go on meanwhile. If it returns an error, or the process dies, the old
// file is as it was. One at a time (ErrBusy); the free disk space is checked
// first (ErrNoDiskSpace).
func (b *Backend) Defrag(ctx context.Context, opts DefragOptions) (DefragResult, error) {
	ctx, done, err := b.jobs.start(ctx)
	if err != nil {
		return DefragResult{}, err
	}
	defer done()
	ctx, release, err := b.defrag.begin(ctx)
	if err != nil {
		return DefragResult{}, err
	}
	defer release()
	d := &defrag{b: b, ctx: ctx, opts: opts, journal: newJournal(), started: time.Now()}
	if err := d.run(); err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		return DefragResult{}, fmt.Errorf("defragment %s: %w", b.cfg.Path, err)
	}
	return d.result, nil
}

// defrag is one defragmentation. It runs on the caller's goroutine, its end on
// the committer's.
type defrag struct {
	b       *Backend
	ctx     context.Context
	opts    DefragOptions
	journal *journal
	started time.Time
	result  DefragResult

	tempPath string
	target   *bolt.DB
	// Where the copy has got to: buckets in order, Key last, and the last key
	// copied of the current one.
	buckets  []string
	position int
	lastKey  []byte
	total    int64
	unsynced int64
	// handed is set when target belongs to the backend, renamed when tempPath
	// is no more.
	handed, renamed bool
}

func (d *defrag) run() error {
	if err := d.checkSpace(); err != nil {
		return err
	}
	if err := d.createTarget(); err != nil {
		return err
	}
	defer d.cleanUp()
	d.b.journal.Store(d.journal)
	defer d.b.journal.Store(nil)
	if err := d.copyAndCatchUp(); err != nil {
		return err
	}
	return d.b.pipeline.exclusively(d.ctx, d.finish)
}

func (d *defrag) checkSpace() error {
	sizes := d.b.Sizes()
	d.result.SizeBefore, d.total = sizes.File, sizes.InUse
	free, err := d.b.cfg.FreeBytes(filepath.Dir(d.b.cfg.Path))
	if err != nil {
		return err
	}
	if need := sizes.InUse + sizes.Pending + syncEvery; free < need {
		return fmt.Errorf("%w: %d bytes needed, %d free", ErrNoDiskSpace, need, free)
	}
	return nil
}

func (d *defrag) createTarget() error {
	path := d.b.cfg.Path
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+tempInfix+"*")
	if err != nil {
		return err
	}
	d.tempPath = f.Name()
	if err := f.Close(); err != nil {
		return err
	}
	cfg := d.b.cfg
	cfg.InitialMmapBytes = max(cfg.InitialMmapBytes, 8*d.total)
	cfg.NoSync = true // synced piece by piece, and at the end
	if d.target, err = openBolt(d.tempPath, &cfg); err != nil {
		return errors.Join(err, os.Remove(d.tempPath))
	}
	d.target.NoGrowSync = true
	return nil
}

func (d *defrag) cleanUp() {
	var err error
	if !d.handed {
		err = d.target.Close()
	}
	if !d.renamed {
		err = errors.Join(err, os.Remove(d.tempPath))
	}
	if err != nil {
		d.b.cfg.Logger.Warn("could not remove the temporary file of a defragmentation",
			zap.String("path", d.tempPath), zap.Error(err))
	}
}

func (d *defrag) copyAndCatchUp() error {
	if err := d.listBuckets(); err != nil {
		return err
	}
	for rounds := 0; ; {
		started := time.Now()
		moved, atEnd, err := d.piece()
		if err != nil {
			return err
		}
		if atEnd {
			if rounds++; moved <= smallRest || rounds == maxRounds {
				return d.sync()
			}
		}
		if err := d.pause(min(max(time.Since(started), minPause), maxPause)); err != nil {
			return err
		}
	}
}

func (d *defrag) listBuckets() error {
	g, err := d.b.pin()
	if err != nil {
		return err
	}
	defer g.unref()
	return g.tx.ForEach(func(name []byte, _ *bolt.Bucket) error {
		if string(name) != Key.Name() {
			d.buckets = append(d.buckets, string(name))
		}
		return nil
	})
}

func (d *defrag) pause(length time.Duration) error {
	timer := time.NewTimer(length)
	defer timer.Stop()
	select {
	case <-d.ctx.Done():
		return context.Cause(d.ctx)
	case <-timer.C:
		return nil
	}
}

func (d *defrag) sync() error {
	d.unsynced = 0
	return d.target.Sync()
}

// piece copies the next keys and replays what was touched behind, in one
// transaction on the new file. It returns the number of both and whether the
// copy has come to the end of what was committed.
func (d *defrag) piece() (moved int, atEnd bool, err error) {
	if err := d.ctx.Err(); err != nil {
		return 0, false, err
	}
	d.journal.reading()
	touched := d.journal.take()
	source, err := d.b.pin()
	if err != nil {
		return 0, false, err
	}
	defer source.unref()
	copied := d.result.BytesCopied
	err = d.target.Update(func(tx *bolt.Tx) error {
		moved, atEnd, err = d.copyFrom(source, tx)
		if err != nil {
			return err
		}
		moved += len(touched)
		return replay(source, tx, touched)
	})
	if err != nil {
		return 0, false, err
	}
	d.journal.reached(d.reached())
	if d.unsynced += d.result.BytesCopied - copied; d.unsynced >= syncEvery {
		err = d.sync()
	}
	if d.opts.Progress != nil {
		d.opts.Progress(d.result.BytesCopied, max(d.total, d.result.BytesCopied))
	}
	return moved, atEnd, err
}

// reached is the position in bucket Key.
func (d *defrag) reached() []byte {
	if d.position < len(d.buckets) {
		return nil
	}
	return d.lastKey
}

func (d *defrag) copyFrom(source *generation, tx *bolt.Tx) (moved int, atEnd bool, err error) {
	var size int64
	defer func() { d.result.BytesCopied += size }()
	for {
		name := Key.Name()
		if d.position < len(d.buckets) {
			name = d.buckets[d.position]
		}
		to, err := tx.CreateBucketIfNotExists([]byte(name))
		if err != nil {
			return moved, false, err
		}
		to.FillPercent = keyFill
		c := source.tx.Bucket([]byte(name)).Cursor()
		for k, v := seekAfter(c, d.lastKey); k != nil; k, v = c.Next() {
			if moved == pieceKeys || size >= pieceBytes {
				return moved, false, nil
			}
			if v == nil {
				return moved, false, corruptf("unexpected bucket %q in bucket %s", k, name)
			}
			if err := to.Put(k, v); err != nil {
				return moved, false, err
			}
			d.lastKey = append(d.lastKey[:0], k...)
			moved++
			size += int64(len(k) + len(v))
		}
		if d.position == len(d.buckets) {
			return moved, true, nil
		}
		d.position++
		d.lastKey = nil
	}
}

func seekAfter(c *bolt.Cursor, last []byte) (k, v []byte) {
	if last == nil {
		return c.First()
	}
	k, v = c.Seek(last)
	if string(k) == string(last) {
		return c.Next()
	}
	return k, v
}

// replay makes every touched key in tx what it is in source.
func replay(source *generation, tx *bolt.Tx, touched map[touch]struct{}) error {
	for t := range touched {
		o := Op{Bucket: t.bucket, Key: []byte(t.key)}
		if from := source.tx.Bucket(t.bucket.bytes()); from != nil {
			o.Value = from.Get(o.Key)
		}
		o.Delete = o.Value == nil
		if err := writeOp(tx, o); err != nil {
			return err
		}
	}
	return nil
}

// finish runs between two commits: nothing changes in the old file any more. Up
// to the rename the old file is the valid one, from then on the new one is; the
// committer does not go on before the directory is synced.
func (d *defrag) finish() error {
	started := time.Now()
	for atEnd := false; !atEnd; {
		var err error
		if _, atEnd, err = d.piece(); err != nil {
			return err
		}
	}
	d.target.NoSync, d.target.NoGrowSync = d.b.cfg.NoSync, false
	// An empty transaction: it syncs all that came before, then its meta page.
	if err := d.target.Update(func(*bolt.Tx) error { return nil }); err != nil {
		return err
	}
	if err := d.truncate(); err != nil {
		return err
	}
	d.handed = true
	err := d.b.swap(d.target, d.tempPath, nil)
	d.renamed = err == nil || errors.Is(err, errDirectorySync)
	if err != nil {
		return err
	}
	d.result.SizeAfter = d.b.Sizes().File
	d.result.LongestPause = time.Since(started)
	d.result.Duration = time.Since(d.started)
	d.b.cfg.Logger.Info("finished defragmenting", zap.String("path", d.b.cfg.Path),
		zap.Int64("size-before-bytes", d.result.SizeBefore), zap.Int64("size-after-bytes", d.result.SizeAfter),
		zap.Duration("took", d.result.Duration), zap.Duration("longest-pause", d.result.LongestPause))
	return nil
}

// truncate cuts off what the file was extended by beyond its last page.
func (d *defrag) truncate() error {
	var size int64
	if err := d.target.View(func(tx *bolt.Tx) error { size = tx.Size(); return nil }); err != nil {
		return err
	}
	info, err := os.Stat(d.tempPath)
	if err != nil || info.Size() <= size {
		return err
	}
	return os.Truncate(d.tempPath, size)
}
