// Package metrics is the one place that names metrics. What etcd has under a name has that name here, with the same
// type, labels and buckets, so that its dashboards and alerts work; what is our own begins with upkeep_.
//
// Two ways lead in. Events are pushed through methods that fit the observer functions of the other packages, so that
// none of them imports this one:
//
//	m := metrics.New(prometheus.NewRegistry())
//	m.Identify(metrics.Identity{MemberID: id, Version: "3.7.3"})
//	node, err := raftnode.Start(raftnode.Config{Observer: raftnode.Observer{
//		WALSync:  m.WALSynced,
//		WALWrite: m.WALWritten,
//	}})
//
// Levels that somebody else keeps anyway are pulled when a scrape asks:
//
//	m.Observe(metrics.Sources{DBSize: func() int64 { return b.Sizes().File }})
//	mux.Handle("/metrics", m.Handler())
//
// Every server has its own registry, so several run in one process.
package metrics
