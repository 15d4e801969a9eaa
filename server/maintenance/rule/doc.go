// Package rule reads conditions on the figures of a member, such as the one that says when to defragment:
//
//	r, err := rule.Parse("free > 100MiB && fragmented > 45%")
//	r.Matches(rule.Figures{File: 1 << 30, InUse: 400 << 20})   // true: 624 MiB are free, 61 % of the file
//
// The grammar, loosest first:
//
//	rule       = and { "||" and }
//	and        = not { "&&" not }
//	not        = "!" not | "(" rule ")" | "true" | "false" | comparison
//	comparison = figure operator ( amount | figure )
//	operator   = ">" | ">=" | "<" | "<=" | "==" | "!="
//	amount     = number unit                   such as 100MiB, 1.5GB, 45%
//	unit       = "B" | "KiB" | "MiB" | "GiB" | "TiB" | "KB" | "MB" | "GB" | "TB" | "%"
//
// Figures are in bytes (file, in_use, free, quota, quota_left, disk_free) or percentages (fragmented, quota_used), and
// only like is compared with like. An amount without its unit is refused, for nobody can tell what 100 was meant to be;
// only 0 needs none. A mistake is an [Error], which knows its column.
package rule
