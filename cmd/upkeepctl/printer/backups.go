package printer

import (
	"fmt"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/upkeep-kv/upkeep/snapshot/backup"
)

// Backups are the manifests of a repository, oldest first. Their JSON is the one that is kept there.
type Backups []*backup.Manifest

const backupHeader = "TAKEN AT|KIND|ID|REVISIONS|SIZE|MEMBER|VERIFIED"

func backupRow(m *backup.Manifest) []string {
	verified := "no"
	switch v := m.Verification; {
	case m.Bad():
		verified = "BAD: " + v.Error
	case m.Good():
		verified = v.Method + " " + v.At.UTC().Format(time.RFC3339)
	}
	member := m.MemberName
	if member == "" {
		member = m.MemberID.String()
	}
	return []string{
		m.TakenAt.UTC().Format(time.RFC3339), string(m.Kind), m.ID,
		fmt.Sprintf("%d to %d", m.FirstRevision(), m.ToRevision),
		humanize.IBytes(uint64(m.Object.SizeBytes)), member, verified,
	}
}

func (p *fieldsPrinter) backup(m *backup.Manifest) {
	p.text("ID", m.ID)
	p.text("Kind", string(m.Kind))
	p.text("Parent", m.Parent)
	p.raw("FromRevision", m.FromRevision)
	p.raw("ToRevision", m.ToRevision)
	p.raw("CompactRevision", m.CompactRevision)
	p.text("TakenAt", m.TakenAt.UTC().Format(time.RFC3339Nano))
	p.raw("SizeBytes", m.Object.SizeBytes)
	p.raw("Hash", m.Hash.Hash)
	p.raw("Verified", m.Good())
	fmt.Fprintln(p.out)
}
