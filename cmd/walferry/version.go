package main

import (
	"fmt"
	"runtime"
	"runtime/debug"
	"strings"
)

// These are set by the linker: -ldflags "-X main.version=v1.2.3 -X main.commit=... -X main.date=...". What is empty is read from
// what Go records of a build in a checkout.
var version, commit, date string

// toolVersion is the version, or the commit of a build without one.
func toolVersion() string {
	if version != "" {
		return version
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	if info.Main.Version != "" && info.Main.Version != "(devel)" {
		return info.Main.Version
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" && len(s.Value) >= 12 {
			return s.Value[:12]
		}
	}
	return "devel"
}

// longVersion has the commit and its date, too.
func longVersion() string {
	commit, date := commit, date
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			switch {
			case s.Key == "vcs.revision" && commit == "":
				commit = s.Value
			case s.Key == "vcs.time" && date == "":
				date = s.Value
			}
		}
	}
	about := []string{}
	if commit != "" {
		about = append(about, "commit "+commit[:min(len(commit), 12)])
	}
	if date != "" {
		about = append(about, date)
	}
	about = append(about, runtime.Version(), runtime.GOOS+"/"+runtime.GOARCH)
	return fmt.Sprintf("walferry %s (%s)", toolVersion(), strings.Join(about, ", "))
}
