package backup

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/klauspost/compress/zstd"
)

// Repository is the backups in a store. Its methods may be called at once, from several processes too.
type Repository struct {
	store Store

	mu    sync.Mutex
	cache map[ObjectInfo]*Manifest // manifests that were read, by what the store says of them
}

// NewRepository returns the repository in a store.
func NewRepository(store Store) *Repository {
	return &Repository{store: store, cache: make(map[ObjectInfo]*Manifest)}
}

// Open opens the repository at a location; see OpenStore.
func Open(location string) (*Repository, error) {
	store, err := OpenStore(location)
	if err != nil {
		return nil, err
	}
	return NewRepository(store), nil
}

// Location is where the repository is, for messages.
func (r *Repository) Location() string { return r.store.Location() }

// Inventory is what a repository holds.
type Inventory struct {
	// Backups in the order in which they were taken.
	Backups []*Manifest
	// Problems are manifests that cannot be read and backups whose data are missing or of the wrong size, a line each.
	Problems []string
	// Broken are the ids of backups among Backups that have a problem.
	Broken map[string]bool
	// Strays are objects that belong to no backup: of a run that is under way, or was cut off.
	Strays []ObjectInfo
}

// Find returns the backup of an id, nil if there is none.
func (i *Inventory) Find(id string) *Manifest {
	at := slices.IndexFunc(i.Backups, func(m *Manifest) bool { return m.ID == id })
	if at < 0 {
		return nil
	}
	return i.Backups[at]
}

// manifestReaders is how many manifests are read at once: a bucket answers one in tens of milliseconds.
const manifestReaders = 8

// List reads all manifests. What is wrong with single ones is among the problems.
func (r *Repository) List(ctx context.Context) (*Inventory, error) {
	objects, err := r.store.List(ctx)
	if err != nil {
		return nil, err
	}
	byName := make(map[string]ObjectInfo, len(objects))
	var manifests []ObjectInfo
	for _, o := range objects {
		byName[o.Name] = o
		if id, ok := strings.CutSuffix(o.Name, manifestSuffix); ok && idPattern.MatchString(id) {
			manifests = append(manifests, o)
		}
	}
	inventory := &Inventory{Broken: make(map[string]bool)}
	if err := r.readManifests(ctx, manifests, inventory); err != nil {
		return nil, err
	}
	for _, m := range inventory.Backups {
		data, ok := byName[m.Object.Name]
		switch {
		case !ok:
			inventory.broken(m, "its data, %s, are missing", m.Object.Name)
		case data.Size != m.Object.SizeBytes:
			inventory.broken(m, "its data have %d bytes instead of %d", data.Size, m.Object.SizeBytes)
		}
		delete(byName, m.Object.Name)
	}
	for _, o := range objects {
		if _, ok := byName[o.Name]; ok && strayName(o.Name) {
			inventory.Strays = append(inventory.Strays, o)
		}
	}
	slices.SortFunc(inventory.Backups, func(a, b *Manifest) int {
		return cmp.Or(a.TakenAt.Compare(b.TakenAt), cmp.Compare(a.ToRevision, b.ToRevision), cmp.Compare(a.ID, b.ID))
	})
	return inventory, nil
}

func (i *Inventory) broken(m *Manifest, format string, args ...any) {
	i.Broken[m.ID] = true
	i.Problems = append(i.Problems, fmt.Sprintf("backup %s: %s", m.ID, fmt.Sprintf(format, args...)))
}

// strayName tells whether an object is named as the data of a backup: anything else in the place is not ours.
func strayName(name string) bool {
	id, suffix, _ := strings.Cut(name, ".")
	return idPattern.MatchString(id) && "."+suffix != manifestSuffix
}

func (r *Repository) readManifests(ctx context.Context, objects []ObjectInfo, inventory *Inventory) error {
	var mu sync.Mutex // guards inventory, failed
	var failed error
	var readers sync.WaitGroup
	next := make(chan ObjectInfo)
	for range min(manifestReaders, len(objects)) {
		readers.Go(func() {
			for o := range next {
				m, err := r.manifest(ctx, o)
				mu.Lock()
				switch {
				case err == nil:
					inventory.Backups = append(inventory.Backups, m)
				case errors.Is(err, ErrNotExist): // removed meanwhile
				case errors.Is(err, ErrDamaged):
					inventory.Problems = append(inventory.Problems, err.Error())
				default:
					failed = err
				}
				mu.Unlock()
			}
		})
	}
	for _, o := range objects {
		next <- o
	}
	close(next)
	readers.Wait()
	slices.Sort(inventory.Problems)
	r.forget(objects)
	return failed
}

// forget drops manifests from the cache that are no longer listed.
func (r *Repository) forget(listed []ObjectInfo) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.cache) <= len(listed) {
		return
	}
	kept := make(map[ObjectInfo]*Manifest, len(listed))
	for _, o := range listed {
		if m, ok := r.cache[o]; ok {
			kept[o] = m
		}
	}
	r.cache = kept
}

// maxManifestBytes bounds what is read of an object that claims to be a manifest.
const maxManifestBytes = 16 << 20

func (r *Repository) manifest(ctx context.Context, o ObjectInfo) (*Manifest, error) {
	r.mu.Lock()
	cached := r.cache[o]
	r.mu.Unlock()
	if cached != nil {
		return cached, nil
	}
	in, err := r.store.Get(ctx, o.Name)
	if err != nil {
		return nil, err
	}
	defer in.Close()
	text, err := io.ReadAll(io.LimitReader(&contextReader{ctx, in}, maxManifestBytes))
	if err != nil {
		return nil, err
	}
	m, err := parseManifest(o.Name, text)
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	r.cache[o] = m
	r.mu.Unlock()
	return m, nil
}

