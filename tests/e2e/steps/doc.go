// Package steps kills real processes with SIGKILL at every step of maintenance: of a defragmentation, a backup, a rebuild,
// and of restores of a stopped and of a running cluster.
//
// A member tells what it is doing (upkeep.v1.Upkeep/Progress). A test asks for maintenance, waits for the step that it is
// after, or for the next one if that was too quick to be seen, and kills the member a random moment later:
//
//	step := v.killDuring(run, "verify")   // "verify": killed there; "": it was over before
//	v.m.Restart()
//	v.finished(run)                        // the schedule begins anew by itself
//
// Then nothing that was acknowledged may be missing, the run that was interrupted must succeed without being asked for
// again, and nothing half done may lie about.
package steps
