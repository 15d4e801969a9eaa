package soak

import (
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"bufio"
)

// Sample is what one member uses at one moment.
type Sample struct {
	At          time.Duration `json:"at"`
	MemoryBytes int64         `json:"memory_bytes"` // of its own; pages of the mapped database are the kernel's to take back
	DiskBytes   int64         `json:"disk_bytes"`   // allocated to the data directory
	Files       int64         `json:"files"`        // in the data directory
	Goroutines  int64         `json:"goroutines"`
	Descriptors int64         `json:"descriptors"`
}

// String tells the sample in one line.
func (s Sample) String() string {
	return fmt.Sprintf("%8v  memory %5.1f MiB  disk %6.1f MiB in %2d files  %4d goroutines  %3d descriptors", s.At.Round(time.Second),
		mib(s.MemoryBytes), mib(s.DiskBytes), s.Files, s.Goroutines, s.Descriptors)
}

func mib(n int64) float64 { return float64(n) / (1 << 20) }

// limit says how far a figure may rise: to first*factor + slack.
type limit struct {
	name   string
	of     func(Sample) int64
	factor float64
	slack  float64
}

// Limits are the bounds that Judge holds a member to. The slack covers what comes in steps: a log segment of 64 MiB that is
// made ahead, a raft snapshot more or less, a garbage collection that is due.
func limits() []limit {
	return []limit{
		{"memory", func(s Sample) int64 { return s.MemoryBytes }, 1.3, 64 << 20},
		{"disk", func(s Sample) int64 { return s.DiskBytes }, 1.2, 136 << 20},
		{"files", func(s Sample) int64 { return s.Files }, 1, 8},
		{"goroutines", func(s Sample) int64 { return s.Goroutines }, 1.2, 40},
		{"descriptors", func(s Sample) int64 { return s.Descriptors }, 1.2, 16},
	}
}

// Judge returns what has grown beyond its limit. samples are those after the warm-up, in order.
func Judge(samples []Sample) []string {
	quarter := len(samples) / 4
	if quarter == 0 {
		return nil
	}
	var grown []string
	for _, l := range limits() {
		first, last := median(samples[:quarter], l.of), median(samples[len(samples)-quarter:], l.of)
		if most := float64(first)*l.factor + l.slack; float64(last) > most {
			grown = append(grown, fmt.Sprintf("%s grew from %d to %d, beyond %.0f", l.name, first, last, most))
		}
	}
	return grown
}

func median(samples []Sample, of func(Sample) int64) int64 {
	var all []int64
	for _, s := range samples {
		all = append(all, of(s))
	}
	slices.Sort(all)
	return all[len(all)/2]
}

// measure asks the kernel and the member itself.
func measure(pid int, dataDir, clientURL string) (Sample, error) {
	var s Sample
	var err error
	if s.MemoryBytes, err = anonymousMemory(pid); err != nil {
		return s, err
	}
	fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		return s, err
	}
	s.Descriptors = int64(len(fds))
	err = filepath.WalkDir(dataDir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return ignoreGone(err)
		}
		info, err := d.Info()
		if err != nil {
			return ignoreGone(err)
		}
		s.Files++
		s.DiskBytes += info.Sys().(*syscall.Stat_t).Blocks * 512
		return nil
	})
	if err != nil {
		return s, err
	}
	s.Goroutines, err = goroutines(clientURL)
	return s, err
}

// ignoreGone lets files vanish during the walk.
func ignoreGone(err error) error {
	if os.IsNotExist(err) {
		return nil
	}
	return err
}

func anonymousMemory(pid int) (int64, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for _, line := range strings.Split(string(status), "\n") {
		if f := strings.Fields(line); len(f) == 3 && f[0] == "RssAnon:" {
			kib, err := strconv.ParseInt(f[1], 10, 64)
			return kib << 10, err
		}
	}
	return 0, fmt.Errorf("no RssAnon in the status of process %d", pid)
}

// goroutines reads go_goroutines from the metrics of a member.
func goroutines(clientURL string) (int64, error) {
	client := http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get(clientURL + "/metrics")
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		if value, ok := strings.CutPrefix(lines.Text(), "go_goroutines "); ok {
			return strconv.ParseInt(value, 10, 64)
		}
	}
	return 0, fmt.Errorf("no go_goroutines in the metrics of %s: %v", clientURL, lines.Err())
}
