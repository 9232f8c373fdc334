package decoder

const (
	chunkBytes  = 256 << 10
	leastValues = 64
	mostValues  = 8 << 10 // of 32 bytes each: as much as chunkBytes
)

// slab hands out memory for messages and values from chunks that many small
// transactions share, so that decoding allocates by chunk and not by column.
//
// A chunk lives as long as one of its parts does. So that a small part never keeps
// much more than itself alive, the values' chunk is given up when chunkBytes of
// messages have gone by: together they hold a few chunks, and one message larger
// than that.
type slab struct {
	messages []byte  // what is left of the chunk
	free     []Value // what is left of the chunk
	spent    int     // bytes of messages since the chunk of values was begun
	used     int     // values of the chunk that are in use
	turn     int     // how often a chunk of values was given up
}

// copy returns msg in memory that stays.
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
		size := s.used // as many as the chunk that was given up was good for,
		if s.free != nil {
			size *= 2 // or more than those of the chunk that is full
		}
		s.free, s.used = make([]Value, max(n, leastValues, min(size, mostValues))), 0
	}
	s.used += n
	values := s.free[:n:n]
	s.free = s.free[n:]
	return values
}
