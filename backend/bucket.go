package backend

// Bucket is a top level bucket of the file.
type Bucket uint8

// The buckets of etcd in the order of their names, which is the order in which
// hashes walk them, and our own, which etcd ignores and which is created when it
// is first written.
const (
	Alarm Bucket = iota
	Auth
	AuthRoles
	AuthUsers
	Cluster
	Key
	Lease
	Members
	MembersRemoved
	Meta
	Upkeep

	bucketCount
)

var bucketNames = [bucketCount]string{
	Alarm: "alarm", Auth: "auth", AuthRoles: "authRoles", AuthUsers: "authUsers", Cluster: "cluster",
	Key: "key", Lease: "lease", Members: "members", MembersRemoved: "members_removed", Meta: "meta",
	Upkeep: "upkeep",
}

// Name is the name of the bucket in the file.
func (b Bucket) Name() string { return bucketNames[b] }

func (b Bucket) String() string { return b.Name() }

func (b Bucket) bytes() []byte { return []byte(bucketNames[b]) }

// Keys of bucket Meta that the backend itself writes or leaves out of hashes.
const (
	metaConsistentIndex = "consistent_index" // uint64 big endian
	metaTerm            = "term"             // uint64 big endian
	metaStorageVersion  = "storageVersion"
)

// Op is one put or deletion.
type Op struct {
	Bucket Bucket
	Key    []byte
	Value  []byte
	Delete bool
}

func (o Op) bytes() int { return len(o.Key) + len(o.Value) }
