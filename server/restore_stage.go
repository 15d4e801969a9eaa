package server

import (
	"cmp"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/upkeep-kv/upkeep/proto/peerpb"
	"github.com/upkeep-kv/upkeep/raftnode"
	"github.com/upkeep-kv/upkeep/snapshot"
)

const (
	// stagedPrefix names an image that is staged for an online restore; the SHA-256 of the file follows.
	stagedPrefix = "restore-"
	stagedSuffix = ".restore.db"
	// stagedFor is how long a staged file is kept that no command has taken, since whoever was about to restore has failed.
	stagedFor = time.Hour
	// stagedPiece of a staged file is sent at a time.
	stagedPiece = 256 << 10
)

// staged is where the file of an online restore waits for its command. It survives a start: the command may be in the log.
func (d dataDir) staged(sum string) string { return filepath.Join(d.snap, sum+stagedSuffix) }

// stagedSum is the checksum in the name of a staged image.
func stagedSum(image string) (sum string, ok bool) {
	sum, ok = strings.CutPrefix(image, stagedPrefix)
	return sum, ok && len(sum) == 64 && strings.Trim(sum, "0123456789abcdef") == ""
}

// stage keeps a received file for the command that is about to come.
func (s *Server) stage(file, sum string) error {
	s.dropStaged(sum, stagedFor)
	return errors.Join(os.Rename(file, s.dir.staged(sum)), s.disk.fs().SyncDir(s.dir.snap))
}

// dropStaged removes staged files that are older than age, but for one.
func (s *Server) dropStaged(but string, age time.Duration) {
	files, _ := filepath.Glob(filepath.Join(s.dir.snap, "*"+stagedSuffix)) // the pattern is well-formed
	for _, file := range files {
		info, err := os.Stat(file)
		if err != nil || file == s.dir.staged(but) || time.Since(info.ModTime()) < age {
			continue
		}
		if err := os.Remove(file); err != nil {
			s.logger.Warn("cannot remove the file of a restore that was given up", zap.String("file", file), zap.Error(err))
		}
	}
}

// DropImage removes a staged file whose restore was given up.
func (p peerService) DropImage(name string) error {
	sum, ok := stagedSum(name)
	if !ok {
		return errUnwantedImage
	}
	if err := os.Remove(p.dir.staged(sum)); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// giveUpStaged removes the file from all members at once. One that does not answer removes it when it is old.
func (s *Server) giveUpStaged(members []uint64, sum string) {
	image := stagedPrefix + sum
	if err := (peerService{s}).DropImage(image); err != nil {
		s.logger.Warn("cannot remove the file of a restore that was given up", zap.Error(err))
	}
	ctx, cancel := context.WithTimeout(context.Background(), s.cfg.requestTimeout())
	defer cancel()
	for _, id := range members {
		conn, err := s.transport.Conn(id)
		if id == s.id || err != nil {
			continue
		}
		if _, err := peerpb.NewPeerClient(conn).DropImage(ctx, &peerpb.ImageRequest{Hello: s.transport.Hello(id), Image: image}); err != nil {
			s.logger.Warn("a member still holds the file of a restore that was given up", zap.String("remote-peer-id", hexID(id)), zap.Error(err))
		}
	}
}

// prepareRestore makes the file that all members are given, and stages it here.
func (s *Server) prepareRestore(ctx context.Context, source string, rev int64) (snapshot.Online, error) {
	work := filepath.Join(s.dir.snap, "tmp-restore.db")
	if err := os.Remove(work); err != nil && !errors.Is(err, os.ErrNotExist) {
		return snapshot.Online{}, err
	}
	prepared, err := snapshot.PrepareOnline(ctx, source, work, rev)
	if err != nil {
		return prepared, refuseRestore("%s", err)
	}
	return prepared, s.stage(work, prepared.SHA256)
}

// stagedFile is a staged database on its way to another member.
type stagedFile struct {
	*os.File
	ctx  context.Context
	sent func(bytes int64)
}

func (f stagedFile) WriteTo(w io.Writer) (int64, error) {
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return 0, err
	}
	sent := int64(0)
	return io.CopyBuffer(w, readerFunc(func(p []byte) (int, error) {
		if f.ctx.Err() != nil {
			return 0, context.Cause(f.ctx)
		}
		n, err := f.Read(p)
		sent += int64(n)
		f.sent(sent)
		return n, err
	}), make([]byte, stagedPiece))
}

type readerFunc func(p []byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// stageEverywhere gives the file to all other members, one after the other, and returns once it is on all their disks.
func (s *Server) stageEverywhere(ctx context.Context, members []uint64, prepared snapshot.Online, report reportFunc) error {
	for _, id := range members {
		if id == s.id {
			continue
		}
		m, _ := s.cluster.Member(id)
		phase := "stage on " + cmp.Or(m.Name, hexID(id))
		report(phase, 0, prepared.Size)
		file, err := os.Open(s.dir.staged(prepared.SHA256))
		if err != nil {
			return err
		}
		err = s.transport.SendImage(ctx, id, stagedPrefix+prepared.SHA256, raftnode.Snapshot{
			Index: s.node.AppliedIndex(), Term: s.node.Term(), ConfState: s.cluster.ConfState(), Size: prepared.Size,
			Image: stagedFile{file, ctx, func(sent int64) { report(phase, sent, prepared.Size) }},
		})
		if err != nil {
			return refuseRestore("member %s could not be given the snapshot: %s", cmp.Or(m.Name, hexID(id)), err)
		}
	}
	return nil
}
