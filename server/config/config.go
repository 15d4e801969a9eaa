package config

import (
	"net/url"
	"time"

	"github.com/upkeep-kv/upkeep/server/tlsconfig"
)

// Defaults that other packages and messages refer to.
const (
	DefaultName                = "default"
	DefaultListenPeerURL       = "http://localhost:2380"
	DefaultListenClientURL     = "http://localhost:2379"
	DefaultInitialClusterToken = "etcd-cluster"

	DefaultAuthToken              = "simple"
	DefaultAuthTokenTTLSeconds    = 300
	DefaultBcryptCost             = 10
	DefaultSnapshotCount          = 10_000
	DefaultSnapshotCatchUpEntries = 5_000
	DefaultHeartbeatInterval      = 100 * time.Millisecond
	DefaultElectionTimeout        = time.Second
	DefaultMaxRequestBytes        = 1_572_864
	DefaultMaxTxnOps              = 128
	DefaultQuotaBackendBytes      = 2 << 30
	DefaultBackendBatchInterval   = 100 * time.Millisecond
	DefaultBackendBatchLimit      = 10_000
	DefaultCompactHashCheckTime   = time.Minute
	DefaultDowngradeCheckTime     = 5 * time.Second
	DefaultWatchProgressInterval  = 10 * time.Minute
	MinWatchProgressInterval      = 100 * time.Millisecond
)

// ClusterState says whether a member without data founds a cluster or joins one.
type ClusterState string

const (
	ClusterNew      ClusterState = "new"
	ClusterExisting ClusterState = "existing"
)

// Member is one entry of --initial-cluster. PeerURLs is sorted and not empty.
type Member struct {
	Name     string
	PeerURLs []string
}

// Config is everything a server can be told. Default fills it, Parse sets it from flags, environment and file,
// Complete derives what was left open and Validate says what is wrong. Durations are durations whatever unit the
// flag has.
type Config struct {
	// --- member ---

	Name    string
	DataDir string // empty: "<Name>.etcd", set by Complete
	WALDir  string // empty: inside DataDir

	// --- raft ---

	HeartbeatInterval          time.Duration
	ElectionTimeout            time.Duration
	InitialElectionTickAdvance bool
	PreVote                    bool
	SnapshotCount              uint64 // applied entries between raft snapshots, > 0
	SnapshotCatchUpEntries     uint64 // log entries kept for slow followers
	MaxSnapshots               uint   // raft snapshot files kept, 0 = all
	MaxWALs                    uint   // released log segments kept, 0 = all
	UnsafeNoFsync              bool
	// CoalesceProposals lets proposals that wait together share one log entry. Off, every entry is one that etcd's
	// own tools can read.
	CoalesceProposals bool

	// --- addresses ---

	ListenPeerURLs       []url.URL
	ListenClientURLs     []url.URL
	ListenClientHTTPURLs []url.URL // not empty: HTTP is served here and ListenClientURLs are gRPC only
	ListenMetricsURLs    []url.URL
	AdvertisePeerURLs    []url.URL
	AdvertiseClientURLs  []url.URL
	SocketReusePort      bool
	SocketReuseAddress   bool

	// --- cluster ---

	InitialCluster      []Member // sorted by name; empty: this member alone, set by Complete
	InitialClusterState ClusterState
	InitialClusterToken string
	// Discovery finds InitialCluster out, which is empty then.
	Discovery Discovery
	// ForceNewCluster makes the data of a stopped member that of a cluster of one.
	ForceNewCluster     bool
	StrictReconfigCheck bool
	MaxLearners         int

	// --- security ---

	ClientTLS       tlsconfig.Settings
	PeerTLS         tlsconfig.Settings
	TLS             tlsconfig.Protocol // of both
	SelfSignedYears uint
	// --- authentication ---

	AuthToken           string // "simple", "jwt,option=value,...", or empty for no tokens at all
	AuthTokenTTLSeconds uint   // of simple tokens, 0 = DefaultAuthTokenTTLSeconds
	BcryptCost          uint

	// --- limits ---

	QuotaBackendBytes    int64 // <0 no quota, 0 = DefaultQuotaBackendBytes
	MaxTxnOps            uint
	MaxRequestBytes      uint
	MaxConcurrentStreams uint32

	GRPCKeepAliveMinTime  time.Duration // clients that ping more often are cut off
	GRPCKeepAliveInterval time.Duration // server pings an idle connection, 0 = never
	GRPCKeepAliveTimeout  time.Duration // and waits so long for the answer, 0 = never closes

	// --- backend ---

	BackendFreelistArray           bool
	BackendBatchInterval           time.Duration
	BackendBatchLimit              int
	MemoryMlock                    bool
	BootstrapDefragThresholdMBytes uint // 0 = never

	// --- maintenance ---

	AutoCompaction Retention
	// CompactionBatchLimit and CompactionSleepInterval are 0 for a compaction that
	// is paced by what requests feel.
	CompactionBatchLimit    int
	CompactionSleepInterval time.Duration
	Upkeep                  Upkeep
	CorruptCheckTime        time.Duration // between the leader's comparisons of all members, 0 = never
	DowngradeCheckTime      time.Duration // between looks at whether this member is ready for a downgrade, 0 = never
	CompactHashCheckTime    time.Duration // the same for the hashes of compactions, if its gate is on; > 0

	// --- watch and warnings ---

	WatchProgressNotifyInterval time.Duration
	WarningApplyDuration        time.Duration
	WarningUnaryRequestDuration time.Duration

	Gates FeatureGates

	// --- http ---

	EnableGRPCGateway bool     // serve JSON under /v3/
	CORSOrigins       []string // sites whose pages may call; nil means all
	HostWhitelist     []string // names that requests without TLS may be addressed to; nil means any

	// --- observing ---

	ExtensiveMetrics bool // --metrics=extensive: gRPC latency histograms too
	EnablePprof      bool
	Tracing          Tracing
	Log              LogConfig

	// File is the config file this was read from, if it was.
	File string
	// Warnings were found while parsing and are logged once a logger exists.
	Warnings []Warning

	fallbackProxy bool // --discovery-fallback=proxy
}

