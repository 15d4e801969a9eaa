package rpc

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"math/big"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/emptypb"

	pb "github.com/upkeep-kv/upkeep/proto/etcdserverpb"
	"github.com/upkeep-kv/upkeep/server/apply"
	"github.com/upkeep-kv/upkeep/server/auth"
)

// fakeAuth: everybody's token is its name, and everybody may use the key of its name; root may do everything.
type fakeAuth struct {
	afterCheck func() // set while no call is under way; nil for nothing
	mu         struct {
		sync.Mutex
		revision uint64
		hashed   int
	}
}

func newFakeAuth() *fakeAuth {
	a := &fakeAuth{}
	a.mu.revision = 5
	return a
}

func (a *fakeAuth) bump() uint64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.mu.revision++
	return a.mu.revision
}

func (a *fakeAuth) revision() uint64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.mu.revision
}

func (a *fakeAuth) Enabled() bool { return true }

func (a *fakeAuth) Identify(_ context.Context, token string) (auth.Identity, error) {
	if token == "garbage" {
		return auth.Identity{}, auth.ErrInvalidToken
	}
	return a.Named(token), nil
}

func (a *fakeAuth) Named(username string) auth.Identity {
	return auth.Identity{Username: username, Revision: a.revision()}
}

func (a *fakeAuth) CheckRead(id auth.Identity, key, end []byte) error {
	switch {
	case id.Username == "":
		return auth.ErrUserEmpty
	case id.Username != "root" && (string(key) != id.Username || len(end) != 0):
		return auth.ErrPermissionDenied
	}
	if a.afterCheck != nil {
		a.afterCheck()
	}
	return nil
}

func (a *fakeAuth) CheckWrite(id auth.Identity, key, end []byte) error {
	return a.CheckRead(id, key, end)
}

func (a *fakeAuth) CheckRoot(id auth.Identity) error { return a.CheckRead(id, []byte("root"), nil) }

func (a *fakeAuth) CheckUser(id auth.Identity) error {
	if id.Username == "" {
		return auth.ErrUserEmpty
	}
	return nil
}

func (a *fakeAuth) CheckFresh(id auth.Identity) error {
	if id.Revision != a.revision() {
		return auth.ErrOldRevision
	}
	return nil
}

func (a *fakeAuth) CheckPassword(_ context.Context, _, password string) (uint64, error) {
	if password != "right" {
		return 0, auth.ErrAuthFailed
	}
	return a.revision(), nil
}

func (a *fakeAuth) Hash(_ context.Context, password string) (string, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.mu.hashed++
	return "hash of " + password, nil
}

func (a *fakeAuth) TokenPart() string { return "part" }

func (a *fakeAuth) Sign(token string, _ auth.Identity) (string, error) { return token, nil }

// proposals answers commands and remembers them.
type proposals struct {
	mu     sync.Mutex
	seen   []*pb.InternalRaftRequest
	answer func(r *pb.InternalRaftRequest) (any, error)
}

func (p *proposals) Propose(_ context.Context, r *pb.InternalRaftRequest) (any, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.seen = append(p.seen, r)
	if p.answer == nil {
		return nil, errors.New("proposed")
	}
	return p.answer(r)
}

func (p *proposals) last() *pb.InternalRaftRequest {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.seen) == 0 {
		return nil
	}
	return p.seen[len(p.seen)-1]
}

func startGuarded(t *testing.T, opts Options) (*harness, *fakeAuth, *proposals) {
	t.Helper()
	f, users, p := newFake(), newFakeAuth(), &proposals{}
	deps := f.deps()
	deps.Auth, deps.Proposer = users, p
	return startWith(t, f, deps, opts), users, p
}

func (h *harness) as(user string) context.Context {
	if user == "" {
		return h.ctx
	}
	return metadata.AppendToOutgoingContext(h.ctx, "token", user)
}

