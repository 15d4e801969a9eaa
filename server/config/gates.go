package config

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// FeatureGates are the gates of --feature-gates that change what this server does.
type FeatureGates struct {
	CompactHashCheck       bool // the leader compares the hashes that compactions make
	InitialCorruptCheck    bool // a member compares its history with its peers' before it starts to take part
	LeaseCheckpoint        bool // the leader replicates remaining times to live
	LeaseCheckpointPersist bool // and members keep them on disk; needs LeaseCheckpoint
	// StopGRPCServiceOnDefrag makes the health service answer NOT_SERVING while a defragmentation runs that a client has
	// asked for, so that clients that look move to other members. Requests are served all the same.
	StopGRPCServiceOnDefrag bool
}

// Gate describes one gate, for etcd_server_feature_enabled.
type Gate struct {
	Name    string
	Stage   string // ALPHA or BETA
	Enabled bool
}

// gateKind says what this server can do about a gate that etcd knows.
type gateKind int

const (
	gateReal     gateKind = iota // has a field in FeatureGates
	gateNeedless                 // what it switches does not exist here, with either value
	gateAbsent                   // not available in this version; only false is accepted
)

type gateSpec struct {
	name   string
	stage  string
	preset bool
	kind   gateKind
	reason string // why it is needless
}

// gateSpecs are etcd 3.7's gates, AllAlpha and AllBeta aside.
func gateSpecs() []gateSpec {
	return []gateSpec{
		{name: "CompactHashCheck", stage: "ALPHA"},
		{name: "FastLeaseKeepAlive", stage: "BETA", preset: true, kind: gateNeedless, reason: "a renewal waits for the log only when it has to"},
		{name: "InitialCorruptCheck", stage: "ALPHA"},
		{name: "LeaseCheckpoint", stage: "ALPHA"},
		{name: "LeaseCheckpointPersist", stage: "ALPHA"},
		{name: "PriorityRequest", stage: "ALPHA", kind: gateNeedless, reason: "requests of one kind do not wait for another kind"},
		{name: "SetMemberLocalAddr", stage: "ALPHA", kind: gateAbsent},
		{name: "StopGRPCServiceOnDefrag", stage: "ALPHA"},
		{name: "TxnModeWriteWithSharedBuffer", stage: "BETA", preset: true, kind: gateNeedless, reason: "transactions never copy the write buffer"},
	}
}

// ParseFeatureGates reads "Name=true,Other=false". Gates that mean nothing here are named in the warnings.
func ParseFeatureGates(text string) (FeatureGates, []Warning, error) {
	var gates FeatureGates
	var warnings []Warning
	if text == "" {
		return gates, nil, nil
	}
	values := map[string]bool{}
	for pair := range strings.SplitSeq(text, ",") {
		name, value, ok := strings.Cut(strings.TrimSpace(pair), "=")
		if !ok {
			return gates, nil, fmt.Errorf("missing bool value for %s", pair)
		}
		on, err := strconv.ParseBool(value)
		if err != nil {
			return gates, nil, fmt.Errorf("invalid value of %s=%s: %w", name, value, err)
		}
		values[name] = on
	}
	specs := gateSpecs()
	for name, on := range values {
		at := slices.IndexFunc(specs, func(s gateSpec) bool { return s.name == name })
		switch {
		case name == "AllAlpha" || name == "AllBeta":
		case at < 0:
			return gates, nil, fmt.Errorf("unrecognized feature gate: %s", name)
		case specs[at].kind == gateAbsent && on:
			return gates, nil, fmt.Errorf("feature gate %s is not available in this version", name)
		case specs[at].kind == gateNeedless:
			warnings = append(warnings, warn("feature gate has no effect", "feature-gate", name, "reason", specs[at].reason))
		}
	}
	gates.CompactHashCheck = gateValue(values, "CompactHashCheck", "AllAlpha")
	gates.InitialCorruptCheck = gateValue(values, "InitialCorruptCheck", "AllAlpha")
	gates.LeaseCheckpoint = gateValue(values, "LeaseCheckpoint", "AllAlpha")
	gates.LeaseCheckpointPersist = gateValue(values, "LeaseCheckpointPersist", "AllAlpha")
	gates.StopGRPCServiceOnDefrag = gateValue(values, "StopGRPCServiceOnDefrag", "AllAlpha")
	slices.SortFunc(warnings, func(a, b Warning) int { return strings.Compare(a.String(), b.String()) })
	return gates, warnings, nil
}

func gateValue(values map[string]bool, name, group string) bool {
	if on, ok := values[name]; ok {
		return on
	}
	return values[group]
}

// List names every gate this server has a use for and whether it is on.
func (g FeatureGates) List() []Gate {
	return []Gate{
		{Name: "CompactHashCheck", Stage: "ALPHA", Enabled: g.CompactHashCheck},
		{Name: "InitialCorruptCheck", Stage: "ALPHA", Enabled: g.InitialCorruptCheck},
		{Name: "LeaseCheckpoint", Stage: "ALPHA", Enabled: g.LeaseCheckpoint},
		{Name: "LeaseCheckpointPersist", Stage: "ALPHA", Enabled: g.LeaseCheckpointPersist},
		{Name: "StopGRPCServiceOnDefrag", Stage: "ALPHA", Enabled: g.StopGRPCServiceOnDefrag},
	}
}
