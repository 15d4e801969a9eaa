package gateway

import (
	"encoding/json"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"google.golang.org/protobuf/reflect/protoreflect"
	"sigs.k8s.io/yaml"

	"github.com/upkeep-kv/upkeep/proto/etcdserverpb"
	description "github.com/upkeep-kv/upkeep/proto/gateway"
	"github.com/upkeep-kv/upkeep/proto/gatewaypb"
	"github.com/upkeep-kv/upkeep/proto/v3electionpb"
	"github.com/upkeep-kv/upkeep/proto/v3lockpb"
)

// binding is a path and a method of proto/gateway.yaml.
type binding struct {
	Selector   string    `json:"selector"`
	Get        string    `json:"get"`
	Post       string    `json:"post"`
	Body       string    `json:"body"`
	Additional []binding `json:"additional_bindings"`
}

func (b binding) route() string {
	if b.Get != "" {
		return "GET " + b.Get
	}
	return "POST " + b.Post
}

// bindings is what the handlers are generated from.
func bindings(t *testing.T) []binding {
	t.Helper()
	text, err := os.ReadFile("../../proto/gateway.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		HTTP struct {
			Rules []binding `json:"rules"`
		} `json:"http"`
	}
	if err := yaml.Unmarshal(text, &file); err != nil {
		t.Fatal(err)
	}
	return file.HTTP.Rules
}

// The description is JSON, names each path that is bound and no other, and the gateway knows each.
func TestOpenAPI(t *testing.T) {
	var described struct {
		Swagger     string                                `json:"swagger"`
		Info        map[string]any                        `json:"info"`
		Paths       map[string]map[string]json.RawMessage `json:"paths"`
		Definitions map[string]json.RawMessage            `json:"definitions"`
	}
	if err := json.Unmarshal([]byte(description.OpenAPI()), &described); err != nil {
		t.Fatal(err)
	}
	if described.Swagger != "2.0" || described.Info["title"] != "Upkeep over HTTP" {
		t.Errorf("version %q, info %v", described.Swagger, described.Info)
	}
	var got, want []string
	for path, methods := range described.Paths {
		for method, operation := range methods {
			got = append(got, strings.ToUpper(method)+" "+path)
			for _, reference := range strings.Split(string(operation), `"#/definitions/`)[1:] {
				if name, _, _ := strings.Cut(reference, `"`); described.Definitions[name] == nil {
					t.Errorf("%s refers to %s, which is not defined", path, name)
				}
			}
		}
	}
	for _, rule := range bindings(t) {
		for _, b := range append([]binding{rule}, rule.Additional...) {
			want = append(want, b.route())
			if strings.HasPrefix(b.route(), "POST") && b.Body != "*" && b.Post != restorePath { // whose body is a file
				t.Errorf("%s does not take the request from its body", b.route())
			}
		}
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("described\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Config{})
		for _, route := range append(got, "GET "+OpenAPIPath, "HEAD "+OpenAPIPath) {
			method, path, _ := strings.Cut(route, " ")
			recorder := httptest.NewRecorder()
			// A body that no call accepts, so that none waits for more.
			w.gateway.ServeHTTP(recorder, httptest.NewRequest(method, path, strings.NewReader("?")))
			if text := recorder.Body.String(); recorder.Code == 404 || strings.Contains(text, "Method Not Allowed") {
				t.Errorf("%s is not served: %d %s", route, recorder.Code, text)
			}
		}
	})
}

// Every call has a path, but for the one that etcd does not give one.
func TestEveryCallHasAPath(t *testing.T) {
	bound := map[string]bool{"upkeep.etcdserverpb.KV.RangeStream": true}
	for _, rule := range bindings(t) {
		bound[rule.Selector] = true
	}
	for _, file := range []protoreflect.FileDescriptor{
		etcdserverpb.File_proto_etcdserverpb_rpc_proto, v3lockpb.File_proto_v3lockpb_v3lock_proto,
		v3electionpb.File_proto_v3electionpb_v3election_proto, gatewaypb.File_proto_gatewaypb_gateway_proto,
	} {
		for i := range file.Services().Len() {
			methods := file.Services().Get(i).Methods()
			for j := range methods.Len() {
				if name := string(methods.Get(j).FullName()); !bound[name] {
					t.Errorf("%s has no path in proto/gateway.yaml", name)
				}
			}
		}
	}
}

// FuzzRequest: whatever the bytes are, the answer is JSON and says what is wrong.
func FuzzRequest(f *testing.F) {
	for _, body := range []string{
		`{"key":"Zm9v"}`, `{"key":"Zm9v","limit":"9223372036854775807"}`, `{"sort_order":"ASCEND","sortTarget":3}`, `{`, `[]`, `"`,
		`{"key":"Zm9v","bogus":{"a":[1,2.5e3,null,true]}}`, `{"limit":1e300}`, "\xff\xfe", `{"key":null}`, `{"key":"_-8="}`,
	} {
		f.Add([]byte(body))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, Config{MaxMessageBytes: 1000})
			recorder := httptest.NewRecorder()
			w.gateway.ServeHTTP(recorder, httptest.NewRequest("POST", "/v3/kv/range", strings.NewReader(string(data))))
			if !json.Valid(recorder.Body.Bytes()) || recorder.Code != 200 && recorder.Code != 400 && recorder.Code != 429 {
				t.Errorf("%q: %d %s", data, recorder.Code, recorder.Body)
			}
		})
	})
}
