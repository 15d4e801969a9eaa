package gateway

import (
	"context"
	"errors"
	"strings"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/grpc"

	pb "github.com/upkeep-kv/upkeep/proto/etcdserverpb"
	kvgw "github.com/upkeep-kv/upkeep/proto/gateway/etcdserverpb"
	operationsgw "github.com/upkeep-kv/upkeep/proto/gateway/gatewaypb"
	upkeepgw "github.com/upkeep-kv/upkeep/proto/gateway/upkeeppb"
	electiongw "github.com/upkeep-kv/upkeep/proto/gateway/v3electionpb"
	lockgw "github.com/upkeep-kv/upkeep/proto/gateway/v3lockpb"
	"github.com/upkeep-kv/upkeep/proto/upkeeppb"
	"github.com/upkeep-kv/upkeep/proto/v3electionpb"
	"github.com/upkeep-kv/upkeep/proto/v3lockpb"
)

// register adds the handlers of every service. A call to a service that the gRPC server does not have is answered as
// that server answers it: 501, code 12.
func register(mux *runtime.ServeMux, conn grpc.ClientConnInterface) error {
	ctx, ops := context.Background(), operations{mux: mux, maintenance: pb.NewMaintenanceClient(conn)}
	return errors.Join(
		kvgw.RegisterKVHandlerClient(ctx, mux, pb.NewKVClient(conn)),
		kvgw.RegisterWatchHandlerClient(ctx, mux, pb.NewWatchClient(conn)),
		kvgw.RegisterLeaseHandlerClient(ctx, mux, pb.NewLeaseClient(conn)),
		kvgw.RegisterClusterHandlerClient(ctx, mux, pb.NewClusterClient(conn)),
		kvgw.RegisterMaintenanceHandlerClient(ctx, mux, pb.NewMaintenanceClient(conn)),
		kvgw.RegisterAuthHandlerClient(ctx, mux, pb.NewAuthClient(conn)),
		lockgw.RegisterLockHandlerClient(ctx, mux, v3lockpb.NewLockClient(conn)),
		electiongw.RegisterElectionHandlerClient(ctx, mux, v3electionpb.NewElectionClient(conn)),
		upkeepgw.RegisterUpkeepHandlerClient(ctx, mux, upkeeppb.NewUpkeepClient(conn)),
		operationsgw.RegisterOperationsHandlerClient(ctx, mux, ops),
		mux.HandlePath("POST", savePath, ops.save), // in place of the generated handler, which would wrap it in JSON
	)
}

// etcdNames calls etcd's services by etcd's names, so that metrics and logs show one name for a call, whatever way it
// came.
type etcdNames struct{ grpc.ClientConnInterface }

func (c etcdNames) Invoke(ctx context.Context, method string, args, reply any, opts ...grpc.CallOption) error {
	return c.ClientConnInterface.Invoke(ctx, etcdName(method), args, reply, opts...)
}

func (c etcdNames) NewStream(
	ctx context.Context, desc *grpc.StreamDesc, method string, opts ...grpc.CallOption,
) (grpc.ClientStream, error) {
	return c.ClientConnInterface.NewStream(ctx, desc, etcdName(method), opts...)
}

func etcdName(method string) string {
	for _, name := range []string{"etcdserverpb.", "v3lockpb.", "v3electionpb."} {
		if rest, ok := strings.CutPrefix(method, "/upkeep."); ok && strings.HasPrefix(rest, name) {
			return "/" + rest
		}
	}
	return method
}
