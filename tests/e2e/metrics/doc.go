// Package metrics compares the metrics of Upkeep and of etcd after the same work. What differs stands, with the reason,
// in a table of docs/metrics.md, which is compared with what the test finds.
package metrics
