package server

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"go.uber.org/zap"

	"github.com/upkeep-kv/upkeep/backend"
	"github.com/upkeep-kv/upkeep/proto/peerpb"
	"github.com/upkeep-kv/upkeep/proto/walpb"
	"github.com/upkeep-kv/upkeep/quota"
	"github.com/upkeep-kv/upkeep/raftnode/identity"
	"github.com/upkeep-kv/upkeep/raftnode/transport"
	"github.com/upkeep-kv/upkeep/raftnode/wal"
	"github.com/upkeep-kv/upkeep/server/config"
	"github.com/upkeep-kv/upkeep/server/member"
)

// openLog is the opened write-ahead log with what it held.
type openLog struct {
	wal       *wal.WAL
	recovered *wal.Recovered
	// contacts are where a member that joins reaches the others before its own log tells it.
	contacts []member.Member
}

func hexID(id uint64) string { return strconv.FormatUint(id, 16) }

// remedyDatabase is what can be done about a database that cannot be used.
const remedyDatabase = "if other members are well, remove this member from the cluster, move its data directory away and add it " +
	"again (`maintenance rebuild` needs a member that runs); else restore a snapshot into a new directory, with `upkeepctl " +
	"restore --from` or `upkeepctl snapshot restore`"

func (s *Server) openBackend(ctx context.Context) error {
	s.limit = quota.Limit{MaxBytes: s.cfg.QuotaBackendBytes, Size: func() int64 { return s.backend.QuotaBytes() }}
	s.quotaAlarm = newQuotaAlarm(s.limit.Bytes())
	var err error
	cfg := s.backendConfig()
	cfg.Walked = s.walked
	s.backend, err = backend.Open(cfg)
	switch {
	case errors.Is(err, backend.ErrLocked):
		return fmt.Errorf("--data-dir %q is in use: %w", s.dir.root, err)
	case errors.Is(err, backend.ErrCorrupt):
		return fmt.Errorf("%w; %s", err, remedyDatabase)
	case err != nil:
		return fmt.Errorf("--data-dir %q: %w", s.dir.root, err)
	}
	if err := s.dir.removeLeftovers(); err != nil {
		return err
	}
	return s.defragAtBoot(ctx)
}

// defragAtBoot defragments before anything else runs, if that frees --bootstrap-defrag-threshold-megabytes.
func (s *Server) defragAtBoot(ctx context.Context) error {
	sizes, threshold := s.backend.Sizes(), int64(s.cfg.BootstrapDefragThresholdMBytes)<<20
	if threshold == 0 || sizes.File-sizes.InUse < threshold {
		return nil
	}
	result, err := s.backend.Defrag(ctx, backend.DefragOptions{})
	if err != nil {
		return fmt.Errorf("--bootstrap-defrag-threshold-megabytes: %w", err)
	}
	s.logger.Info("defragmented the database before serving", zap.Int64("size-bytes-before", result.SizeBefore),
		zap.Int64("size-bytes-after", result.SizeAfter), zap.Duration("took", result.Duration))
	return nil
}

// checkApplied refuses a database that holds data and does not say up to which entry of the log: what it holds would be
// applied to it once more.
func (s *Server) checkApplied(scan member.Scan) error {
	found := errors.New("it holds data, but not up to which entry of the log: its `meta` bucket is damaged")
	for _, bucket := range []backend.Bucket{backend.Members, backend.Key} {
		if err := scan(bucket, nil, nil, func(_, _ []byte) error { return found }); err != nil {
			return s.unusable(err)
		}
	}
	return nil
}

// unusable says that the database holds what no server has written.
func (s *Server) unusable(err error) error {
	return fmt.Errorf("the database %s cannot be used: %w; %s", s.dir.db, err, remedyDatabase)
}

// openWAL opens the log of a member that has started before, founds a cluster, or joins one. The database is open, and
// so its lock keeps a second process away from the log too.
func (s *Server) openWAL(ctx context.Context, opts Options) (*openLog, error) {
	var err error
	if s.walLock, err = s.dir.lockWAL(); err != nil {
		return nil, err
	}
	started, err := s.dir.hasWAL()
	if err != nil {
		return nil, err
	}
	applied, _ := s.backend.Durable()
	switch {
	case started:
		return s.reopenLog(applied)
	case applied > 0: // unless somebody has just removed the log, checkDirectory has said so
		return nil, fmt.Errorf("there is no log in %s any more", s.dir.wal)
	}
	if err := s.discover(ctx, opts); err != nil {
		return nil, err
	}
	if s.cfg.InitialClusterState == config.ClusterExisting {
		return s.joinCluster(ctx, opts)
	}
	return s.foundCluster()
}

// checkBootstrap refuses flags that cannot found or join a cluster before anything is written. A member with a log does
// not look at them.
func (s *Server) checkBootstrap() error {
	started, err := s.dir.hasWAL()
	if err != nil || started || s.cfg.Discovery.Wanted() {
		return err
	}
	return s.cfg.CheckBootstrap()
}

