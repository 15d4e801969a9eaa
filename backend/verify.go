package backend

import (
	"bytes"
	"fmt"
	"syscall"

	bolt "go.etcd.io/bbolt"
)

// walkPages is after how many pages the walk through the structure looks up.
const walkPages = 2048

// verify proves that the copy is what it should be: first that its pages are
// sound, then that every key and value in it is that of the original. It goes in
// pieces, on a fresh transaction each, so that it holds no pages: before a piece
// is compared, the copy is brought level with that transaction, and what is
// compared must be equal to the byte. So the hashes of both are equal too.
func (c *copier) verify() error {
	if err := c.verifyStructure(); err != nil {
		return err
	}
	v := verifier{copier: c}
	for done := false; !done; {
		var err error
		if done, err = v.piece(); err != nil {
			return err
		}
		c.report("verify", v.compared, max(c.copied, v.compared))
		if err := c.job.Rest(c.ctx); err != nil {
			return err
		}
	}
	return nil
}

// verifyStructure walks the pages of the copy as they are in the file, not as
// bbolt believes them to be. Nothing is written to it meanwhile.
func (c *copier) verifyStructure() error {
	info, err := c.file.Stat()
	if err != nil {
		return err
	}
	data, err := syscall.Mmap(int(c.file.Fd()), 0, int(info.Size()), syscall.PROT_READ, syscall.MAP_SHARED)
	if err != nil {
		return fmt.Errorf("map %s: %w", c.file.Name(), err)
	}
	var stopped error
	w := &walker{data: data, limit: 1}
	w.visit = func(pages uint64) bool {
		if pages%walkPages == 0 && stopped == nil {
			c.report("verify structure", int64(pages*w.pageSize), int64(w.pages*w.pageSize))
			stopped = c.job.Rest(c.ctx)
		}
		return stopped == nil
	}
	w.walk()
	if err := syscall.Munmap(data); err != nil {
		return err
	}
	if stopped == nil && len(w.problems) > 0 {
		return fmt.Errorf("%w: %s", ErrCopyDiffers, w.problems[0])
	}
	return stopped
}

// verifier is where a comparison has got to.
type verifier struct {
	*copier
	at       int // as copier.position
	last     []byte
	compared int64
}

func (v *verifier) piece() (done bool, err error) {
	touched, source, err := v.cut(false)
	if err != nil {
		return false, err
	}
	defer source.unref()
	if err := v.level(source, touched); err != nil {
		return false, err
	}
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%w: %v", ErrCopyDiffers, r)
		}
	}()
	err = v.target.View(func(tx *bolt.Tx) error {
		done, err = v.compare(source.tx, tx)
		return err
	})
	return done, err
}

func (v *verifier) compare(source, target *bolt.Tx) (done bool, err error) {
	budget := v.job.Size()
	for {
		name := v.bucketAt(v.at)
		from, to := source.Bucket([]byte(name)), target.Bucket([]byte(name))
		if to == nil {
			return false, fmt.Errorf("%w: bucket %q is missing", ErrCopyDiffers, name)
		}
		a, b := from.Cursor(), to.Cursor()
		k, val := seekAfter(a, v.last)
		k2, val2 := seekAfter(b, v.last)
		for ; k != nil && k2 != nil; k, val = a.Next() {
			if budget <= 0 {
				return false, nil
			}
			if !bytes.Equal(k, k2) || !bytes.Equal(val, val2) {
				return false, fmt.Errorf("%w: bucket %q at key %x", ErrCopyDiffers, name, k)
			}
			v.last = append(v.last[:0], k...)
			budget -= len(k) + len(val) + keyOverhead
			v.compared += int64(len(k) + len(val))
			k2, val2 = b.Next()
		}
		if k != nil || k2 != nil {
			return false, fmt.Errorf("%w: bucket %q has not the same number of keys", ErrCopyDiffers, name)
		}
		if v.at == len(v.buckets) {
			return true, nil
		}
		v.at++
		v.last = nil
	}
}
