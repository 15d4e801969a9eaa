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
	// SetMemberLocalAddr makes connections to other members come from the address of the first advertised peer URL that is
	// an IP address.
	SetMemberLocalAddr bool
	// StopGRPCServiceOnDefrag makes the health service answer NOT_SERVING while a defragmentation runs that a client has
	// asked for, so that clients that look move to other members. Requests are served all the same.
	StopGRPCServiceOnDefrag bool

	allAlpha, allBeta bool
	asked             map[string]bool // what every gate was set to, alone or with its group; nil for all defaults
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
		{name: "SetMemberLocalAddr", stage: "ALPHA"},
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
			return gates, nil, fmt.Errorf("invalid value of %s=%s, err: %w", name, value, err)
		}
		values[name] = on
	}
	specs := gateSpecs()
	for name := range values {
		at := slices.IndexFunc(specs, func(s gateSpec) bool { return s.name == name })
		switch {
		case name == "AllAlpha" || name == "AllBeta":
		case at < 0:
			return gates, nil, fmt.Errorf("unrecognized feature gate: %s", name)
		case specs[at].kind == gateNeedless:
			warnings = append(warnings, warn("feature gate has no effect", "feature-gate", name, "reason", specs[at].reason))
		}
	}
	gates.decide(values)
	slices.SortFunc(warnings, func(a, b Warning) int { return strings.Compare(a.String(), b.String()) })
	return gates, warnings, nil
}

// decide sets every gate to its own value, else to that of its group, else to its default.
func (g *FeatureGates) decide(values map[string]bool) {
	g.allAlpha, g.allBeta, g.asked = values["AllAlpha"], values["AllBeta"], map[string]bool{}
	fields := map[string]*bool{
		"CompactHashCheck": &g.CompactHashCheck, "InitialCorruptCheck": &g.InitialCorruptCheck, "LeaseCheckpoint": &g.LeaseCheckpoint,
		"LeaseCheckpointPersist": &g.LeaseCheckpointPersist, "SetMemberLocalAddr": &g.SetMemberLocalAddr,
		"StopGRPCServiceOnDefrag": &g.StopGRPCServiceOnDefrag,
	}
	groups := map[string]string{"ALPHA": "AllAlpha", "BETA": "AllBeta"}
	for _, s := range gateSpecs() {
		on, own := values[s.name]
		if group, grouped := values[groups[s.stage]]; !own && grouped {
			on, own = group, true
		}
		if !own {
			on = s.preset
		}
		g.asked[s.name] = on
		if field := fields[s.name]; field != nil {
			*field = on
		}
	}
}

// List names every gate that etcd has, by name, and whether it is on: as asked for, even where it changes nothing here.
// It is what etcd_server_feature_enabled says.
func (g FeatureGates) List() []Gate {
	gates := []Gate{{Name: "AllAlpha", Stage: "ALPHA", Enabled: g.allAlpha}, {Name: "AllBeta", Stage: "BETA", Enabled: g.allBeta}}
	for _, s := range gateSpecs() {
		gate := Gate{Name: s.name, Stage: s.stage, Enabled: s.preset}
		if on, asked := g.asked[s.name]; asked {
			gate.Enabled = on
		}
		gates = append(gates, gate)
	}
	return gates
}
