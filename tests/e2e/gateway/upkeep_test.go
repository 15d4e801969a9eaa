package gateway

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/upkeep-kv/upkeep/proto/upkeeppb"
	"github.com/upkeep-kv/upkeep/tests/certs"
	"github.com/upkeep-kv/upkeep/tests/ports"
	"github.com/upkeep-kv/upkeep/tests/proc"
)

// TestUpkeepNeedsRoot: over TLS with authentication on, each call of our own service and each of its paths is refused to who
// has no token, and to who is not root.
func TestUpkeepNeedsRoot(t *testing.T) {
	t.Parallel()
	ca := certs.NewAuthority(t, "ca")
	cert := ca.Issue(t, certs.Spec{CommonName: "server", IPs: []string{"127.0.0.1"}})
	free := ports.Free(t, 2)
	target := fmt.Sprintf("127.0.0.1:%d", free[0])
	url, secure := "https://"+target, ca.Client(t)
	m := proc.Prepare(t, proc.Build(t, "upkeep"), "m0", t.TempDir(), fmt.Sprintf("http://127.0.0.1:%d", free[1]),
		"--initial-cluster", fmt.Sprintf("m0=http://127.0.0.1:%d", free[1]), "--listen-client-urls", url, "--advertise-client-urls", url,
		"--cert-file", cert.CertFile, "--key-file", cert.KeyFile, "--bcrypt-cost", "4", "--log-level", "error")
	m.Launch()
	ask := func(path, body, token string) string {
		t.Helper()
		r := post(path, body)
		if token != "" {
			r.headers = []string{"Authorization: " + token}
		}
		return sendTo(t, url, secure, r)
	}
	conn, err := grpc.NewClient(target, grpc.WithTransportCredentials(credentials.NewTLS(secure)))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ready, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if _, err := upkeeppb.NewUpkeepClient(conn).Status(ready, &upkeeppb.StatusRequest{}, grpc.WaitForReady(true)); err != nil {
		t.Fatal(err)
	}
	for _, step := range [][2]string{
		{"user/add", `{"name":"root","password":"pw"}`}, {"role/add", `{"name":"root"}`}, {"user/grant", `{"user":"root","role":"root"}`},
		{"user/add", `{"name":"bob","password":"pw"}`}, {"enable", `{}`},
	} {
		if got := ask("/v3/auth/"+step[0], step[1], ""); !strings.HasPrefix(got, "200") {
			t.Fatalf("%v: %s", step, got)
		}
	}
	root := tokenOf(t, ask("/v3/auth/authenticate", `{"name":"root","password":"pw"}`, ""))
	bob := tokenOf(t, ask("/v3/auth/authenticate", `{"name":"bob","password":"pw"}`, ""))

	paths := []string{"/v3/snapshot/restore?live=true&to_revision=1"}
	for _, name := range []string{"status", "plan", "run", "follow", "pause", "resume", "history", "policy/get", "policy/set", "progress"} {
		paths = append(paths, "/v3/upkeep/"+name)
	}
	for _, path := range paths {
		for who, token := range map[string]string{"nobody": "", "bob": bob, "a stranger": "nonsense"} {
			if got := ask(path, `{}`, token); !strings.HasPrefix(got, "40") {
				t.Errorf("%s by %s: %s", path, who, got)
			}
		}
	}
	for _, path := range []string{"/v3/upkeep/status", "/v3/upkeep/history", "/v3/upkeep/pause", "/v3/upkeep/resume"} {
		if got := ask(path, `{}`, root); !strings.HasPrefix(got, "200") {
			t.Errorf("%s by root: %s", path, got)
		}
	}

	call := func(method, token string) codes.Code {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if token != "" {
			ctx = metadata.AppendToOutgoingContext(ctx, "token", token)
		}
		stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, "/upkeep.v1.Upkeep/"+method)
		if err == nil {
			if err = stream.SendMsg(&emptypb.Empty{}); err == nil || errors.Is(err, io.EOF) {
				_ = stream.CloseSend() // the answer tells
				err = stream.RecvMsg(&emptypb.Empty{})
			}
		}
		return status.Code(err)
	}
	service := upkeeppb.Upkeep_ServiceDesc
	var methods []string
	for _, method := range service.Methods {
		methods = append(methods, method.MethodName)
	}
	for _, stream := range service.Streams {
		methods = append(methods, stream.StreamName)
	}
	for _, method := range methods {
		for who, want := range map[string][]codes.Code{
			"": {codes.InvalidArgument, codes.Unauthenticated}, bob: {codes.PermissionDenied}, "nonsense": {codes.Unauthenticated},
		} {
			if got := call(method, who); !slices.Contains(want, got) {
				t.Errorf("%s with token %q: %v, want %v", method, who, got, want)
			}
		}
	}
	if got := call("History", root); got != codes.OK {
		t.Errorf("History by root: %v", got)
	}
	// Last, since tokens do not outlive it.
	if got := ask(paths[0], ``, root); !strings.Contains(got, "restored_revision") && !strings.Contains(got, "nothing was restored") {
		t.Errorf("a restore by root: %s", got)
	}
}
