package main

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"golang.org/x/sys/unix"
)

// machineFacts says what the numbers were measured on.
func machineFacts(dir string) (string, error) {
	var system unix.Utsname
	if err := unix.Uname(&system); err != nil {
		return "", err
	}
	var memory unix.Sysinfo_t
	if err := unix.Sysinfo(&memory); err != nil {
		return "", err
	}
	sync, err := syncTime(dir)
	if err != nil {
		return "", err
	}
	var s strings.Builder
	fmt.Fprintf(&s, "- CPU: %s, %d logical\n", cpuModel(), runtime.NumCPU())
	fmt.Fprintf(&s, "- memory: %s\n", humanize.IBytes(memory.Totalram*uint64(memory.Unit)))
	fmt.Fprintf(&s, "- kernel: %s %s, %s\n", unix.ByteSliceToString(system.Sysname[:]), unix.ByteSliceToString(system.Release[:]), runtime.GOARCH)
	fmt.Fprintf(&s, "- data on: %s, fdatasync of 4 KiB takes %s (median of %d)\n", fileSystem(dir), sync, syncSamples)
	// A machine that is not idle measures its other work, too.
	fmt.Fprintf(&s, "- load average before the start: %s\n", loadAverage())
	fmt.Fprintf(&s, "- client: built with %s, on the same machine\n", runtime.Version())
	return s.String(), nil
}

func loadAverage() string {
	text, _ := os.ReadFile("/proc/loadavg")
	fields := strings.Fields(string(text))
	if len(fields) < 2 {
		return "unknown"
	}
	return fmt.Sprintf("%s (1 minute), %s (5 minutes)", fields[0], fields[1])
}

func cpuModel() string {
	info, _ := os.ReadFile("/proc/cpuinfo")
	for _, line := range strings.Split(string(info), "\n") {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return "unknown"
}

func fileSystem(dir string) string {
	var stat unix.Statfs_t
	if err := unix.Statfs(dir, &stat); err != nil {
		return "unknown"
	}
	names := map[int64]string{
		unix.EXT4_SUPER_MAGIC: "ext4", unix.XFS_SUPER_MAGIC: "xfs", unix.BTRFS_SUPER_MAGIC: "btrfs",
		unix.TMPFS_MAGIC: "tmpfs", unix.OVERLAYFS_SUPER_MAGIC: "overlayfs", 0x2fc12fc1: "zfs",
	}
	if name, ok := names[int64(stat.Type)]; ok {
		return name
	}
	return fmt.Sprintf("file system %#x", stat.Type)
}

const syncSamples = 100

// syncTime is what a write-ahead log waits for: every acknowledged write
// includes at least one of these.
func syncTime(dir string) (time.Duration, error) {
	file, err := os.Create(filepath.Join(dir, "sync"))
	if err != nil {
		return 0, err
	}
	defer os.Remove(file.Name())
	defer file.Close()
	page := make([]byte, 4096)
	var samples []time.Duration
	for range syncSamples {
		start := time.Now()
		if _, err := file.Write(page); err != nil {
			return 0, err
		}
		if err := unix.Fdatasync(int(file.Fd())); err != nil {
			return 0, err
		}
		samples = append(samples, time.Since(start))
	}
	slices.Sort(samples)
	return samples[len(samples)/2].Round(time.Microsecond), nil
}
