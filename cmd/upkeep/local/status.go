package local

import (
	"context"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/dustin/go-humanize"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	pb "github.com/upkeep-kv/upkeep/proto/etcdserverpb"
)

// probeHealth asks /health until it is good.
func probeHealth(ctx context.Context, s spec) error {
	const pause = 200 * time.Millisecond
	client := &http.Client{Timeout: time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	for {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, s.clientURL()+"/health?exclude=NOSPACE", nil)
		if err != nil {
			return err
		}
		if response, err := client.Do(request); err == nil {
			response.Body.Close()
			if response.StatusCode == http.StatusOK {
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
		}
	}
}

// status shows a table of the members. The members are asked in the background, since one that is paused does not
// answer.
func (c *cluster) status(ctx context.Context) {
	type row struct {
		spec
		state state
		pid   int
		reply *pb.StatusResponse
	}
	rows := make([]row, len(c.members))
	for i, m := range c.members {
		rows[i] = row{spec: m.spec, state: m.state}
		if m.state != exited {
			rows[i].pid = m.process.pid()
		}
	}
	c.tasks.Go(func() {
		ctx, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		var asked sync.WaitGroup
		for i := range rows {
			if r := &rows[i]; r.state == serving {
				asked.Go(func() { r.reply = askStatus(ctx, r.clientAddress()) })
			}
		}
		asked.Wait()
		var text strings.Builder
		table := tabwriter.NewWriter(&text, 0, 0, 3, ' ', 0)
		fmt.Fprintln(table, "member\tstate\tpid\tclients\tpeers\trole\trevision\tdb size\tin use\talarms")
		for _, r := range rows {
			pid, role, revision, size, inUse, alarms := "-", "-", "-", "-", "-", ""
			if r.pid > 0 {
				pid = fmt.Sprint(r.pid)
			}
			if s := r.reply; s != nil {
				role, revision = roleOf(s), fmt.Sprint(s.GetHeader().GetRevision())
				size, inUse = humanize.Bytes(uint64(s.DbSize)), humanize.Bytes(uint64(s.DbSizeInUse))
				alarms = strings.Join(s.Errors, ", ")
			}
			fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", r.name, r.state, pid, r.clientAddress(), r.peerAddress(), role, revision, size, inUse, alarms)
		}
		_ = table.Flush() // into memory
		c.say("%s", strings.TrimRight(text.String(), "\n"))
	})
}

func roleOf(s *pb.StatusResponse) string {
	switch {
	case s.GetIsLearner():
		return "learner"
	case s.GetLeader() == 0:
		return "no leader"
	case s.GetLeader() == s.GetHeader().GetMemberId():
		return "leader"
	}
	return "follower"
}

func askStatus(ctx context.Context, address string) *pb.StatusResponse {
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil
	}
	defer conn.Close()
	reply, err := pb.NewMaintenanceClient(conn).Status(ctx, &pb.StatusRequest{})
	if err != nil {
		return nil
	}
	return reply
}

// bannerText says what runs and how to talk to it.
func bannerText(p palette, o *options, specs []spec, ctl string) string {
	var b strings.Builder
	addresses := make([]string, len(specs))
	fmt.Fprintf(&b, "\n%s\n\n", p.paint(styleBold, fmt.Sprintf("A cluster of %d on this machine, data in %s", len(specs), filepath.Clean(o.dataDir))))
	for i, s := range specs {
		addresses[i] = s.clientAddress()
		fmt.Fprintf(&b, "  %s clients %s   peers %s\n", p.member(s.number, s.name), s.clientURL(), s.peerURL())
	}
	fmt.Fprintf(&b, "\nTalk to it from another terminal (etcdctl does as well):\n\n")
	fmt.Fprintf(&b, "  export ETCDCTL_ENDPOINTS=%s\n", strings.Join(addresses, ","))
	for _, command := range []string{"put greeting hello", "get greeting", "endpoint status -w table", "defrag", "snapshot save backup.db"} {
		fmt.Fprintf(&b, "  %s %s\n", ctl, command)
	}
	b.WriteString("\n  curl " + specs[0].clientURL() + "/health\n")
	b.WriteString("\nHere: a number starts a member that has ended; kill N, pause N, resume N, status, help. Ctrl-C stops all.\n")
	return b.String()
}
