package differential

import (
	"slices"
	"testing"
	"time"
)

// shrink returns a part of all that still fails, after Zeller's delta debugging: it leaves out ever smaller runs of
// elements, until none can be left out alone or the time is over. fails plays a part from scratch.
func shrink[T any](all []T, end time.Time, fails func(part []T) bool) []T {
	for size := (len(all) + 1) / 2; size > 0; {
		left := false
		for from := 0; from < len(all); {
			part := slices.Concat(all[:from], all[min(from+size, len(all)):])
			if time.Now().After(end) {
				return all
			}
			if len(part) < len(all) && fails(part) {
				all, left = part, true
			} else {
				from += size
			}
		}
		if size == 1 && !left {
			break
		}
		size = max(1, min(size/2, (len(all)+1)/2))
		if len(all) == 0 {
			break
		}
	}
	return all
}

func TestShrinkFindsWhatMatters(t *testing.T) {
	all := make([]int, 1000)
	for i := range all {
		all[i] = i
	}
	for _, need := range [][]int{{}, {0}, {999}, {3, 500, 501, 998}} {
		tries := 0
		got := shrink(all, time.Now().Add(time.Minute), func(part []int) bool {
			tries++
			at := 0
			for _, n := range part { // in this order
				if at < len(need) && n == need[at] {
					at++
				}
			}
			return at == len(need)
		})
		if !slices.Equal(got, need) {
			t.Errorf("%v became %v", need, got)
		}
		if tries > 200 {
			t.Errorf("%v took %d tries", need, tries)
		}
	}
}
