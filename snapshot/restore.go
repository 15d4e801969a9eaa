package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"go.uber.org/zap"

	"github.com/upkeep-kv/upkeep/backend"
	"github.com/upkeep-kv/upkeep/raftnode/identity"
)

// UnfinishedName is what a data directory holds instead of a member while a restore into it is under way, or after one was
// broken off.
const UnfinishedName = "restore.part"

// defaultMmapBytes is etcd's --initial-memory-map-size.
const defaultMmapBytes = 10 << 30

// Names inside the data directory.
const (
	memberName = "member"
	stageName  = UnfinishedName
	// claimName is a file in the stage that names a log directory outside the data directory which this restore is
	// about to put in place, and which a later run may therefore remove.
	claimName = "wal-dir"
)

var (
	// ErrMarkCompacted has etcdutl's text. The two options make sense together only: watchers must be told that
	// revisions are missing.
	ErrMarkCompacted = errors.New("--mark-compacted required if --revision-bump > 0")
	// ErrRevisionRange is the class of errors about a ToRevision that the snapshot does not hold.
	ErrRevisionRange = errors.New("snapshot: revision is not in this snapshot")
)

// RestoreOptions of Plan. The defaults are etcdutl's.
type RestoreOptions struct {
	SnapshotPath string
	// Name of the member; "" means "default".
	Name string
	// DataDir must be absent or empty; "" means "<name>.etcd".
	DataDir string
	// WALDir must not exist; "" means "<data dir>/member/wal".
	WALDir string
	// InitialCluster is "name=url,name=url"; "" means "default=http://localhost:2380".
	InitialCluster string
	// InitialClusterToken seeds the identities; "" means "etcd-cluster".
	InitialClusterToken string
	// InitialAdvertisePeerURLs must be those of Name in InitialCluster; none means http://localhost:2380.
	InitialAdvertisePeerURLs []string
	// SkipHashCheck accepts a file without trailer or with a wrong one.
	SkipHashCheck bool
	// BumpRevision raises the revision by so much above the newest in the snapshot, and makes all before it compacted,
	// so that no client sees a revision again with another meaning. With ToRevision, too, it counts from the
	// newest revision in the snapshot. Needs MarkCompacted, which needs it.
	BumpRevision  uint64
	MarkCompacted bool
	// ToRevision restores the keys as they were at an older revision that the snapshot still holds; 0 means the
	// newest. Leases, users and roles are those of the snapshot. New writes continue at the next revision, so
	// what was undone is gone and its revisions are used again, unless BumpRevision is given.
	ToRevision int64
	// InitialMmapBytes is how much address space the database is mapped with while it is changed; 0 means 10 GiB.
	InitialMmapBytes int64
	Logger           *zap.Logger
}

func (o *RestoreOptions) fill() {
	o.Name = orDefault(o.Name, "default")
	o.DataDir = orDefault(o.DataDir, o.Name+".etcd")
	o.WALDir = orDefault(o.WALDir, filepath.Join(o.DataDir, memberName, "wal"))
	o.InitialCluster = orDefault(o.InitialCluster, "default=http://localhost:2380")
	o.InitialClusterToken = orDefault(o.InitialClusterToken, "etcd-cluster")
	if len(o.InitialAdvertisePeerURLs) == 0 {
		o.InitialAdvertisePeerURLs = []string{"http://localhost:2380"}
	}
	if o.InitialMmapBytes == 0 {
		o.InitialMmapBytes = defaultMmapBytes
	}
	if o.Logger == nil {
		o.Logger = zap.NewNop()
	}
}

func orDefault(value, fallback string) string {
	if value == "" {
		return fallback
	}
	return value
}

// RestorePlan is a restore whose preconditions hold. Nothing has been written yet.
type RestorePlan struct {
	options   RestoreOptions
	members   []identity.Member
	self      identity.Member
	clusterID uint64
	history   History
	// stage is the directory in which the member is built; everything in it may be thrown away at any time before
	// the last rename.
	stage string
	// stagedWAL is where the log is built: inside the stage, if WALDir is inside the member directory, else beside
	// WALDir, so that it can be renamed into place.
	stagedWAL string
	walInside bool
	// madeDataDir: the data directory did not exist before Run.
	madeDataDir bool
}

// RestoreResult says what was restored.
type RestoreResult struct {
	MemberID, ClusterID uint64
	// Revision that the store has when a server starts on it, and the oldest that it can be asked for.
	Revision, CompactRevision int64
	// DroppedRevisions is how many entries were newer than ToRevision.
	DroppedRevisions int
	// LostLeases is how many keys, at ToRevision, were attached to leases that the snapshot no longer holds. They
	// do not expire any more.
	LostLeases int
}

