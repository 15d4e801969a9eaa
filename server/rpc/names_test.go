package rpc

import (
	"testing"

	_ "go.etcd.io/etcd/client/v3" // registers etcd's own descriptors in this program
	reflectionv1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"
)

// TestReflection does what grpcurl does: asks what there is, fetches descriptors and calls with messages made of them.
func TestReflection(t *testing.T) {
	h := start(t, newFake(), Options{})
	stream := must(reflectionv1.NewServerReflectionClient(h.conn).ServerReflectionInfo(h.ctx))(t)
	ask := func(r *reflectionv1.ServerReflectionRequest) *reflectionv1.ServerReflectionResponse {
		t.Helper()
		if err := stream.Send(r); err != nil {
			t.Fatal(err)
		}
		resp := must(stream.Recv())(t)
		if e := resp.GetErrorResponse(); e != nil {
			t.Fatal(e.ErrorMessage)
		}
		return resp
	}
	// A file that others need is sent once on a stream and not again.
	sent, known := &descriptorpb.FileDescriptorSet{}, make(map[string]bool)
	describe := func(name protoreflect.FullName) protoreflect.ServiceDescriptor {
		t.Helper()
		raw := ask(&reflectionv1.ServerReflectionRequest{MessageRequest: &reflectionv1.ServerReflectionRequest_FileContainingSymbol{
			FileContainingSymbol: string(name)}}).GetFileDescriptorResponse().FileDescriptorProto
		for _, b := range raw {
			file := &descriptorpb.FileDescriptorProto{}
			if err := proto.Unmarshal(b, file); err != nil {
				t.Fatal(err)
			}
			if !known[file.GetName()] {
				known[file.GetName()] = true
				sent.File = append(sent.File, file)
			}
		}
		files := must(protodesc.NewFiles(sent))(t)
		desc := must(files.FindDescriptorByName(name))(t)
		service, ok := desc.(protoreflect.ServiceDescriptor)
		if !ok || service.Methods().Len() == 0 {
			t.Fatalf("%s is %T", name, desc)
		}
		return service
	}

	listed := make(map[string]bool)
	list := ask(&reflectionv1.ServerReflectionRequest{
		MessageRequest: &reflectionv1.ServerReflectionRequest_ListServices{}}).GetListServicesResponse()
	for _, service := range list.Service {
		listed[service.Name] = true
	}
	for _, name := range []string{
		"etcdserverpb.KV", "etcdserverpb.Watch", "etcdserverpb.Lease", "etcdserverpb.Cluster", "etcdserverpb.Maintenance",
		"v3lockpb.Lock", "v3electionpb.Election",
	} {
		for _, full := range []string{name, "upkeep." + name} {
			if !listed[full] {
				t.Errorf("%s is not listed", full)
			}
			describe(protoreflect.FullName(full))
		}
	}
	if !listed["grpc.health.v1.Health"] {
		t.Error("the health service is not listed")
	}

	put := describe("etcdserverpb.KV").Methods().ByName("Put")
	request := dynamicpb.NewMessage(put.Input())
	request.Set(put.Input().Fields().ByName("key"), protoreflect.ValueOfBytes([]byte("k")))
	response := dynamicpb.NewMessage(put.Output())
	if err := h.conn.Invoke(h.ctx, "/etcdserverpb.KV/Put", request, response); err != nil {
		t.Fatal(err)
	}
	header := response.Get(put.Output().Fields().ByName("header")).Message()
	if rev := header.Get(header.Descriptor().Fields().ByName("revision")).Int(); rev != 2 {
		t.Errorf("revision %d", rev)
	}
}
