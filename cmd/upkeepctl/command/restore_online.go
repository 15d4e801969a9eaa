package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/status"

	"github.com/upkeep-kv/upkeep/proto/upkeeppb"
	"github.com/upkeep-kv/upkeep/snapshot"
)

// pieceBytes of a snapshot travel in one message.
const pieceBytes = 256 << 10

// onlineRestore is `restore --online`.
type onlineRestore struct {
	confirm string
	timeout time.Duration
}

// register adds the flags, and returns whether --online was given.
func (o *onlineRestore) register(cmd *cobra.Command) *bool {
	online := cmd.Flags().Bool("online", false, "take the running cluster back, to the snapshot file given or to --to-revision of its own history")
	cmd.Flags().StringVar(&o.confirm, "confirm", "", "with --online: the hash that `snapshot status` shows for the file")
	cmd.Flags().DurationVar(&o.timeout, "timeout", time.Hour, "with --online: how long it may take")
	return online
}

// run takes the cluster that the endpoints are of back.
func (o *onlineRestore) run(a *app, cmd *cobra.Command, args []string, revision int64) error {
	first := &upkeeppb.RestoreRequest{Confirm: o.confirm, ToRevision: revision, Live: len(args) == 0}
	switch {
	case first.Live && revision <= 0:
		return badArgs("restore --online needs a snapshot file, or --to-revision for one that the cluster still holds")
	case !first.Live && o.confirm == "":
		return badArgs("restore --online %s: give its hash with --confirm; `%s snapshot status %s` shows it", args[0], programName, args[0])
	}
	var file io.Reader
	if !first.Live {
		path, remove, err := snapshot.Unpack(cmd.Context(), args[0])
		if err != nil {
			return err
		}
		defer remove()
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		file = f
	}
	client, _, err := a.connect(cmd)
	if err != nil {
		return err
	}
	defer closeClient(client)
	ctx, cancel := context.WithTimeout(cmd.Context(), o.timeout)
	defer cancel()
	r, err := sendRestore(ctx, upkeeppb.NewUpkeepClient(client.ActiveConnection()), first, file)
	if s, ok := status.FromError(err); ok && err != nil {
		return errors.New(s.Message())
	}
	if err != nil {
		return err
	}
	fmt.Fprintf(a.out, "All %d members are back at revision %d, and go on from revision %d. Their hash there is %08x.\n",
		r.Members, r.RestoredRevision, r.Revision, r.Hash)
	fmt.Fprintf(a.out, "Requests waited for %s. The state from before is on member %x, in %s\n",
		time.Duration(r.PauseNanos).Round(time.Millisecond), r.MemberId, r.SafetySnapshot)
	if r.LostLeases > 0 {
		fmt.Fprintf(a.out, "%d keys were attached to leases that the snapshot does not hold: they will not expire.\n", r.LostLeases)
	}
	return nil
}

// sendRestore sends the options, then the file in pieces, and returns the answer.
func sendRestore(ctx context.Context, c upkeeppb.UpkeepClient, first *upkeeppb.RestoreRequest, file io.Reader) (*upkeeppb.RestoreResponse, error) {
	stream, err := c.Restore(ctx)
	if err != nil {
		return nil, err
	}
	if err := stream.Send(first); err != nil || file == nil {
		return closeAndReceive(stream.CloseAndRecv, err)
	}
	for buffer := make([]byte, pieceBytes); ; {
		n, err := file.Read(buffer)
		if n > 0 {
			if err := stream.Send(&upkeeppb.RestoreRequest{Piece: buffer[:n]}); err != nil {
				return closeAndReceive(stream.CloseAndRecv, err)
			}
		}
		if err == io.EOF {
			return stream.CloseAndRecv()
		} else if err != nil {
			return nil, err
		}
	}
}

// closeAndReceive prefers the server's reason to the io.EOF with which sending ends when the server has had enough.
func closeAndReceive(receive func() (*upkeeppb.RestoreResponse, error), sent error) (*upkeeppb.RestoreResponse, error) {
	if sent != nil && sent != io.EOF {
		return nil, sent
	}
	return receive()
}
