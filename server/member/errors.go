package member

import "errors"

// Refusals of a membership change, all decided from replicated state or, for the last four, by the member that proposes.
var (
	ErrMemberNotFound = errors.New("member not found")
	ErrIDExists       = errors.New("member ID already exist")
	ErrIDRemoved      = errors.New("member not found: it was removed")
	//lint:ignore ST1005 etcd's text
	ErrPeerURLExists    = errors.New("Peer URLs already exists")
	ErrNotLearner       = errors.New("can only promote a learner member")
	ErrTooManyLearners  = errors.New("too many learner members in cluster")
	ErrInvalidURLs      = errors.New("given member URLs are invalid")
	ErrLearnerNotReady  = errors.New("can only promote a learner member which is in sync with leader")
	ErrNotEnoughStarted = errors.New("re-configuration failed due to not enough started members")
	ErrUnhealthy        = errors.New("unhealthy cluster")
	ErrMalformed        = errors.New("malformed membership change")
)
