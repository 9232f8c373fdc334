package decoder

import (
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// roundTrip is the kernel's estimate for a connection.
func roundTrip(c *net.TCPConn) (rtt time.Duration, ok bool) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, false
	}
	err = raw.Control(func(fd uintptr) {
		if info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO); err == nil {
			rtt, ok = time.Duration(info.Rtt)*time.Microsecond, true
		}
	})
	return rtt, ok && err == nil
}
