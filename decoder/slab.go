package decoder

const (
	chunkBytes  = 256 << 10
	leastValues = 64
	mostValues  = 8 << 10 // of 32 bytes each: as much as chunkBytes
)

// slab allocates memory for messages and values from chunks that many small transactions share, so
// that decoding allocates per chunk and not per column.
//
// A chunk lives as long as anything in it does. So that a small slice never keeps much more than
// itself alive, the chunk of values is abandoned after chunkBytes of messages: together they span a
// few chunks, and one message larger than that.
type slab struct {
	messages []byte  // what is left of the chunk
	free     []Value // what is left of the chunk
	spent    int     // bytes of messages since the chunk of values was begun
	used     int     // values of the chunk in use
	turn     int     // how often a chunk of values was abandoned
}

// copy returns a copy of msg that remains valid.
func (s *slab) copy(msg []byte) []byte {
	n := len(msg)
	s.spent += n
	if s.spent > chunkBytes {
		s.spent, s.free = n, nil
		s.turn++
	}
	if n > chunkBytes/4 {
		return append(make([]byte, 0, n), msg...)
	}
	if n > len(s.messages) {
		s.messages = make([]byte, chunkBytes)
	}
	kept := s.messages[:n:n]
	s.messages = s.messages[n:]
	copy(kept, msg)
	return kept
}

// values returns n zero values, never nil.
func (s *slab) values(n int) []Value {
	if n == 0 {
		return []Value{}
	}
	if n > len(s.free) {
		size := s.used // as many as the abandoned chunk was used for,
		if s.free != nil {
			size *= 2 // or more if the chunk is full
		}
		s.free, s.used = make([]Value, max(n, leastValues, min(size, mostValues))), 0
	}
	s.used += n
	values := s.free[:n:n]
	s.free = s.free[n:]
	return values
}
