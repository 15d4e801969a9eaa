package server

import (
	"context"
	"errors"
	"io"
	"math"
	"os"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/upkeep-kv/upkeep/proto/upkeeppb"
)

// uploadName is where a snapshot is received. Like all names that begin with "tmp" it does not survive a start.
const uploadName = "tmp-upload.db"

// restoreShows is how often a client is told how far a phase is.
const restoreShows = 250 * time.Millisecond

// Restore receives a snapshot and takes the cluster back to it.
func (o operations) Restore(ctx context.Context, first *upkeeppb.RestoreRequest, next func() (*upkeeppb.RestoreRequest, error),
	send func(*upkeeppb.RestoreResponse) error,
) error {
	options := RestoreOnlineOptions{Confirm: first.Confirm, ToRevision: first.ToRevision, Report: restoreProgress(send)}
	if !first.Live {
		file, err := os.CreateTemp(o.dir.snap, uploadName+"*")
		if err != nil {
			return err
		}
		options.Snapshot = file.Name()
		defer os.Remove(file.Name())
		// A third, since the safety snapshot and the staged file come beside it.
		room := int64(math.MaxInt64)
		if free, err := o.disk.freeBytes(o.dir.snap); err == nil && free >= 0 {
			room = free / 3
		}
		if err := errors.Join(receivePieces(file, room, first, next), file.Close()); err != nil {
			return err
		}
	}
	result, err := o.RestoreOnline(ctx, options)
	if err != nil {
		return err
	}
	return send(&upkeeppb.RestoreResponse{
		Revision: result.Revision, RestoredRevision: result.Restored, SafetySnapshot: result.SafetySnapshot, MemberId: o.id,
		PauseNanos: int64(result.Pause), Hash: result.Hash, Members: int64(result.Members), LostLeases: int64(result.LostLeases),
	})
}

// restoreProgress sends each phase, and now and then how far it is. A client that has gone is not the restore's concern:
// its context ends.
func restoreProgress(send func(*upkeeppb.RestoreResponse) error) reportFunc {
	var last string
	var sent time.Time
	return func(phase string, done, total int64) {
		if phase == last && time.Since(sent) < restoreShows && done < total {
			return
		}
		last, sent = phase, time.Now()
		_ = send(&upkeeppb.RestoreResponse{Progress: &upkeeppb.RestoreProgress{Phase: phase, Done: done, Total: total}})
	}
}

func receivePieces(to io.Writer, room int64, piece *upkeeppb.RestoreRequest, next func() (*upkeeppb.RestoreRequest, error)) error {
	for {
		if room -= int64(len(piece.Piece)); room < 0 {
			return status.Error(codes.ResourceExhausted, "nothing was restored: the member's disk has no room for three files of that size")
		}
		if _, err := to.Write(piece.Piece); err != nil {
			return err
		}
		var err error
		if piece, err = next(); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
	}
}
