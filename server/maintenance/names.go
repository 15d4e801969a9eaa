package maintenance

import (
	"fmt"
	"strings"

	"github.com/upkeep-kv/upkeep/proto/schedulepb"
)

// KindName is how operators and metrics call a kind: "defrag", "move-leader".
func KindName(kind schedulepb.Kind) string {
	return strings.ReplaceAll(strings.ToLower(kind.String()), "_", "-")
}

// ResultName is how operators and metrics call a result: "done", "failed".
func ResultName(result schedulepb.Outcome_Result) string { return strings.ToLower(result.String()) }

// ParseKind reads what KindName writes.
func ParseKind(name string) (schedulepb.Kind, error) {
	value, ok := schedulepb.Kind_value[strings.ReplaceAll(strings.ToUpper(name), "-", "_")]
	if !ok || value == int32(schedulepb.Kind_ANY) {
		return 0, fmt.Errorf("%q is no kind of maintenance", name)
	}
	return schedulepb.Kind(value), nil
}
