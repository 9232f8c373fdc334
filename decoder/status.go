package decoder

import (
	"encoding/binary"
	"time"
)

// status is what we have reported to the source.
//
// Invariant: flush <= write, and neither goes back: on servers before the minor releases of August
// 2025 the slot follows a flush position backwards.
type status struct {
	write LSN // received
	flush LSN // durable at the consumer; only this one moves the slot
}

// advance advances the positions to received and acked.
func (s *status) advance(received, acked LSN) {
	s.flush = max(s.flush, acked)
	s.write = max(s.write, received, s.flush)
}

// appendTo appends a standby status update, wrapped as CopyData:
// https://www.postgresql.org/docs/current/protocol-replication.html
//
// All three positions are set. A library that treats a zero flush or apply as "the same as write"
// would confirm what is merely received.
func (s *status) appendTo(dst []byte, now time.Time, reply bool) []byte {
	const body = 1 + 8 + 8 + 8 + 8 + 1
	dst = append(dst, 'd')
	dst = binary.BigEndian.AppendUint32(dst, 4+body)
	dst = append(dst, 'r')
	dst = binary.BigEndian.AppendUint64(dst, uint64(s.write))
	dst = binary.BigEndian.AppendUint64(dst, uint64(s.flush))
	dst = binary.BigEndian.AppendUint64(dst, uint64(s.flush)) // applied is durable at once
	dst = binary.BigEndian.AppendUint64(dst, uint64(now.UnixMicro()-epoch))
	if reply {
		return append(dst, 1)
	}
	return append(dst, 0)
}