// reopenLog checks that log and database belong together.
func (s *Server) reopenLog(applied uint64) (*openLog, error) {
	w, recovered, err := wal.Open(s.disk.fs(), s.dir.wal, s.walOptions())
	if err != nil {
		return nil, err
	}
	l := &openLog{wal: w, recovered: recovered}
	s.id, s.clusterID, s.restarted = recovered.Metadata.GetNodeID(), recovered.Metadata.GetClusterID(), true
	if recovered.Repaired != "" {
		s.logger.Warn("repaired the log", zap.String("repair", recovered.Repaired))
	}
	_, term := s.backend.Durable()
	if err := s.checkBelong(recovered, applied, term); err != nil {
		return nil, errors.Join(w.Close(), err)
	}
	s.logger.Info("restarting local member", zap.String("cluster-id", hexID(s.clusterID)), s.logField(),
		zap.Uint64("commit-index", recovered.HardState.GetCommit()), zap.Uint64("applied-index", applied))
	return l, nil
}

// termAt is the term of an entry, 0 if the log does not know it.
func termAt(log *wal.Recovered, index uint64) uint64 {
	base := log.Snapshot.GetIndex()
	switch {
	case index == base:
		return log.Snapshot.GetTerm()
	case index > base && index-base <= uint64(len(log.Entries)):
		return log.Entries[index-base-1].GetTerm()
	}
	return 0
}

// installTransfer finishes a state transfer that the process died in: the log says that the state was received, the
// database is still the old one.
func (s *Server) installTransfer(l *openLog) error {
	wanted := l.recovered.Snapshot.GetIndex()
	applied, _ := s.backend.Durable()
	if applied >= wanted {
		return s.dir.removeTransfers(applied) // and checkDirectory has seen the members
	}
	file := s.dir.transferred(wanted)
	if err := s.checkTransferred(applied, wanted); err != nil {
		return err
	}
	s.logger.Info("installing a received database", zap.String("file", file), zap.Uint64("index", wanted))
	if err := s.backend.Replace(context.Background(), file); err != nil {
		return err
	}
	view := s.backend.View()
	defer view.Close()
	return s.checkMembership(view.ScanBucket, wanted)
}

// checkTransferred refuses a log that goes on from a state which was received and is not there.
func (s *Server) checkTransferred(applied, wanted uint64) error {
	file := s.dir.transferred(wanted)
	if _, err := os.Stat(file); err != nil {
		return fmt.Errorf("failed to recover v3 backend from snapshot: the log starts behind index %d, the database %s is "+
			"applied up to %d only, and %s is missing; restore a snapshot or remove and re-add the member",
			wanted, s.dir.db, applied, file)
	}
	return nil
}

// checkMembership refuses a database in which this member does not occur, as that of another cluster, and one from
// which it was removed.
func (s *Server) checkMembership(scan member.Scan, applied uint64) error {
	c := member.New(s.clusterID, 0)
	if err := c.Load(scan); err != nil {
		return s.unusable(err)
	}
	own, found := c.Member(s.id)
	switch {
	case c.IsRemoved(s.id):
		return s.removedError()
	case !found && len(c.Members()) > 0 && applied > 0:
		return fmt.Errorf("the database %s does not know member %s, to which the log %s belongs: they are of different "+
			"clusters or members", s.dir.db, hexID(s.id), s.dir.wal)
	case found:
		return s.checkOwnDirectory(own, c.Members())
	}
	return nil
}

// checkOwnDirectory refuses the data directory of a member when the flags are those of another one. Addresses that belong
// to nobody are fine: the member is about to be updated.
func (s *Server) checkOwnDirectory(own member.Member, all []member.Member) error {
	urls := s.cfg.peerURLs()
	if identity.Match(urls, own.PeerURLs) || identity.Match(urls, []string{config.DefaultListenPeerURL}) {
		return nil
	}
	for _, m := range all {
		if identity.Match(urls, m.PeerURLs) {
			return fmt.Errorf("--data-dir %q belongs to member %s (%s), but --initial-advertise-peer-urls %v are those of "+
				"member %s (%s): each member must be started on its own directory",
				s.dir.root, hexID(own.ID), own.Name, urls, hexID(m.ID), m.Name)
		}
	}
	return nil
}

func (s *Server) backendApplied() uint64 {
	applied, _ := s.backend.Durable()
	return applied
}

