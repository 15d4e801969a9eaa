// Package integrity damages members of whole clusters and looks whether they are found, named, kept from doing harm and
// repaired. Clusters are in one process and in virtual time, except where the order of writes to a real disk, or etcd
// itself, is what the test is about.
package integrity
