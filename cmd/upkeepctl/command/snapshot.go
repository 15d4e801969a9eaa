package command

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"

	"github.com/spf13/cobra"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/upkeep-kv/upkeep/cmd/upkeepctl/printer"
	"github.com/upkeep-kv/upkeep/snapshot"
)

func newSnapshot(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "snapshot",
		Short: "Saves, examines and restores backups",
		Example: fmt.Sprintf(`  # Save the state of a member
  %[1]s --endpoints=127.0.0.1:2379 snapshot save /backup/monday.db

  # What is in it, and is it whole?
  %[1]s snapshot status /backup/monday.db -w table
  %[1]s snapshot verify /backup/monday.db

  # A new one-member cluster as it was at revision 1099
  %[1]s snapshot restore /backup/monday.db --data-dir m1.etcd --to-revision 1099`, programName),
	}
	cmd.AddCommand(newSnapshotSave(a), newSnapshotStatus(a), newSnapshotVerify(a), newSnapshotRestore(a))
	return cmd
}

func newSnapshotSave(a *app) *cobra.Command {
	var form snapshotForm
	cmd := &cobra.Command{
		Use:   "save <filename>",
		Short: "Saves the state of one member to a file",
		Long: `Saves the state of one member to a file. With --compress the file is a zstd stream,
which the other commands here read as it is; zstd -d makes it readable for etcdutl.`,
	}
	cmd.Flags().BoolVar(&form.compact, "compact", false,
		"leave out the free space in the member's file: smaller, but the member has to make a copy first")
	cmd.Flags().BoolVar(&form.compress, "compress", false, "compress the file (zstd)")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) != 1 {
			return badArgs("snapshot save expects one argument <filename>")
		}
		client, _, err := a.connect(cmd)
		if code, _ := statusOf(err); code == exitConnection {
			return fail(exitInterrupted, err)
		}
		if err != nil {
			return err
		}
		defer closeClient(client)
		if endpoints := client.Endpoints(); len(endpoints) != 1 {
			return fail(exitInterrupted, fmt.Errorf(
				"snapshot must be requested to one selected node, not multiple %v", endpoints))
		}
		ctx, cancel := a.givenTimeout(cmd)
		defer cancel()
		version, err := a.save(ctx, client, args[0], form)
		if err != nil {
			return fail(exitInterrupted, err)
		}
		fmt.Fprintf(a.out, "Snapshot saved at %s\n", args[0])
		if version != "" {
			fmt.Fprintf(a.out, "Server version %s\n", version)
		}
		return nil
	}
	return cmd
}

// snapshotForm is in which form a snapshot is saved.
type snapshotForm struct{ compact, compress bool }

// compactField is the number of the field `compact` of our SnapshotRequest, which etcd's does not have and servers of
// etcd ignore.
const compactField = 1000

func (f snapshotForm) request() *pb.SnapshotRequest {
	r := &pb.SnapshotRequest{}
	if f.compact {
		r.ProtoReflect().SetUnknown(protowire.AppendVarint(protowire.AppendTag(nil, compactField, protowire.VarintType), 1))
	}
	return r
}

// save receives a snapshot into a file and returns the storage version it has.
func (a *app) save(ctx context.Context, client *clientv3.Client, path string, form snapshotForm) (version string, err error) {
	var stream grpc.ServerStreamingClient[pb.SnapshotResponse]
	source := snapshot.SourceFunc(func() ([]byte, uint64, error) {
		if stream == nil { // only now, so that a file that cannot be written costs the server nothing
			stream, err = pb.NewMaintenanceClient(client.ActiveConnection()).Snapshot(ctx, form.request(),
				grpc.WaitForReady(true), grpc.MaxCallRecvMsgSize(math.MaxInt32))
			if err != nil {
				return nil, 0, clientv3.ContextError(ctx, err)
			}
		}
		piece, err := stream.Recv()
		if err != nil {
			return nil, 0, plainIfOver(ctx, err)
		}
		if piece.Version != "" {
			version = piece.Version
		}
		return piece.Blob, piece.RemainingBytes, nil
	})
	shown := a.startProgress("saving snapshot", true)
	defer shown.end()
	_, err = snapshot.Save(ctx, source, path, snapshot.SaveOptions{Progress: shown.set, Compress: form.compress})
	var pathErr *fs.PathError
	if errors.As(err, &pathErr) && pathErr.Op == "open" {
		err = fmt.Errorf("could not open %s (%w)", pathErr.Path, err)
	}
	return version, err
}

// plainIfOver turns the error of a stream into ctx's if that has ended. A server's refusal stays as gRPC tells it, and so
// does io.EOF, the stream's end.
func plainIfOver(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return clientv3.ContextError(ctx, err)
	}
	return err
}

// lockTimeout adds the flag that says how long to wait for a file that
// another process has open.
func lockTimeout(cmd *cobra.Command, options *snapshot.FileOptions) {
	cmd.Flags().DurationVar(&options.LockTimeout, "timeout", defaultLockTimeout,
		"time to wait for a lock on the file, 0 to wait as long as it takes")
}

func newSnapshotStatus(a *app) *cobra.Command {
	var options snapshot.FileOptions
	cmd := &cobra.Command{
		Use:   "status <filename>",
		Short: "Shows what is in a snapshot or database file",
		Long: `Checks the pages of a snapshot or database file and shows what is in it. In the
simple output format the items are hash, revision, total keys, total size, version.`,
	}
	lockTimeout(cmd, &options)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) != 1 {
			return badArgs("snapshot status requires exactly one argument")
		}
		out, err := a.settings(cmd)
		if err != nil {
			return err
		}
		if err := fileExists(args[0]); err != nil {
			return err
		}
		path, remove, err := snapshot.Unpack(cmd.Context(), args[0])
		if err != nil {
			return err
		}
		info, err := snapshot.Status(cmd.Context(), path, options)
		if err = plainJoin(err, remove()); err != nil {
			return err
		}
		return out.Print(printer.SnapshotStatus{
			Hash: info.Hash, Revision: info.Revision, TotalKey: int64(info.TotalKey),
			TotalSize: info.TotalSize, Version: info.Version,
		})
	}
	return cmd
}

func newSnapshotVerify(a *app) *cobra.Command {
	var options snapshot.FileOptions
	cmd := &cobra.Command{
		Use:   "verify <filename>",
		Short: "Checks a snapshot file from the first byte to the last",
		Long: `Compares a snapshot file with the SHA-256 at its end, and checks that the pages
of the database in it fit together.`,
	}
	lockTimeout(cmd, &options)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) != 1 {
			return badArgs("snapshot verify requires exactly one argument")
		}
		path, remove, err := snapshot.Unpack(cmd.Context(), args[0])
		if err != nil {
			return err
		}
		info := snapshot.Info{}
		if err = snapshot.Verify(cmd.Context(), path); err == nil {
			info, err = snapshot.Status(cmd.Context(), path, options)
		}
		if err = plainJoin(err, remove()); err != nil {
			return err
		}
		fmt.Fprintf(a.out, "%s is a complete snapshot of revision %d\n", args[0], info.Revision)
		return nil
	}
	return cmd
}

// plainJoin is errors.Join that leaves a single error as it is.
func plainJoin(err, other error) error {
	if other == nil {
		return err
	}
	return errors.Join(err, other)
}
