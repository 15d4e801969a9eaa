// Package longrun shares out the time of `make test-long` among the tests that go on for as long as they are let, and
// reads their seed.
//
//	func TestSoak(t *testing.T) {
//		end := time.Now().Add(longrun.Length(t, 6*time.Second)) // 6 s in `make test`
//		for time.Now().Before(end) { … }
//	}
//
// With UPKEEP_TEST_SECONDS=1000 this test takes its 12 parts of a hundred, 120 s. The parts of all tests add up to a
// hundred, so that running them one after the other takes 1000 s in all, and what each needs to end its last round. No
// test takes less than it does in `make test`.
package longrun
