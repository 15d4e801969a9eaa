package main

import (
	"fmt"
	"io"
	"runtime"
	"runtime/debug"

	"github.com/upkeep-kv/upkeep/server"
)

type versionInfo struct{ program, api, gitSHA, goVersion, platform string }

func versions() versionInfo {
	v := versionInfo{
		program: server.Version, api: server.APIVersion, gitSHA: "Not provided (built without version control)",
		goVersion: runtime.Version(), platform: runtime.GOOS + "/" + runtime.GOARCH,
	}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				v.gitSHA = s.Value[:min(len(s.Value), 9)]
			}
		}
	}
	return v
}

// writeVersion prints the lines that etcd --version prints, so that scripts find what they look for, and our own.
func writeVersion(w io.Writer) {
	v := versions()
	fmt.Fprintf(w, "etcd Version: %s\nGit SHA: %s\nGo Version: %s\nGo OS/Arch: %s\nUpkeep Version: %s\n",
		v.api, v.gitSHA, v.goVersion, v.platform, v.program)
}
