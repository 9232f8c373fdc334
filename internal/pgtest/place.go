package pgtest

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// memoryDir is a file system in memory that every Linux has.
const memoryDir = "/dev/shm"

// tempDir makes a folder that belongs to the account, in memory if possible and not unwanted. Its
// path is short, because a unix socket's path must fit in about 100 bytes.
func (a account) tempDir(onDisk bool) (string, error) {
	parent := os.TempDir()
	if len(parent) > 60 || !a.canReach(filepath.Join(parent, "x")) {
		parent = "/tmp"
	}
	// A server is a thousand files, a database three hundred. Creating that many where others were
	// just deleted takes ext4 seconds: it looks at each inode that was freed lately and passes it
	// over. Who sets TMPDIR has decided.
	if !onDisk && os.Getenv("TMPDIR") == "" && memoryToSpare() {
		parent = memoryDir
	}
	dir, err := os.MkdirTemp(parent, "walferry-pg-")
	if err != nil {
		return "", err
	}
	if dir, err = filepath.EvalSymlinks(dir); err != nil {
		return "", err
	}
	return dir, a.own(dir)
}

// memoryToSpare reports whether several servers with their WAL fit in memory.
func memoryToSpare() bool {
	const enough = 6 << 30
	var fs syscall.Statfs_t
	if syscall.Statfs(memoryDir, &fs) != nil || uint64(fs.Bavail)*uint64(fs.Bsize) < enough {
		return false // a container often gets 64 MB
	}
	return Memory("MemAvailable") >= enough
}

// Memory is a line of Linux's /proc/meminfo, such as MemTotal, in bytes. Zero: it is not known.
func Memory(name string) uint64 {
	info, err := os.Open("/proc/meminfo")
	if err != nil {
		return 0
	}
	defer info.Close()
	for lines := bufio.NewScanner(info); lines.Scan(); {
		if rest, ok := strings.CutPrefix(lines.Text(), name+":"); ok {
			var kB uint64
			if _, err := fmt.Sscan(rest, &kB); err != nil {
				return 0
			}
			return kB << 10
		}
	}
	return 0
}
