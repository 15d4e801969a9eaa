// Package auth keeps users, roles and what they may do, and finds out who presents a token.
//
// # A worked example
//
// Role reader may read the keys from "a" up to "f" and those from "f" up to "m"; user ann holds it. Her client sends name
// and password to one member, which does the slow part alone and lets all members know the outcome:
//
//	CheckPassword(ann, ...)             bcrypt, some tens of milliseconds; right at auth revision 9
//	TokenPart()                         sixteen random letters
//	   log entry 57 {authenticate ann, letters}
//	Authenticated(57, ann, letters)     on every member, when it applies the entry: token "letters.57" is ann's
//
// Her next call, on any member, carries the token:
//
//	Identify(token)                     Identity{ann, revision 9}
//	CheckRead(identity, "b", "k")       ann's permissions, merged when they were first needed: read [a, m). Covered.
//
// A put is checked in the same way, but by apply: name and revision travel with it through the log, so that every member
// decides alike, and from the state that the entry meets. If anything was changed in between, the revision is an old one,
// the answer is ErrOldRevision, and the client presents itself again.
//
// # State and cost
//
// The replicated state is a value that is never changed (state.go): a command makes a new one and publishes it with one
// atomic store. Whoever checks loads that pointer and takes no lock. While authentication is off, the load is all that it
// costs. A user's permissions are two lists of disjoint intervals, computed once for as long as neither the user nor its
// roles change, and searched by halving (permission.go).
//
// Everything is written through to etcd's buckets auth, authRoles and authUsers, byte for byte.
//
// # What is this member's own
//
// Simple tokens (token.go) are not in the store: each member learns of them by applying the log and forgets those that
// nobody presented to it for a while, or whose user changed. That needs a clock, and nothing that is replicated depends on
// it. JWTs (jwt.go) need no memory: they carry name and revision under a signature. They are signed by the member that the
// client talks to, when apply has said for what.
package auth
