// Package revision names one change in the store's history and gives it the
// key under which the change is stored.
//
// A transaction moves the store from one main revision to the next; the changes
// inside it are numbered 0, 1, 2, … in the order in which they were written.
// After
//
//	put a=1                    // revision 2
//	txn { put b=1; delete a }  // revision 3
//
// the history is three entries, here with the keys they have on disk (the main
// and sub numbers are 8-byte big endian, so byte order is revision order):
//
//	{2,0}            0000000000000002 5f 0000000000000000
//	{3,0}            0000000000000003 5f 0000000000000000
//	{3,1} tombstone  0000000000000003 5f 0000000000000001 74
//
// A deletion carries a trailing 't', which sorts it directly after the put that
// the same revision would have been.
package revision
