package auth

import "errors"

// Refusals. Each is the same on every member that has applied the same log.
var (
	ErrRootUserMissing    = errors.New("root user does not exist")
	ErrRootRoleMissing    = errors.New("root user does not have root role")
	ErrUserExists         = errors.New("user name already exists")
	ErrUserEmpty          = errors.New("user name is empty")
	ErrUserNotFound       = errors.New("user name not found")
	ErrRoleExists         = errors.New("role name already exists")
	ErrRoleEmpty          = errors.New("role name is empty")
	ErrRoleNotFound       = errors.New("role name not found")
	ErrRoleNotGranted     = errors.New("role is not granted to the user")
	ErrPermissionGiven    = errors.New("permission not given")
	ErrPermissionMissing  = errors.New("permission is not granted to the role")
	ErrInvalidManagement  = errors.New("invalid auth management")
	ErrNotEnabled         = errors.New("authentication is not enabled")
	ErrAuthFailed         = errors.New("authentication failed, invalid user ID or password")
	ErrNoPasswordUser     = errors.New("auth: authentication failed, password was given for no password user")
	ErrPermissionDenied   = errors.New("permission denied")
	ErrOldRevision        = errors.New("revision of auth store is old")
	ErrInvalidToken       = errors.New("invalid auth token")
	ErrVerifyOnly         = errors.New("auth: token signing attempted with verify-only key")
	ErrPlaintextInHistory = errors.New("the log holds a password in plain text, from a version of etcd before 3.5")
)
