package server

// Versions that this program speaks of.
const (
	// Version is the program's own.
	Version = "0.1.0"
	// APIVersion is the etcd version whose API is served: clients switch features on by it.
	APIVersion = "3.7.3"
	// ClusterVersion is what the members agree on, and the version of the storage schema.
	ClusterVersion = "3.7.0"
)