// Whatever is served refuses callers who present nothing, or gives the command that they send to apply, which looks at
// its header. A service that is added and does not ask fails here.
func TestNothingIsForNobody(t *testing.T) {
	h, _, p := startGuarded(t, Options{})
	free := map[string]bool{"AuthStatus": true, "Authenticate": true, "LeaseKeepAlive": true, "Watch": true} // the streams: below
	services := 0
	server, err := NewServer(h.fake.deps(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	for service, info := range server.GetServiceInfo() {
		if strings.HasPrefix(service, "grpc.") {
			continue // health and reflection tell nothing of keys
		}
		services++
		for _, method := range info.Methods {
			if free[method.Name] {
				continue
			}
			before := len(p.seen)
			err := sendEmpty(h, "/"+service+"/"+method.Name, method.IsServerStream)
			if err == nil {
				t.Errorf("%s/%s served nobody", service, method.Name)
			}
			if len(p.seen) > before && p.last().Header.GetUsername() != "" {
				t.Errorf("%s/%s proposed as %q", service, method.Name, p.last().Header.Username)
			}
			// Whoever has a bad token is refused before anything is proposed.
			before = len(p.seen)
			h := *h
			h.ctx = h.as("garbage")
			if err := sendEmpty(&h, "/"+service+"/"+method.Name, method.IsServerStream); err == nil || len(p.seen) > before {
				t.Errorf("%s/%s served a bad token", service, method.Name)
			}
		}
	}
	if services < 10 {
		t.Fatalf("only %d services", services)
	}
}

// sendEmpty sends an empty message.
func sendEmpty(h *harness, method string, stream bool) error {
	if !stream {
		return h.conn.Invoke(h.ctx, method, &emptypb.Empty{}, &emptypb.Empty{})
	}
	s, err := h.conn.NewStream(h.ctx, &grpc.StreamDesc{ServerStreams: true}, method)
	if err != nil {
		return err
	}
	if err := errors.Join(s.SendMsg(&emptypb.Empty{}), s.CloseSend()); err != nil {
		return err
	}
	return s.RecvMsg(&emptypb.Empty{})
}

func TestReadsAreChecked(t *testing.T) {
	h, users, _ := startGuarded(t, Options{})
	kv := pb.NewKVClient(h.conn)
	get := func(user, key string) error {
		_, err := kv.Range(h.as(user), &pb.RangeRequest{Key: []byte(key), Serializable: true})
		return err
	}
	readTxn := func(user string, r *pb.TxnRequest) error {
		_, err := kv.Txn(h.as(user), r)
		return err
	}
	ranged := func(key string) []*pb.RequestOp {
		return []*pb.RequestOp{{Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{Key: []byte(key)}}}}
	}
	stream := func(user, key string) error {
		s, err := kv.RangeStream(h.as(user), &pb.RangeRequest{Key: []byte(key), Serializable: true})
		if err == nil {
			_, err = s.Recv()
		}
		return err
	}
	for _, test := range []struct {
		name string
		err  error
		want string
	}{
		{"stream of own key", stream("ann", "ann"), ""},
		{"stream of another's key", stream("ann", "bob"), "etcdserver: permission denied"},
		{"own key", get("ann", "ann"), ""},
		{"another's key", get("ann", "bob"), "etcdserver: permission denied"},
		{"bad token", get("garbage", "bob"), "etcdserver: invalid auth token"},
		{"root", get("root", "bob"), ""},
		{"transaction", readTxn("ann", &pb.TxnRequest{Success: ranged("ann")}), ""},
		{"transaction, other path", readTxn("ann", &pb.TxnRequest{Failure: ranged("bob")}), "etcdserver: permission denied"},
		{"transaction, comparison", readTxn("ann", &pb.TxnRequest{Compare: []*pb.Compare{{Key: []byte("bob")}}}), "etcdserver: permission denied"},
	} {
		if got := message(test.err); got != test.want {
			t.Errorf("%s: %q, want %q", test.name, got, test.want)
		}
	}
	// What changes while the answer is made may have made it one that must not be given.
	users.afterCheck = func() { users.bump() }
	for what, err := range map[string]error{
		"range": get("ann", "ann"), "transaction": readTxn("ann", &pb.TxnRequest{Success: ranged("ann")}), "stream": stream("ann", "ann"),
	} {
		if got := message(err); got != "etcdserver: revision of auth store is old" {
			t.Errorf("%s, with a change in between: %q", what, got)
		}
	}
}

func TestProposalsAreSigned(t *testing.T) {
	h, users, p := startGuarded(t, Options{})
	kv := pb.NewKVClient(h.conn)
	for header, token := range map[string]string{"token": "ann", "authorization": "bob"} {
		_, _ = kv.Put(metadata.AppendToOutgoingContext(h.ctx, header, token), &pb.PutRequest{Key: []byte("k")})
		if got := p.last().Header; got.GetUsername() != token || got.GetAuthRevision() != users.revision() {
			t.Errorf("%s: proposed with header %v", header, got)
		}
	}
	_, _ = kv.Put(metadata.AppendToOutgoingContext(h.ctx, "token", "ann", "authorization", "bob"), &pb.PutRequest{Key: []byte("k")})
	if got := p.last().Header.GetUsername(); got != "ann" {
		t.Errorf("with both: proposed as %q", got)
	}
}

// Passwords stay here, and are hashed only for root.
func TestPasswordsStayOutOfTheLog(t *testing.T) {
	h, users, p := startGuarded(t, Options{})
	c := pb.NewAuthClient(h.conn)
	_, err := c.UserAdd(h.as("ann"), &pb.AuthUserAddRequest{Name: "x", Password: "secret"})
	if message(err) != "etcdserver: permission denied" || users.mu.hashed != 0 || p.last() != nil {
		t.Fatalf("%v, %d hashed, %v proposed", err, users.mu.hashed, p.last())
	}
	_, _ = c.UserAdd(h.as("root"), &pb.AuthUserAddRequest{Name: "x", Password: "secret", HashedPassword: "theirs"})
	if got := p.last().AuthUserAdd; got.Password != "" || got.HashedPassword != "hash of secret" {
		t.Errorf("proposed %v", got)
	}
	_, _ = c.UserChangePassword(h.as("root"), &pb.AuthUserChangePasswordRequest{Name: "x", Password: "secret"})
	if got := p.last().AuthUserChangePassword; got.Password != "" || got.HashedPassword != "hash of secret" {
		t.Errorf("proposed %v", got)
	}
	_, _ = c.Authenticate(h.ctx, &pb.AuthenticateRequest{Name: "x", Password: "right"})
	if got := p.last().Authenticate; got.Password != "" || got.SimpleToken != "part" || p.last().Header != nil {
		t.Errorf("proposed %v", p.last())
	}
}

// A password that was right before users changed is looked at again.
func TestAuthenticateAgain(t *testing.T) {
	h, users, p := startGuarded(t, Options{})
	p.answer = func(r *pb.InternalRaftRequest) (any, error) {
		revision := users.revision()
		if len(p.seen) < 3 {
			revision = users.bump()
		}
		return apply.Authenticated{Token: "part.7", Identity: auth.Identity{Username: r.Authenticate.Name, Revision: revision}}, nil
	}
	resp, err := pb.NewAuthClient(h.conn).Authenticate(h.ctx, &pb.AuthenticateRequest{Name: "ann", Password: "right"})
	if err != nil || resp.Token != "part.7" || resp.Header.GetMemberId() != 2 || len(p.seen) != 3 {
		t.Fatalf("%v, %v, after %d proposals", resp, err, len(p.seen))
	}
	_, err = pb.NewAuthClient(h.conn).Authenticate(h.ctx, &pb.AuthenticateRequest{Name: "ann", Password: "wrong"})
	if message(err) != "etcdserver: authentication failed, invalid user ID or password" {
		t.Fatal(err)
	}
}

// Without Auth everybody may do everything, and a token is nothing.
func TestWithoutAuth(t *testing.T) {
	h := start(t, newFake(), Options{})
	h.ctx = h.as("garbage")
	if _, err := pb.NewMaintenanceClient(h.conn).Hash(h.ctx, &pb.HashRequest{}); err != nil {
		t.Error(err)
	}
	if _, err := pb.NewKVClient(h.conn).Put(h.ctx, &pb.PutRequest{Key: []byte("k")}); err != nil {
		t.Error(err)
	}
	if h.fake.proposed[0].Header != nil {
		t.Errorf("proposed with header %v", h.fake.proposed[0].Header)
	}
}

// The name in a client's certificate is a user, if that is asked for and nothing else says who calls.
func TestCertificateUsers(t *testing.T) {
	authority := newAuthority(t)
	for _, test := range []struct {
		name         string
		certificates bool
		subject      string
		metadata     []string
		want         string
		nobody       bool
	}{
		{"certificate", true, "ann", nil, "ann", false},
		{"token first", true, "ann", []string{"token", "bob"}, "bob", false},
		{"without a name", true, "", nil, "", false},
		{"through the gateway", true, "ann", []string{"grpcgateway-accept", "*/*"}, "", true},
		{"not asked for", false, "ann", nil, "", true},
	} {
		t.Run(test.name, func(t *testing.T) {
			h, _, p := startGuarded(t, Options{CertificateUsers: test.certificates,
				ServerOptions: []grpc.ServerOption{grpc.Creds(credentials.NewTLS(&tls.Config{
					Certificates: []tls.Certificate{authority.issue(t, "member")}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: authority.pool,
				}))}})
			conn, err := grpc.NewClient("passthrough:///member", append(h.dialOptions(),
				grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{
					Certificates: []tls.Certificate{authority.issue(t, test.subject)}, RootCAs: authority.pool, ServerName: "member",
				})))...)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			ctx := metadata.AppendToOutgoingContext(h.ctx, test.metadata...)
			_, err = pb.NewKVClient(conn).Put(ctx, &pb.PutRequest{Key: []byte("k")})
			if p.last() == nil {
				t.Fatal(err)
			}
			if got := p.last().Header.GetUsername(); got != test.want {
				t.Errorf("proposed as %q, want %q", got, test.want)
			}
			if nobody := p.last().Header.GetAuthRevision() == 0; nobody != test.nobody {
				t.Errorf("proposed by nobody: %v, want %v", nobody, test.nobody)
			}
			_, err = pb.NewKVClient(conn).Range(ctx, &pb.RangeRequest{Key: []byte(test.want + "k")})
			if err == nil {
				t.Error("read another's key")
			}
		})
	}
}

// authority issues certificates.
type authority struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
	pool *x509.CertPool
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	a := &authority{key: key, cert: cert, pool: x509.NewCertPool()}
	a.pool.AddCert(cert)
	return a
}

func (a *authority) issue(t *testing.T, name string) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}, a.cert, key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}
