package backend

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	bolt "go.etcd.io/bbolt"
	"go.uber.org/zap"

	"github.com/upkeep-kv/upkeep/backend/pace"
)

// copySizes bounds a piece of a copy in bytes of keys and values.
var copySizes = pace.Sizes{First: 1 << 20, Least: 128 << 10, Most: 16 << 20}

// keyOverhead is what a key counts beside its bytes, so that a piece of small
// keys does not take for ever.
const keyOverhead = 64

const (
	// The copy is level enough once a round had no more than this, or after so
	// many rounds that it is not going to get any better.
	smallRest = 1000
	maxRounds = 16
	// copySpare is what must be free on the disk beyond the copy itself.
	copySpare = 16 << 20
)

// copier makes another bbolt file hold what the backend's does, without holes,
// while the backend changes. It belongs to one goroutine.
type copier struct {
	b       *Backend
	ctx     context.Context
	journal *journal
	job     *pace.Job
	report  func(phase string, done, total int64)

	path   string
	target *bolt.DB
	file   *os.File // the same file, to have it written back and to read from
	// Where the copy has got to: buckets in order, Key last, and the last key
	// copied of the current one.
	buckets  []string
	position int
	lastKey  []byte
	copied   int64 // bytes of keys and values
	total    int64 // estimate of that
}

// newCopier checks that there is room and creates the file, which close removes
// unless its path is emptied before.
func (b *Backend) newCopier(ctx context.Context, report func(phase string, done, total int64)) (*copier, error) {
	sizes := b.Sizes()
	if err := b.checkRoom(sizes.InUse + sizes.Pending); err != nil {
		return nil, err
	}
	if report == nil {
		report = func(string, int64, int64) {}
	}
	c := &copier{b: b, ctx: ctx, journal: newJournal(), report: report, total: sizes.InUse}
	if err := c.create(); err != nil {
		return nil, err
	}
	c.job = b.cfg.Pace.Start(copySizes)
	b.journals.add(c.journal)
	return c, nil
}

func (b *Backend) checkRoom(bytes int64) error {
	free, err := b.cfg.FreeBytes(filepath.Dir(b.cfg.Path))
	if err != nil {
		return err
	}
	if need := bytes + copySpare; free < need {
		return fmt.Errorf("%w: %d bytes needed, %d free", ErrNoDiskSpace, need, free)
	}
	return nil
}

func (c *copier) create() (err error) {
	f, err := os.CreateTemp(dirAndName(c.b.cfg.Path))
	if err != nil {
		return err
	}
	c.file, c.path = f, f.Name()
	cfg := c.b.cfg
	cfg.InitialMmapBytes = max(cfg.InitialMmapBytes, 8*c.total)
	cfg.NoSync = true // written back piece by piece, and synced at the end
	if c.target, err = openBolt(c.path, &cfg); err != nil {
		return errors.Join(err, f.Close(), os.Remove(c.path))
	}
	c.target.NoGrowSync = true
	if err = c.listBuckets(); err != nil {
		c.discard()
	}
	return err
}

// dirAndName are for a temporary file beside the one at path.
func dirAndName(path string) (dir, pattern string) {
	return filepath.Dir(path), filepath.Base(path) + tempInfix + "*"
}

// stop ends the copying; the file stays.
func (c *copier) stop() {
	c.b.journals.remove(c.journal)
	c.job.Close()
}

// discard closes what is still ours and removes the file.
func (c *copier) discard() {
	var err error
	if c.target != nil {
		err = c.target.Close()
	}
	err = errors.Join(err, c.file.Close())
	if c.path != "" {
		err = errors.Join(err, os.Remove(c.path))
	}
	if err != nil {
		c.b.cfg.Logger.Warn("could not remove a temporary copy of the database",
			zap.String("path", c.path), zap.Error(err))
	}
}

func (c *copier) listBuckets() error {
	g, err := c.b.pin()
	if err != nil {
		return err
	}
	defer g.unref()
	return g.tx.ForEach(func(name []byte, _ *bolt.Bucket) error {
		if string(name) != Key.Name() {
			c.buckets = append(c.buckets, string(name))
		}
		return nil
	})
}