// Plan checks everything that can be checked before a restore: options, directories, the file's trailer and the
// revisions it holds. It writes nothing.
func Plan(ctx context.Context, options RestoreOptions) (*RestorePlan, error) {
	options.fill()
	p := &RestorePlan{options: options}
	if err := p.planTarget(); err != nil {
		return nil, err
	}
	if !options.SkipHashCheck {
		if err := Verify(ctx, options.SnapshotPath); err != nil {
			return nil, err
		}
	}
	return p, p.planRevision(ctx, options.SnapshotPath)
}

// Check does the part of Plan that needs no snapshot: for a caller that has to fetch one first.
func Check(options RestoreOptions) error {
	options.fill()
	p := &RestorePlan{options: options}
	return p.planTarget()
}

// planTarget checks the options and the directories.
func (p *RestorePlan) planTarget() error {
	if p.options.MarkCompacted != (p.options.BumpRevision > 0) {
		return ErrMarkCompacted
	}
	if err := p.planIdentity(); err != nil {
		return err
	}
	return p.planDirectories()
}

func (p *RestorePlan) planIdentity() error {
	o := &p.options
	members, clusterID, err := identity.ParseCluster(o.InitialCluster, o.InitialClusterToken)
	if err != nil {
		return err
	}
	p.members, p.clusterID = members, clusterID
	for _, m := range members {
		if m.Name != o.Name {
			continue
		}
		p.self = m
		if identity.Match(m.PeerURLs, o.InitialAdvertisePeerURLs) {
			return nil
		}
		return fmt.Errorf("--initial-cluster has %s but missing from --initial-advertise-peer-urls=%s (resolved urls: %q != %q)",
			strings.Join(prefixed(o.Name+"=", m.PeerURLs), ","), strings.Join(o.InitialAdvertisePeerURLs, ","),
			strings.Join(o.InitialAdvertisePeerURLs, ","), strings.Join(m.PeerURLs, ","))
	}
	return fmt.Errorf("couldn't find local name %q in the initial cluster configuration", o.Name)
}

func prefixed(prefix string, texts []string) []string {
	result := make([]string, len(texts))
	for i, text := range texts {
		result[i] = prefix + text
	}
	return result
}

// planDirectories checks that both directories are free, except for what an interrupted restore left in them.
func (p *RestorePlan) planDirectories() error {
	o := &p.options
	o.DataDir, o.WALDir = filepath.Clean(o.DataDir), filepath.Clean(o.WALDir)
	p.stage = filepath.Join(o.DataDir, stageName)
	member := filepath.Join(o.DataDir, memberName)
	if inside, err := filepath.Rel(member, o.WALDir); err == nil && inside != "." && filepath.IsLocal(inside) {
		p.walInside = true
		p.stagedWAL = filepath.Join(p.stage, memberName, inside)
	} else {
		p.stagedWAL = o.WALDir + partSuffix
	}
	if !p.walInside && !p.claimed() {
		if _, err := os.Lstat(o.WALDir); !errors.Is(err, fs.ErrNotExist) {
			return p.walExists()
		}
	}
	entries, err := os.ReadDir(o.DataDir)
	if errors.Is(err, fs.ErrNotExist) {
		p.madeDataDir = true
		return nil
	}
	for _, e := range entries {
		switch path := filepath.Join(o.DataDir, e.Name()); path {
		case p.stage, p.stagedWAL:
		case o.WALDir:
			if !p.claimed() {
				return p.walExists()
			}
		default:
			err = errors.New("other files")
		}
	}
	if err != nil {
		return fmt.Errorf("data-dir %q not empty or could not be read", o.DataDir)
	}
	return nil
}

func (p *RestorePlan) walExists() error { return fmt.Errorf("wal-dir %q exists", p.options.WALDir) }

// claimed tells whether an interrupted restore was about to put WALDir in place.
func (p *RestorePlan) claimed() bool {
	claim, err := os.ReadFile(filepath.Join(p.stage, claimName))
	if err != nil {
		return false
	}
	absolute, err := filepath.Abs(p.options.WALDir)
	return err == nil && string(claim) == absolute
}

// planRevision checks that a database holds the revision that is asked for.
func (p *RestorePlan) planRevision(ctx context.Context, path string) error {
	o := &p.options
	err := view(ctx, path, FileOptions{}, func(f *backend.File) (err error) {
		p.history, err = historyOf(f)
		return err
	})
	if err != nil {
		return err
	}
	if o.ToRevision == 0 {
		return nil
	}
	if o.ToRevision < max(p.history.Compacted, 1) || o.ToRevision > p.history.Current {
		return fmt.Errorf("%w: %d was asked for, but this snapshot holds revisions %d to %d",
			ErrRevisionRange, o.ToRevision, max(p.history.Compacted, 1), p.history.Current)
	}
	return nil
}

// History is which revisions the snapshot holds.
func (p *RestorePlan) History() History { return p.history }
