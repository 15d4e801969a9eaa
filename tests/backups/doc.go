// Package backups tests backups of whole clusters: hours of them in virtual time, with restores to the moments in between,
// and real processes that are killed in the middle.
package backups
