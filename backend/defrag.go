package backend

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	bolt "go.etcd.io/bbolt"
	"go.uber.org/zap"
)

// DefragOptions is how a defragmentation reports.
type DefragOptions struct {
	// Progress, if set, is called after every piece with the phase ("copy", "catch
	// up", "verify structure", "verify", "swap") and the bytes of it that are done,
	// and the estimate of all. It must be quick.
	Progress func(phase string, done, total int64)
}

// DefragResult is what a defragmentation did.
type DefragResult struct {
	SizeBefore, SizeAfter int64 // as Sizes.File
	BytesCopied           int64
	// LongestPause is how long the committer was held up at the end. That is the
	// most that a client could feel: requests wait for the committer only if two
	// batches fill up meanwhile.
	LongestPause time.Duration
	Duration     time.Duration
}

// Defrag copies the file into a new one without holes, proves that both hold the
// same, and continues on the new one. Requests go on meanwhile. If it returns an
// error, or the process dies, the old file is as it was. One at a time (ErrBusy);
// the free disk space is checked first (ErrNoDiskSpace). ErrCopyDiffers says that
// the new file was not as it should be.
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
	d := &defrag{b: b, started: time.Now()}
	if err := d.run(ctx, opts); err != nil {
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
	*copier
	b       *Backend
	started time.Time
	result  DefragResult
}

func (d *defrag) run(ctx context.Context, opts DefragOptions) (err error) {
	d.result.SizeBefore = d.b.Sizes().File
	if d.copier, err = d.b.newCopier(ctx, opts.Progress); err != nil {
		return err
	}
	defer d.discard()
	defer d.stop()
	d.b.cfg.step("copy", d.path)
	if err := d.copyAndCatchUp("copy", "catch up"); err != nil {
		return err
	}
	d.b.cfg.step("verify", d.path)
	if err := d.verify(); err != nil {
		return err
	}
	d.b.cfg.step("sync", d.path)
	if err := d.copyAndCatchUp("swap", "swap"); err != nil { // what came while the end was verified
		return err
	}
	if !d.b.cfg.NoSync {
		if err := d.target.Sync(); err != nil {
			return err
		}
	}
	d.report("swap", d.copied, d.copied)
	return d.b.pipeline.exclusively(d.ctx, d.finish)
}

// finish runs between two commits: nothing changes in the old file any more. Up
// to the rename the old file is the valid one, from then on the new one is; the
// committer does not go on before the directory is synced. Nothing in here takes
// longer for a larger file: the rest to be copied is small, all before it is on
// the disk already, and the map and the pages in it have been used.
func (d *defrag) finish() error {
	started := time.Now()
	touched, source, err := d.cut(true)
	if err != nil {
		return err
	}
	err = d.level(source, touched)
	source.unref()
	if err != nil {
		return err
	}
	d.target.NoSync, d.target.NoGrowSync = d.b.cfg.NoSync, false
	// An empty transaction: it syncs all that came before, then its meta page.
	if err := d.target.Update(func(*bolt.Tx) error { return nil }); err != nil {
		return err
	}
	if err := d.truncate(); err != nil {
		return err
	}
	d.b.cfg.step("swap", d.path)
	target := d.target
	d.target = nil // it is the backend's, whatever happens
	err = d.b.swap(target, d.path, nil)
	if err == nil || errors.Is(err, errDirectorySync) {
		d.path = "" // it is not there any more
	}
	if err != nil {
		return err
	}
	d.b.cfg.step("swapped", d.b.cfg.Path)
	d.result.SizeAfter = d.b.Sizes().File
	d.result.BytesCopied = d.copied
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
	info, err := os.Stat(d.path)
	if err != nil || info.Size() <= size {
		return err
	}
	return os.Truncate(d.path, size)
}
