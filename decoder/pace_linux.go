package decoder

import (
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// roundTrip returns the kernel's estimate for a connection.
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

// lowWater sets how many bytes must have arrived to be reported, SO_RCVLOWAT in
// https://man7.org/linux/man-pages/man7/socket.7.html. The kernel caps it at the socket's window.
func lowWater(c *net.TCPConn, bytes int) {
	raw, err := c.SyscallConn()
	if err != nil {
		return
	}
	raw.Control(func(fd uintptr) { //nolint:errcheck // it only makes reading slower
		unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVLOWAT, bytes) //nolint:errcheck // as above
	})
}
