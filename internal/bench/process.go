package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// usage is what a process has taken of the machine. The zero value: it is not known.
type usage struct {
	cpu time.Duration
	rss int64 // the most memory it had at a time, in bytes
}

// usageAfter is that of a process that has ended.
func usageAfter(cmd *exec.Cmd) usage {
	u := usage{cpu: cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()}
	if r, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage); ok {
		u.rss = r.Maxrss << 10 // kilobytes, on Linux
	}
	return u
}

// cpuOf reads /proc: the processor time of a process, and of its children that have ended; zero
// when it has ended itself.
func cpuOf(pid int) (own, children time.Duration) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, 0
	}
	// The name in parentheses may hold anything; utime is the 14th field, stime, cutime and cstime
	// follow.
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	if len(fields) < 15 {
		return 0, 0
	}
	ticks := func(field int) time.Duration {
		n, _ := strconv.ParseInt(fields[field], 10, 64)
		return time.Duration(n) * (time.Second / 100) // USER_HZ
	}
	return ticks(11) + ticks(12), ticks(13) + ticks(14)
}

// usageOf reads /proc. Processes that have ended have no usage.
func usageOf(pid int) usage {
	var u usage
	u.cpu, _ = cpuOf(pid)
	if status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid)); err == nil {
		for line := range strings.Lines(string(status)) {
			if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
				kb, _ := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
				u.rss = kb << 10
			}
		}
	}
	return u
}