// foundCluster writes the first entries of a new cluster's log: one membership change for each initial member, the
// same on all of them.
func (s *Server) foundCluster() (*openLog, error) {
	urls := map[string][]string{}
	for _, m := range s.cfg.InitialCluster {
		urls[m.Name] = m.PeerURLs
	}
	initial, clusterID, err := identity.NewCluster(urls, s.cfg.InitialClusterToken)
	if err != nil {
		return nil, fmt.Errorf("--initial-cluster: %w", err)
	}
	s.clusterID = clusterID
	var founders []wal.BootstrapMember
	for _, m := range initial {
		if m.Name == s.cfg.Name {
			s.id = m.ID
		}
		context := member.Member{ID: m.ID, PeerURLs: m.PeerURLs, Name: m.Name}.Value()
		founders = append(founders, wal.BootstrapMember{ID: m.ID, Context: context})
	}
	s.logger.Info("starting a new cluster", zap.String("cluster-id", hexID(clusterID)), s.logField(),
		zap.Int("members", len(initial)))
	return s.createLog(founders, nil)
}

// createLog writes a new log that begins with the founders' admission.
func (s *Server) createLog(founders []wal.BootstrapMember, contacts []member.Member) (*openLog, error) {
	metadata := &walpb.Metadata{NodeID: &s.id, ClusterID: &s.clusterID}
	if err := wal.Bootstrap(s.disk.fs(), s.dir.wal, metadata, wal.BootstrapState{Members: founders}); err != nil {
		return nil, err
	}
	w, recovered, err := wal.Open(s.disk.fs(), s.dir.wal, s.walOptions())
	if err != nil {
		return nil, err
	}
	return &openLog{wal: w, recovered: recovered, contacts: contacts}, nil
}

// joinTimeout bounds how long a member that joins looks for the cluster.
const joinTimeout = 30 * time.Second

// joinCluster asks the members named in --initial-cluster who they are, and finds itself among them by its peer URLs.
func (s *Server) joinCluster(ctx context.Context, opts Options) (*openLog, error) {
	ctx, cancel := context.WithTimeout(ctx, joinTimeout)
	defer cancel()
	probe, err := transport.New(transport.Config{
		Dial: opts.Dial, Secure: s.securePeer, FS: s.disk.fs(), SnapDir: s.dir.snap, Version: Version, Logger: s.logger,
	})
	if err != nil {
		return nil, err
	}
	defer probe.Close()
	for {
		resp, err := s.askMembers(ctx, probe)
		if err == nil {
			return s.joinAs(resp)
		}
		s.logger.Warn("cannot reach the cluster to join", zap.Error(err))
		if !pause(ctx, retryInterval) {
			return nil, fmt.Errorf("cannot fetch cluster info from peer urls of --initial-cluster: %w", err)
		}
	}
}

// askMembers returns the first answer of another member that knows of this one. One that lags may not have applied yet
// what the operator was told is done; if nobody knows of this member, any answer will do to say so.
func (s *Server) askMembers(ctx context.Context, probe *transport.Transport) (*peerpb.MembersResponse, error) {
	var errs []error
	var stranger *peerpb.MembersResponse
	for _, m := range s.cfg.InitialCluster {
		if m.Name == s.cfg.Name {
			continue
		}
		conn, err := probe.DialURLs(m.PeerURLs)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", m.Name, err))
			continue
		}
		once, cancel := context.WithTimeout(ctx, s.cfg.requestTimeout())
		resp, err := peerpb.NewPeerClient(conn).Members(once, &peerpb.MembersRequest{})
		cancel()
		conn.Close()
		switch {
		case err != nil:
			errs = append(errs, fmt.Errorf("%s: %w", m.Name, err))
		case s.ownID(resp) != 0:
			return resp, nil
		default:
			stranger = resp
		}
	}
	if stranger != nil {
		return stranger, nil
	}
	if len(errs) == 0 {
		return nil, errors.New("--initial-cluster names no other member")
	}
	return nil, errors.Join(errs...)
}

// ownID is the ID that the cluster has given to whoever has this member's peer URLs, 0 if nobody has.
func (s *Server) ownID(resp *peerpb.MembersResponse) uint64 {
	for _, m := range resp.Members {
		if identity.Match(m.PeerURLs, s.cfg.peerURLs()) {
			return m.ID
		}
	}
	return 0
}

func (s *Server) joinAs(resp *peerpb.MembersResponse) (*openLog, error) {
	s.clusterID, s.id = resp.ClusterId, s.ownID(resp)
	var contacts []member.Member
	for _, m := range resp.Members {
		contacts = append(contacts, member.Member{ID: m.ID, PeerURLs: m.PeerURLs})
	}
	if s.id == 0 {
		return nil, fmt.Errorf("--initial-advertise-peer-urls %v: no member of cluster %s has these; add it first with "+
			"`etcdctl member add`", s.cfg.peerURLs(), hexID(resp.ClusterId))
	}
	if len(resp.Members) != len(s.cfg.InitialCluster) {
		return nil, fmt.Errorf("--initial-cluster names %d members, the cluster has %d: member count is unequal",
			len(s.cfg.InitialCluster), len(resp.Members))
	}
	s.logger.Info("joining a cluster", zap.String("cluster-id", hexID(s.clusterID)), s.logField())
	return s.createLog(nil, contacts)
}