// copyAndCatchUp copies until little is left. The phases are what is reported up
// to the first time that the end is reached, and after it.
func (c *copier) copyAndCatchUp(phase, later string) error {
	for rounds := 0; ; {
		moved, atEnd, err := c.piece()
		if err != nil {
			return err
		}
		if atEnd {
			phase = later
		}
		c.report(phase, c.copied, max(c.total, c.copied))
		if atEnd {
			if rounds++; moved <= smallRest || rounds == maxRounds {
				return nil
			}
		}
		if err := c.job.Rest(c.ctx); err != nil {
			return err
		}
	}
}

// piece copies the next keys and replays what was touched behind, in one
// transaction on the new file. It returns the number of both and whether the
// copy has come to the end of what was committed.
func (c *copier) piece() (moved int, atEnd bool, err error) {
	c.journal.reading()
	touched := c.journal.take()
	source, err := c.b.pin()
	if err != nil {
		return 0, false, err
	}
	defer source.unref()
	return c.write(source, touched)
}

// cut is the start of a piece between two commits: what was touched and the
// source belong together exactly. inside says that this is the committer.
func (c *copier) cut(inside bool) (touched map[touch]struct{}, source *generation, err error) {
	fn := func() error {
		c.journal.reading()
		touched = c.journal.take()
		source, err = c.b.pin()
		return err
	}
	if inside {
		err = fn()
	} else {
		err = c.b.pipeline.exclusively(c.ctx, fn)
	}
	return touched, source, err
}

// level makes the copy hold exactly what source does, given a cut.
func (c *copier) level(source *generation, touched map[touch]struct{}) error {
	for atEnd := false; !atEnd; touched = nil {
		var err error
		if _, atEnd, err = c.write(source, touched); err != nil {
			return err
		}
	}
	return nil
}

// write is one piece. bbolt panics over a page that cannot be; of the copy, that is
// a copy gone wrong and no reason to die.
func (c *copier) write(source *generation, touched map[touch]struct{}) (moved int, atEnd bool, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%w: %v", ErrCopyDiffers, r)
		}
	}()
	if err := c.ctx.Err(); err != nil {
		return 0, false, context.Cause(c.ctx)
	}
	err = c.target.Update(func(tx *bolt.Tx) error {
		moved, atEnd, err = c.copyFrom(source, tx)
		if err != nil {
			return err
		}
		moved += len(touched)
		return replay(source, tx, touched)
	})
	if err != nil {
		return 0, false, err
	}
	if err := c.journal.dropped(); err != nil {
		return 0, false, err
	}
	c.journal.reached(c.reached())
	return moved, atEnd, writeBack(c.file)
}

// reached is the position in bucket Key.
func (c *copier) reached() []byte {
	if c.position < len(c.buckets) {
		return nil
	}
	return c.lastKey
}

func (c *copier) copyFrom(source *generation, tx *bolt.Tx) (moved int, atEnd bool, err error) {
	budget := c.job.Size()
	for {
		name := c.bucketAt(c.position)
		to, err := tx.CreateBucketIfNotExists([]byte(name))
		if err != nil {
			return moved, false, err
		}
		to.FillPercent = keyFill
		cursor := source.tx.Bucket([]byte(name)).Cursor()
		for k, v := seekAfter(cursor, c.lastKey); k != nil; k, v = cursor.Next() {
			if budget <= 0 {
				return moved, false, nil
			}
			if v == nil {
				return moved, false, corruptf("unexpected bucket %q in bucket %s", k, name)
			}
			if err := to.Put(k, v); err != nil {
				return moved, false, err
			}
			c.lastKey = append(c.lastKey[:0], k...)
			moved++
			budget -= len(k) + len(v) + keyOverhead
			c.copied += int64(len(k) + len(v))
		}
		if c.position == len(c.buckets) {
			return moved, true, nil
		}
		c.position++
		c.lastKey = nil
	}
}

// bucketAt is the name of a bucket in the order of copying.
func (c *copier) bucketAt(position int) string {
	if position < len(c.buckets) {
		return c.buckets[position]
	}
	return Key.Name()
}

func seekAfter(c *bolt.Cursor, last []byte) (k, v []byte) {
	if last == nil {
		return c.First()
	}
	k, v = c.Seek(last)
	if bytes.Equal(k, last) {
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
