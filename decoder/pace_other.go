//go:build !linux

package decoder

import (
	"net"
	"time"
)

// roundTrip is known on Linux only.
func roundTrip(*net.TCPConn) (time.Duration, bool) { return 0, false }

// lowWater only works on Linux: elsewhere everything that arrives is reported.
func lowWater(*net.TCPConn, int) {}
