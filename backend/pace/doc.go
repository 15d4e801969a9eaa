// Package pace lets background work use what requests leave over.
//
// # A worked example
//
// The server tells one Governor of every request and every sync of its log:
//
//	g.Begin()
//	...                               // a put is served
//	g.End(pace.Write, 1800*time.Microsecond)
//	g.Synced(900 * time.Microsecond)  // the log's fdatasync
//
// Every long job works in pieces and asks how large the next may be and how long
// to rest before it:
//
//	job := g.Start(pace.Sizes{First: 1000, Least: 100, Most: 50000})
//	defer job.Close()
//	for !done {
//		done = deleteSome(job.Size())
//		if err := job.Rest(ctx); err != nil {
//			return err
//		}
//	}
//
// While nobody asks for anything there is no rest, and pieces are large. As soon
// as there are requests, pieces last about 10 ms and are followed by as much rest.
// From there on what requests feel decides. Say puts take 2 ms, 99 of 100 of them
// below 4 ms, while no piece runs. If a twentieth of those that end during a piece
// take more than 6 ms, or some more than 12 ms, which the baseline has not or only
// half as often, pieces and the share of the time they get shrink by a third, down
// to 2 ms and a tenth. While nothing
// of that kind is seen they grow again, step by step.
//
// # What is compared with what
//
// A request counts as disturbed if a piece ran when it came, or had ended less than
// settle before; all others make up the baseline. So the baseline goes on being
// measured in the rests of a job that takes an hour, and load that changes by
// itself changes it. Reads, writes and syncs are compared each with their own
// kind: their mix says nothing. Jobs that run at the same time divide the share.
//
// Telling the governor costs two atomic additions, and a look at the clock if it
// took long: no lock, no allocation. All thinking is done by those who rest.
package pace
