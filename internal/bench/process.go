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

// usageOf reads /proc. Processes that have ended have no usage.
func usageOf(pid int) usage {
	var u usage
	if stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid)); err == nil {
		// The name in parentheses may hold anything; utime and stime are the 14th and 15th field.
		if at := bytes.LastIndexByte(stat, ')'); at >= 0 {
			fields := strings.Fields(string(stat[at+1:]))
			if len(fields) > 12 {
				user, _ := strconv.ParseInt(fields[11], 10, 64)
				system, _ := strconv.ParseInt(fields[12], 10, 64)
				u.cpu = time.Duration(user+system) * (time.Second / 100) // USER_HZ
			}
		}
	}
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
