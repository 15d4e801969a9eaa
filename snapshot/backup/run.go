package backup

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/upkeep-kv/upkeep/snapshot"
)

// ErrOtherCluster is returned for a repository that holds backups of another cluster.
var ErrOtherCluster = errors.New("backup: the repository belongs to another cluster")

// Options of Run.
type Options struct {
	Repository *Repository
	Source     Source
	ClusterID  uint64
	MemberID   uint64
	MemberName string
	// Kind that is wanted. An incremental one becomes a full one where that is not possible, and the manifest says why.
	Kind Kind
	// Reason is why a backup is taken, for the manifest.
	Reason string
	// Compress makes the data smaller, with zstd.
	Compress bool
	// Verify restores a full backup before it counts, and reads an incremental one. A backup that turns out bad is
	// removed, and Run fails.
	Verify bool
	// Scratch is a directory for that; what is made in it is removed.
	Scratch string
	// Force accepts a repository that holds backups of another cluster.
	Force bool
	// Progress, if set, is told how far a phase has come; total is 0 where that is not known.
	Progress func(phase string, done, total int64)
	Logger   *zap.Logger
	// Agree is asked before a backup is written, since the next ones build on it: it returns an error if most other members
	// have another history than this one. May be nil.
	Agree func(ctx context.Context, hash snapshot.KVHash) error
}

func (o *Options) fill() {
	if o.Logger == nil {
		o.Logger = zap.NewNop()
	}
	if o.Progress == nil {
		o.Progress = func(string, int64, int64) {}
	}
}

// Run takes one backup. When it returns one, that is whole, durable and listed.
func Run(ctx context.Context, o Options) (*Manifest, error) {
	o.fill()
	inventory, err := o.Repository.List(ctx)
	if err != nil {
		return nil, err
	}
	for _, m := range inventory.Backups {
		if uint64(m.ClusterID) != o.ClusterID && !o.Force {
			return nil, fmt.Errorf("%w: %s holds backups of cluster %v, this is %v; give each cluster a directory or prefix "+
				"of its own", ErrOtherCluster, o.Repository.Location(), m.ClusterID, HexID(o.ClusterID))
		}
	}
	if o.Kind == Incremental {
		m, why, err := o.incremental(ctx, inventory)
		if m != nil || err != nil {
			return m, err
		}
		o.Logger.Info("taking a full backup instead of an incremental one", zap.String("reason", why))
		o.Reason = joinReasons(o.Reason, why)
	}
	return o.full(ctx)
}

func joinReasons(a, b string) string {
	if a == "" || b == "" {
		return a + b
	}
	return a + "; full instead of incremental: " + b
}

func (o *Options) manifest(kind Kind, at Position, taken time.Time) *Manifest {
	m := &Manifest{
		Format: manifestFormat, ID: newID(kind, taken, at.Revision), Kind: kind,
		ClusterID: HexID(o.ClusterID), MemberID: HexID(o.MemberID), MemberName: o.MemberName,
		ToRevision: at.Revision, CompactRevision: at.CompactRevision, TakenAt: taken,
		Index: at.Index, Term: at.Term, Reason: o.Reason,
	}
	return m
}

// fullTries is how often a full backup begins anew because its revision was compacted before it could be hashed.
const fullTries = 3

func (o *Options) full(ctx context.Context) (*Manifest, error) {
	for try := 1; ; try++ {
		m, err := o.tryFull(ctx)
		if err == nil || try == fullTries || !errors.Is(err, ErrCompacted) {
			return m, err
		}
	}
}

