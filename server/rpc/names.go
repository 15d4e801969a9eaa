package rpc

import (
	"fmt"
	"strings"

	"google.golang.org/grpc"
	reflectionv1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
	reflectionv1alpha "google.golang.org/grpc/reflection/grpc_reflection_v1alpha"

	"google.golang.org/grpc/reflection"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"

	pb "github.com/upkeep-kv/upkeep/proto/etcdserverpb"
	"github.com/upkeep-kv/upkeep/proto/v3electionpb"
	"github.com/upkeep-kv/upkeep/proto/v3lockpb"
)

// ownPrefix is what our protobuf packages carry before etcd's name: upkeep.etcdserverpb.KV is etcd's etcdserverpb.KV.
const ownPrefix = "upkeep."

// registerBoth registers impl under our own service name, which its generated descriptor carries, and under etcd's.
// The messages are the same bytes under both names.
func registerBoth(s grpc.ServiceRegistrar, desc *grpc.ServiceDesc, impl any) {
	s.RegisterService(desc, impl)
	etcd := *desc
	etcd.ServiceName = strings.TrimPrefix(desc.ServiceName, ownPrefix)
	s.RegisterService(&etcd, impl)
}

// registerReflection lets tools such as grpcurl list and describe the services under both names.
func registerReflection(s reflection.GRPCServer) error {
	resolver, err := newResolver()
	if err != nil {
		return err
	}
	opts := reflection.ServerOptions{Services: s, DescriptorResolver: resolver}
	reflectionv1.RegisterServerReflectionServer(s, reflection.NewServerV1(opts))
	reflectionv1alpha.RegisterServerReflectionServer(s, reflection.NewServer(opts))
	return nil
}

// resolver answers for etcd's names from descriptors made out of ours, and for all else from the process's registry.
// The made descriptors stay out of that registry: a program that links etcd's client has the real ones there, and two
// files of one name must not meet.
type resolver struct {
	etcd *protoregistry.Files
}

func newResolver() (*resolver, error) {
	r := &resolver{etcd: new(protoregistry.Files)}
	for _, file := range []protoreflect.FileDescriptor{
		pb.File_proto_etcdserverpb_rpc_proto, v3lockpb.File_proto_v3lockpb_v3lock_proto,
		v3electionpb.File_proto_v3electionpb_v3election_proto,
	} {
		if err := r.add(file); err != nil {
			return nil, fmt.Errorf("rpc: descriptors under etcd's names: %w", err)
		}
	}
	return r, nil
}

// add makes the renamed copy of file and, before it, of those of our files that it imports.
func (r *resolver) add(file protoreflect.FileDescriptor) error {
	if !strings.HasPrefix(string(file.Package()), ownPrefix) {
		return nil
	}
	for i := range file.Imports().Len() {
		if err := r.add(file.Imports().Get(i).FileDescriptor); err != nil {
			return err
		}
	}
	renamed := renameFile(protodesc.ToFileDescriptorProto(file))
	if _, err := r.etcd.FindFileByPath(renamed.GetName()); err == nil {
		return nil
	}
	made, err := protodesc.NewFile(renamed, r)
	if err != nil {
		return err
	}
	return r.etcd.RegisterFile(made)
}

func (r *resolver) FindFileByPath(path string) (protoreflect.FileDescriptor, error) {
	if file, err := r.etcd.FindFileByPath(path); err == nil {
		return file, nil
	}
	return protoregistry.GlobalFiles.FindFileByPath(path)
}

func (r *resolver) FindDescriptorByName(name protoreflect.FullName) (protoreflect.Descriptor, error) {
	if desc, err := r.etcd.FindDescriptorByName(name); err == nil {
		return desc, nil
	}
	return protoregistry.GlobalFiles.FindDescriptorByName(name)
}

// renameFile takes our prefix off the package, off all references to types of ours and our folder off the paths. It
// changes and returns file, which protodesc made for us.
func renameFile(file *descriptorpb.FileDescriptorProto) *descriptorpb.FileDescriptorProto {
	file.Name = proto.String(renamePath(file.GetName()))
	file.Package = proto.String(strings.TrimPrefix(file.GetPackage(), ownPrefix))
	for i, path := range file.Dependency {
		file.Dependency[i] = renamePath(path)
	}
	for _, message := range file.MessageType {
		renameMessage(message)
	}
	for _, service := range file.Service {
		for _, method := range service.Method {
			method.InputType = renameType(method.InputType)
			method.OutputType = renameType(method.OutputType)
		}
	}
	return file
}

func renameMessage(message *descriptorpb.DescriptorProto) {
	for _, field := range message.Field {
		field.TypeName = renameType(field.TypeName)
	}
	for _, nested := range message.NestedType {
		renameMessage(nested)
	}
}

func renameType(name *string) *string {
	if name == nil {
		return nil
	}
	return proto.String(strings.Replace(*name, "."+ownPrefix, ".", 1))
}

func renamePath(path string) string { return strings.TrimPrefix(path, "proto/") }
