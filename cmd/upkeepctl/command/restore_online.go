package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/dustin/go-humanize"
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
	a.quiet = true
	client, _, err := a.connect(cmd)
	if err != nil {
		return err
	}
	defer closeClient(client)
	ctx, cancel := context.WithTimeout(cmd.Context(), o.timeout)
	defer cancel()
	r, err := sendRestore(ctx, upkeeppb.NewUpkeepClient(client.ActiveConnection()), first, file, (&phases{out: a.err}).show)
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

// sendRestore sends the options, then the file in pieces, and returns what was done.
func sendRestore(ctx context.Context, c upkeeppb.UpkeepClient, first *upkeeppb.RestoreRequest, file io.Reader,
	show func(phase string, done, total int64),
) (*upkeeppb.RestoreResponse, error) {
	stream, err := c.Restore(ctx)
	if err != nil {
		return nil, err
	}
	if err := stream.Send(first); err != nil && err != io.EOF { // io.EOF: the server has had enough, and says why
		return nil, err
	}
	sent := int64(0)
	for buffer := make([]byte, pieceBytes); file != nil; {
		n, err := file.Read(buffer)
		if n > 0 && stream.Send(&upkeeppb.RestoreRequest{Piece: buffer[:n]}) != nil || err == io.EOF {
			break
		}
		if err != nil {
			return nil, err
		}
		sent += int64(n)
		show("upload", sent, 0)
	}
	if err := stream.CloseSend(); err != nil {
		return nil, err
	}
	for {
		r, err := stream.Recv()
		if err != nil || r.Progress == nil {
			return r, err
		}
		show(r.Progress.Phase, r.Progress.Done, r.Progress.Total)
	}
}

// phases writes a line for each phase of a restore, with how long the one before took.
type phases struct {
	out  io.Writer
	last string
}

func (p *phases) show(phase string, _, total int64) {
	if phase == p.last {
		return
	}
	p.last = phase
	if total > 0 {
		phase = fmt.Sprintf("%s (%s)", phase, humanize.IBytes(uint64(total)))
	}
	fmt.Fprintf(p.out, "%s  %s\n", time.Now().UTC().Format("15:04:05"), phase)
}