func (o *Options) tryFull(ctx context.Context) (_ *Manifest, err error) {
	image, err := o.Source.Image(ctx)
	if err != nil {
		return nil, err
	}
	closeImage := func() error { return nil }
	if image != nil {
		closeImage = image.Close
	}
	defer func() { err = errors.Join(err, closeImage()) }()
	taken := time.Now().UTC()
	at, err := PositionOf(image.Scan)
	if err != nil {
		return nil, err
	}
	at.Index, at.Term = image.Applied()
	m := o.manifest(Full, at, taken)
	m.FromRevision = max(at.CompactRevision, 1)
	if m.Marks, err = marksOf(image.Scan, at); err != nil {
		return nil, err
	}
	m.Samples = samplesUntil(o.Source.Samples(m.FromRevision-1), m)
	o.Progress("hash", 0, 0)
	if m.Hash, err = o.hash(ctx, at.Revision); err != nil {
		return nil, err
	}
	total := image.Size()
	err = o.Repository.upload(ctx, m, o.Compress, total, func(w io.Writer) error {
		hash := sha256.New()
		_, err := image.WriteTo(&progressWriter{io.MultiWriter(w, hash), func(done int64) { o.Progress("upload", done, total) }, 0})
		if err == nil {
			_, err = w.Write(hash.Sum(nil)) // the trailer of a snapshot file
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	closeErr := image.Close() // before the verification: it pins pages
	closeImage = func() error { return closeErr }
	return o.finish(ctx, m, []*Manifest{m})
}

// finish verifies the data that have been uploaded, and only then lets them count.
func (o *Options) finish(ctx context.Context, m *Manifest, chain []*Manifest) (*Manifest, error) {
	discard := func(err error) error {
		// The context may be what ended it; the data are no backup in any case, and Sweep finds them.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), discardPatience)
		defer cancel()
		if removeErr := o.Repository.store.Delete(ctx, m.Object.Name); removeErr != nil {
			o.Logger.Warn("could not remove the data of a backup that failed", zap.String("name", m.Object.Name), zap.Error(removeErr))
		}
		return err
	}
	if o.Verify {
		v, err := o.verification(ctx, m, chain)
		if err != nil {
			return nil, discard(err)
		}
		if m.Verification = v; v.Error != "" {
			return nil, discard(fmt.Errorf("%w: the backup that was just taken at revision %d: %s", ErrDamaged, m.ToRevision, v.Error))
		}
	}
	m.FinishedAt = time.Now().UTC()
	if err := o.Repository.publish(ctx, m); err != nil {
		return nil, discard(err)
	}
	o.Logger.Info("backup finished", zap.String("id", m.ID), zap.Int64("from-revision", m.FromRevision),
		zap.Int64("to-revision", m.ToRevision), zap.Int64("size-bytes", m.Object.SizeBytes), zap.Bool("verified", m.Good()),
		zap.Duration("took", m.FinishedAt.Sub(m.TakenAt)))
	return m, nil
}

// hash is that of the member at rev, if the others agree.
func (o *Options) hash(ctx context.Context, rev int64) (snapshot.KVHash, error) {
	hash, err := o.Source.HashKV(ctx, rev)
	if err == nil && o.Agree != nil {
		err = o.Agree(ctx, hash)
	}
	return hash, err
}

const discardPatience = 30 * time.Second

// verification proves what was uploaded: a full backup by restoring it, an incremental one by reading it. What keeps
// it from being tried, such as a full disk, is an error; what it finds is in the result.
func (o *Options) verification(ctx context.Context, m *Manifest, chain []*Manifest) (*Verification, error) {
	o.Progress("verify", 0, m.Object.SizeBytes)
	if m.Kind == Incremental {
		return o.Repository.VerifyByReading(ctx, m)
	}
	return o.Repository.VerifyByRestoring(ctx, chain, o.Scratch)
}

// maxSamples bounds the samples of one manifest.
const maxSamples = 1000

// samplesUntil cuts samples to those that m can restore, thins them out, and ends them with the moment that m was taken.
func samplesUntil(samples []Sample, m *Manifest) []Sample {
	samples = slices.Clone(samples)
	slices.SortStableFunc(samples, func(a, b Sample) int { return a.Time.Compare(b.Time) })
	kept := samples[:0]
	last := int64(0)
	for _, s := range samples {
		// A clock that was set back can make them disagree; then the later time counts, which loses nothing.
		if s.Revision >= last && s.Revision >= m.FromRevision && s.Revision <= m.ToRevision && s.Time.Before(m.TakenAt) {
			kept, last = append(kept, Sample{s.Time.UTC(), s.Revision}), s.Revision
		}
	}
	for len(kept) >= maxSamples {
		thinned := kept[:0]
		for i := 0; i < len(kept); i += 2 {
			thinned = append(thinned, kept[i])
		}
		kept = thinned
	}
	return append(kept, Sample{m.TakenAt, m.ToRevision})
}

// newestOf is the backup that an incremental one continues: that which reaches furthest, of those that are whole.
func (o *Options) newestOf(inventory *Inventory) *Manifest {
	for _, m := range slices.Backward(inventory.Backups) {
		if uint64(m.ClusterID) != o.ClusterID || inventory.Broken[m.ID] || m.Bad() {
			continue
		}
		if _, err := inventory.chain(m); err == nil {
			return m
		}
	}
	return nil
}

// incremental takes one if it can; else it says why not.
func (o *Options) incremental(ctx context.Context, inventory *Inventory) (_ *Manifest, why string, err error) {
	parent := o.newestOf(inventory)
	if parent == nil {
		return nil, "there is no full backup yet", nil
	}
	var m *Manifest
	var rows bytes.Buffer
	err = o.Source.Tables(ctx, func(at Position, scan Scan) error {
		taken := time.Now().UTC()
		if why, err = o.continues(ctx, parent, at, scan); why != "" || err != nil {
			return err
		}
		m = o.manifest(Incremental, at, taken)
		m.Parent, m.FromRevision = parent.ID, parent.ToRevision
		return copyTables(&rows, scan)
	})
	if err == nil && m != nil {
		m.Hash, err = o.hash(ctx, m.ToRevision)
	}
	if err == nil && m != nil {
		err = o.uploadHistory(ctx, m, parent, rows.Bytes())
	}
	switch {
	case errors.Is(err, ErrCompacted):
		return nil, "the history since the last backup was compacted while it was read", nil
	case m == nil || err != nil:
		return nil, why, err
	}
	chain, err := inventory.chain(parent)
	if err != nil {
		return nil, "", err
	}
	m, err = o.finish(ctx, m, append(chain, m))
	return m, "", err
}

// continues tells why a member cannot continue a backup, or nothing if it can.
func (o *Options) continues(ctx context.Context, parent *Manifest, at Position, scan Scan) (why string, err error) {
	floor := max(at.CompactRevision, o.Source.CompactRevision())
	switch {
	case at.Revision < parent.ToRevision:
		return fmt.Sprintf("the last backup reaches revision %d, and this member is at %d: the cluster was set back, or the "+
			"member is behind", parent.ToRevision, at.Revision), nil
	case at.Index < parent.Index || at.Term < parent.Term:
		return "the log is not the one of the last backup: the cluster was restored", nil
	case floor > parent.ToRevision:
		return fmt.Sprintf("the history since the last backup, at revision %d, was compacted at %d", parent.ToRevision, floor), nil
	}
	at.CompactRevision = floor
	same, comparable, err := sameHistory(scan, at, parent.Marks, parent.ToRevision)
	if err != nil {
		return "", err
	}
	if same && !comparable && len(parent.Marks) > 0 {
		if parent.Hash.CompactRevision != floor {
			return fmt.Sprintf("compaction at %d has left nothing to compare with the last backup", floor), nil
		}
		hash, err := o.Source.HashKV(ctx, parent.ToRevision)
		if err != nil {
			return "", err
		}
		same = hash == parent.Hash
	}
	if !same {
		return fmt.Sprintf("what the last backup holds up to revision %d is not what this member has: the cluster was "+
			"restored since", parent.ToRevision), nil
	}
	return "", nil
}

// copyTables writes the tables as frames.
func copyTables(w io.Writer, scan Scan) error {
	h := &historyWriter{w: w}
	for _, table := range tables {
		if err := h.beginTable(table); err != nil {
			return err
		}
		if err := scan(table, nil, nil, h.row); err != nil {
			return err
		}
	}
	return h.flush()
}

// uploadHistory uploads the entries since parent, and the tables, which are frames already.
func (o *Options) uploadHistory(ctx context.Context, m, parent *Manifest, tables []byte) error {
	marks := marker{slices.Clone(parent.Marks)}
	expected := int64(len(tables)) + (m.ToRevision-m.FromRevision)*512
	err := o.Repository.upload(ctx, m, o.Compress, expected, func(w io.Writer) error {
		h, err := newHistoryWriter(&progressWriter{w, func(done int64) { o.Progress("upload", done, 0) }, 0})
		if err != nil {
			return err
		}
		err = o.Source.Entries(ctx, m.FromRevision, m.ToRevision, func(k, v []byte) error {
			return errors.Join(marks.entry(k, v), h.entry(k, v))
		})
		if err == nil {
			err = h.flush()
		}
		if err == nil {
			_, err = h.w.Write(tables)
		}
		if err == nil {
			err = h.end(m.ToRevision)
		}
		m.Entries = h.entries
		return err
	})
	m.Marks = marks.marks
	m.Samples = samplesUntil(o.Source.Samples(m.FromRevision-1), m)
	return err
}

type progressWriter struct {
	io.Writer
	report func(done int64)
	done   int64
}

func (p *progressWriter) Write(b []byte) (int, error) {
	n, err := p.Writer.Write(b)
	p.done += int64(n)
	p.report(p.done)
	return n, err
}