// LogConfig says where log lines go and how they look.
type LogConfig struct {
	Level    string   // debug, info, warn, error, dpanic, panic, fatal
	Format   string   // json or console
	Outputs  []string // default, stderr, stdout, systemd/journal, or file paths
	Rotate   bool     // needs exactly one output, a file
	Rotation Rotation
}

// Rotation is --log-rotation-config-json.
type Rotation struct {
	MaxSizeMBytes int  `json:"maxsize"`
	MaxAgeDays    int  `json:"maxage"`     // 0 = keep
	MaxBackups    int  `json:"maxbackups"` // 0 = all
	LocalTime     bool `json:"localtime"`
	Compress      bool `json:"compress"`
}

// Default is what a server gets that is started without a flag.
func Default() *Config {
	return &Config{
		Name:                        DefaultName,
		HeartbeatInterval:           DefaultHeartbeatInterval,
		ElectionTimeout:             DefaultElectionTimeout,
		InitialElectionTickAdvance:  true,
		PreVote:                     true,
		SnapshotCount:               DefaultSnapshotCount,
		SnapshotCatchUpEntries:      DefaultSnapshotCatchUpEntries,
		MaxSnapshots:                5,
		MaxWALs:                     5,
		CoalesceProposals:           true,
		ListenPeerURLs:              mustURLs(DefaultListenPeerURL),
		ListenClientURLs:            mustURLs(DefaultListenClientURL),
		AdvertisePeerURLs:           mustURLs(DefaultListenPeerURL),
		AdvertiseClientURLs:         mustURLs(DefaultListenClientURL),
		InitialClusterState:         ClusterNew,
		InitialClusterToken:         DefaultInitialClusterToken,
		StrictReconfigCheck:         true,
		MaxLearners:                 1,
		Discovery:                   defaultDiscovery(),
		SelfSignedYears:             DefaultSelfSignedYears,
		AuthToken:                   DefaultAuthToken,
		AuthTokenTTLSeconds:         DefaultAuthTokenTTLSeconds,
		BcryptCost:                  DefaultBcryptCost,
		MaxTxnOps:                   DefaultMaxTxnOps,
		MaxRequestBytes:             DefaultMaxRequestBytes,
		MaxConcurrentStreams:        1<<32 - 1,
		GRPCKeepAliveMinTime:        5 * time.Second,
		GRPCKeepAliveInterval:       2 * time.Hour,
		GRPCKeepAliveTimeout:        20 * time.Second,
		BackendBatchInterval:        DefaultBackendBatchInterval,
		BackendBatchLimit:           DefaultBackendBatchLimit,
		AutoCompaction:              Retention{Mode: CompactPeriodic},
		CompactHashCheckTime:        DefaultCompactHashCheckTime,
		DowngradeCheckTime:          DefaultDowngradeCheckTime,
		Upkeep:                      defaultUpkeep(),
		WatchProgressNotifyInterval: DefaultWatchProgressInterval,
		WarningApplyDuration:        100 * time.Millisecond,
		WarningUnaryRequestDuration: 300 * time.Millisecond,
		EnableGRPCGateway:           true,
		Tracing:                     Tracing{Address: defaultTracingAddress, Service: DefaultTracingService},
		Log: LogConfig{
			Level:    "info",
			Format:   "json",
			Outputs:  []string{"default"},
			Rotation: Rotation{MaxSizeMBytes: 100},
		},
	}
}

// ElectionTicks is the election timeout in heartbeats, as raft counts it.
func (c *Config) ElectionTicks() int { return int(c.ElectionTimeout / c.HeartbeatInterval) }

// Complete fills in what depends on other settings and turns zeroes that mean "the default" into the default. It may
// be called more than once.
func (c *Config) Complete() {
	if c.Name == "" {
		c.Name = DefaultName
	}
	if c.DataDir == "" {
		c.DataDir = c.Name + ".etcd"
	}
	if len(c.InitialCluster) == 0 && !c.Discovery.Wanted() {
		c.InitialCluster = []Member{{Name: c.Name, PeerURLs: urlStrings(c.AdvertisePeerURLs)}}
	}
	orDefault(&c.AuthTokenTTLSeconds, DefaultAuthTokenTTLSeconds)
	orDefault(&c.SnapshotCount, DefaultSnapshotCount)
	orDefault(&c.BackendBatchInterval, DefaultBackendBatchInterval)
	orDefault(&c.BackendBatchLimit, DefaultBackendBatchLimit)
	orDefault(&c.WatchProgressNotifyInterval, DefaultWatchProgressInterval)
	c.WatchProgressNotifyInterval = max(c.WatchProgressNotifyInterval, MinWatchProgressInterval)
}

func orDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}
