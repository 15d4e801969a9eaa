package printer

import (
	"bytes"
	"fmt"
	"io"
	"strings"

	"go.etcd.io/etcd/api/v3/authpb"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/protobuf/proto"
)

// Answer is a response that is a sentence in the simple format, the message in JSON and protobuf, and in the fields format
// its header, or nothing.
type Answer struct {
	Text     string
	Response proto.Message
	NoFields bool
}

func (r Answer) header() *pb.ResponseHeader {
	if headed, ok := r.Response.(interface{ GetHeader() *pb.ResponseHeader }); ok {
		return headed.GetHeader()
	}
	return nil
}

// Role is a role with its permissions.
type Role struct {
	Name     string
	Response *clientv3.AuthRoleGetResponse
}

// RoleList is all roles.
type RoleList struct {
	Response *clientv3.AuthRoleListResponse
}

// Lines writes each name on a line.
func Lines(names []string) string {
	var b strings.Builder
	for _, name := range names {
		b.WriteString(name + "\n")
	}
	return b.String()
}

func writeRole(out io.Writer, r Role) {
	fmt.Fprintf(out, "Role %s\n", r.Name)
	write := func(title string, kind authpb.Permission_Type) {
		fmt.Fprintln(out, title)
		for _, perm := range r.Response.Perm {
			if perm.PermType == kind || perm.PermType == authpb.READWRITE {
				fmt.Fprintf(out, "\t%s\n", keysOf(perm))
			}
		}
	}
	write("KV Read:", authpb.READ)
	write("KV Write:", authpb.WRITE)
}

// keysOf renders the keys of a permission: one, a range, and what prefix a range is.
func keysOf(perm *authpb.Permission) string {
	key, end := string(perm.Key), string(perm.RangeEnd)
	switch {
	case end == "":
		return key
	case end == "\x00":
		return fmt.Sprintf("[%s, <open ended>", key)
	case bytes.Equal(perm.RangeEnd, []byte(clientv3.GetPrefixRangeEnd(key))):
		return fmt.Sprintf("[%s, %s) (prefix %s)", key, end, key)
	}
	return fmt.Sprintf("[%s, %s)", key, end)
}

func (p *fieldsPrinter) role(r Role) {
	p.header(r.Response.Header)
	for _, perm := range r.Response.Perm {
		fmt.Fprintf(p.out, "%q :  %v\n", "PermType", perm.PermType) // two blanks, as etcdctl has it
		p.text("Key", string(perm.Key))
		p.text("RangeEnd", string(perm.RangeEnd))
	}
}

func (p *fieldsPrinter) roles(r RoleList) {
	p.header(r.Response.Header)
	fmt.Fprint(p.out, `"Roles" :`)
	for _, role := range r.Response.Roles {
		fmt.Fprintf(p.out, " %q", role)
	}
	fmt.Fprintln(p.out)
}
