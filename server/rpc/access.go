package rpc

import (
	"context"
	"strings"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"

	pb "github.com/upkeep-kv/upkeep/proto/etcdserverpb"
	"github.com/upkeep-kv/upkeep/server/auth"
)

// Metadata in which clients present a token; the first that is there counts.
const (
	metaToken         = "token"
	metaAuthorization = "authorization"
)

// gatewayPrefix begins the metadata that the JSON gateway adds to the calls it makes.
const gatewayPrefix = "grpcgateway-"

// callers finds out who calls.
type callers struct {
	auth Auth
	// certificates: the common name of a verified client certificate is a user, where no token is presented.
	certificates bool
}

// access is what one call may do. With authentication off it allows everything, and cost one atomic load.
type access struct {
	auth Auth // nil: everything is allowed
	id   auth.Identity
}

// access returns what the caller may do. auth.ErrInvalidToken; nobody is no error, but may do next to nothing.
func (c callers) access(ctx context.Context) (access, error) {
	if !c.auth.Enabled() {
		return access{}, nil
	}
	id, err := c.identity(ctx)
	return access{auth: c.auth, id: id}, err
}

func (c callers) identity(ctx context.Context) (auth.Identity, error) {
	for _, key := range [...]string{metaToken, metaAuthorization} {
		if values := metadata.ValueFromIncomingContext(ctx, key); len(values) > 0 {
			return c.auth.Identify(ctx, values[0])
		}
	}
	if c.certificates && !throughGateway(ctx) {
		if name, shown := commonName(ctx); shown {
			return c.auth.Named(name), nil
		}
	}
	return auth.Identity{}, nil
}

// commonName is that of the caller's certificate, if one was shown and verified. It may be empty: such a caller is somebody
// whom nothing is permitted to, and not nobody.
func commonName(ctx context.Context) (name string, shown bool) {
	caller, ok := peer.FromContext(ctx)
	if !ok {
		return "", false
	}
	tls, ok := caller.AuthInfo.(credentials.TLSInfo)
	if !ok {
		return "", false
	}
	for _, chain := range tls.State.VerifiedChains {
		if len(chain) > 0 {
			return chain[0].Subject.CommonName, true
		}
	}
	return "", false
}

// throughGateway: then the certificate is the gateway's, which is this server's own.
func throughGateway(ctx context.Context) bool {
	md, _ := metadata.FromIncomingContext(ctx)
	for key := range md {
		if strings.HasPrefix(key, gatewayPrefix) {
			return true
		}
	}
	return false
}

// requireRoot refuses callers who do not hold the role root.
func (c callers) requireRoot(ctx context.Context) error {
	a, err := c.access(ctx)
	if err != nil || a.auth == nil {
		return err
	}
	return a.auth.CheckRoot(a.id)
}

// requireUser refuses callers who present nothing.
func (c callers) requireUser(ctx context.Context) error {
	a, err := c.access(ctx)
	if err != nil || a.auth == nil {
		return err
	}
	return a.auth.CheckUser(a.id)
}

// read refuses the keys [key, end) to a caller who may not read them, write to one who may not write them.
func (a access) read(key, end []byte) error {
	if a.auth == nil {
		return nil
	}
	return a.auth.CheckRead(a.id, key, end)
}

func (a access) write(key, end []byte) error {
	if a.auth == nil {
		return nil
	}
	return a.auth.CheckWrite(a.id, key, end)
}

// fresh refuses to give out an answer that may not be allowed any more.
func (a access) fresh() error {
	if a.auth == nil {
		return nil
	}
	return a.auth.CheckFresh(a.id)
}

// signing puts into each proposal who proposes it, for apply to check.
type signing struct {
	Proposer
	callers callers
}

func (p signing) Propose(ctx context.Context, req *pb.InternalRaftRequest) (any, error) {
	if p.callers.auth.Enabled() && req.Authenticate == nil {
		id, err := p.callers.identity(ctx)
		if err != nil {
			return nil, err
		}
		req.Header = &pb.RequestHeader{Username: id.Username, AuthRevision: id.Revision}
	}
	return p.Proposer.Propose(ctx, req)
}

// openToAll is an Auth without users, in which authentication cannot be enabled.
type openToAll struct{ Auth }

func (openToAll) Enabled() bool { return false }
