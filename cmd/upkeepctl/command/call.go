package command

import (
	"context"

	"github.com/spf13/cobra"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// request asks something of the cluster and returns what is to be printed, nil for nothing.
type request func(ctx context.Context, client *clientv3.Client) (any, error)

// call is what most commands do: connect, ask within the command timeout, print the answer.
func (a *app) call(cmd *cobra.Command, ask request) error {
	client, out, err := a.connect(cmd)
	if err != nil {
		return err
	}
	defer closeClient(client)
	ctx, cancel := a.timeout(cmd)
	defer cancel()
	resp, err := ask(ctx, client)
	if err != nil || resp == nil {
		return err
	}
	return out.Print(resp)
}