// publish writes a manifest, and with that makes a backup of its data, or replaces what was known of one.
func (r *Repository) publish(ctx context.Context, m *Manifest) error {
	text, err := m.encode()
	if err != nil {
		return err
	}
	return r.store.Put(ctx, m.ID+manifestSuffix, int64(len(text)), func(w io.Writer) error {
		_, err := w.Write(text)
		return err
	})
}

// Remove removes a backup: first it is no longer listed, then its data go.
func (r *Repository) Remove(ctx context.Context, m *Manifest) error {
	if err := r.store.Delete(ctx, m.ID+manifestSuffix); err != nil {
		return err
	}
	return r.store.Delete(ctx, m.Object.Name)
}

// upload writes the data of a backup and describes them in m.Object.
func (r *Repository) upload(ctx context.Context, m *Manifest, compress bool, expected int64, write func(io.Writer) error) error {
	if compress {
		m.Object.Compression = compressionZstd
		expected /= 3 // a guess; it only chooses how large the pieces are that travel
	}
	m.Object.Name = m.ID + suffixOf(m.Kind, m.Object.Compression)
	return r.store.Put(ctx, m.Object.Name, expected, func(w io.Writer) error {
		stored := &countingHash{hash: sha256.New(), to: w}
		content := &countingHash{hash: sha256.New(), to: stored}
		var err error
		if compress {
			var z *zstd.Encoder
			// One goroutine, the caller's: it shares its processor with requests.
			if z, err = zstd.NewWriter(stored, zstd.WithEncoderConcurrency(1)); err != nil {
				return err
			}
			content.to = z
			err = write(content)
			err = errors.Join(err, z.Close())
		} else {
			err = write(content)
		}
		m.Object.SizeBytes, m.Object.SHA256 = stored.size, stored.sum()
		m.Object.ContentBytes, m.Object.ContentSHA256 = content.size, content.sum()
		return err
	})
}

// download yields the content of a backup to read, which must read to the end. What is returned has been compared with
// the manifest: ErrDamaged, naming the object. The content has been seen by then, so it must not count before.
func (r *Repository) download(ctx context.Context, m *Manifest, read func(io.Reader) error) error {
	in, err := r.store.Get(ctx, m.Object.Name)
	if err != nil {
		return err
	}
	defer in.Close()
	stored := &hashingReader{from: &contextReader{ctx, in}, hash: sha256.New()}
	content := &hashingReader{from: stored, hash: sha256.New()}
	switch m.Object.Compression {
	case "":
	case compressionZstd:
		z, err := zstd.NewReader(stored, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true))
		if err != nil {
			return err
		}
		defer z.Close()
		content.from = z
	default:
		return fmt.Errorf("%w: %s: unknown compression %q", ErrDamaged, m.Object.Name, m.Object.Compression)
	}
	readErr := read(content)
	if readErr == nil {
		_, readErr = io.Copy(io.Discard, content)
	}
	if stored.err != nil {
		return stored.err // the store's, not that of the data
	}
	if readErr != nil && content.err == nil && !errors.Is(readErr, ErrDamaged) {
		return readErr // the reader's own
	}
	if err := context.Cause(ctx); err != nil {
		return err
	}
	if _, err := io.Copy(io.Discard, stored); err != nil {
		return err
	}
	switch {
	case stored.size != m.Object.SizeBytes:
		return fmt.Errorf("%w: %s has %d bytes instead of %d", ErrDamaged, m.Object.Name, stored.size, m.Object.SizeBytes)
	case stored.sum() != m.Object.SHA256:
		return fmt.Errorf("%w: %s: its SHA-256 is %s instead of %s", ErrDamaged, m.Object.Name, stored.sum(), m.Object.SHA256)
	case readErr != nil:
		return fmt.Errorf("%w: %s: %w", ErrDamaged, m.Object.Name, readErr)
	case content.size != m.Object.ContentBytes || content.sum() != m.Object.ContentSHA256:
		return fmt.Errorf("%w: %s: its content is not what the manifest says", ErrDamaged, m.Object.Name)
	}
	return nil
}

// strayAge is how old data without a manifest must be to count as left over: no upload takes that long.
const strayAge = 48 * time.Hour

// Sweep removes what runs that were cut off have left: data without manifest, unfinished uploads.
func (r *Repository) Sweep(ctx context.Context, inventory *Inventory, now time.Time) error {
	before := now.Add(-strayAge)
	for _, o := range inventory.Strays {
		if o.Modified.Before(before) {
			if err := r.store.Delete(ctx, o.Name); err != nil {
				return err
			}
		}
	}
	return r.store.Sweep(ctx, before)
}

type countingHash struct {
	hash hash.Hash
	to   io.Writer
	size int64
}

func (c *countingHash) Write(p []byte) (int, error) {
	n, err := c.to.Write(p)
	c.hash.Write(p[:n])
	c.size += int64(n)
	return n, err
}

func (c *countingHash) sum() string { return hex.EncodeToString(c.hash.Sum(nil)) }

type hashingReader struct {
	from io.Reader
	hash hash.Hash
	size int64
	err  error // other than io.EOF
}

func (h *hashingReader) Read(p []byte) (int, error) {
	n, err := h.from.Read(p)
	h.hash.Write(p[:n])
	h.size += int64(n)
	if err != nil && err != io.EOF {
		h.err = err
	}
	return n, err
}

func (h *hashingReader) sum() string { return hex.EncodeToString(h.hash.Sum(nil)) }
