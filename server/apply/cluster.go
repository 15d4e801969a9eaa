package apply

import (
	"strings"

	"go.uber.org/zap"

	"github.com/upkeep-kv/upkeep/backend"
	pb "github.com/upkeep-kv/upkeep/proto/etcdserverpb"
	"github.com/upkeep-kv/upkeep/server/member"
)

// keyStorageVersion is where the schema's version stands in the `meta` bucket; it follows the cluster's version.
var keyStorageVersion = []byte("storageVersion")

func (m *Machine) setClusterVersion(batch *backend.Batch, r *pb.ClusterVersionSetRequest) (any, error) {
	before := m.Members.Version()
	m.Members.SetVersion(batch, r.Ver)
	batch.Put(backend.Meta, keyStorageVersion, []byte(minorOf(r.Ver)+".0"))
	m.Logger.Info("set cluster version", zap.String("from", before), zap.String("to", r.Ver))
	return nil, nil
}

// minorOf cuts the patch off "3.7.0".
func minorOf(version string) string {
	major, rest, _ := strings.Cut(version, ".")
	minor, _, _ := strings.Cut(rest, ".")
	return major + "." + minor
}

func (m *Machine) setMemberAttributes(batch *backend.Batch, r *pb.ClusterMemberAttrSetRequest) (any, error) {
	attributes := r.GetMemberAttributes()
	m.Members.SetAttributes(batch, r.Member_ID, attributes.GetName(), attributes.GetClientUrls())
	return nil, nil
}

func (m *Machine) setDowngrade(batch *backend.Batch, r *pb.DowngradeInfoSetRequest) (any, error) {
	m.Members.SetDowngrade(batch, member.Downgrade{TargetVersion: r.Ver, Enabled: r.Enabled})
	return nil, nil
}
