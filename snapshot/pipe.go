package snapshot

import (
	"bytes"
	"io"
	"sync"
	"sync/atomic"
)

// The source sends one message per row; the target takes large ones.
const (
	blockBytes = 256 << 10
	blocks     = 4 // at most, for each worker
)

// pipe carries the bytes of one piece from the goroutine that reads the source to the one that
// writes the target.
type pipe struct {
	full    chan []byte   // written, not yet read
	spare   chan []byte   // read, to be written again
	closed  chan struct{} // by the reader: nothing is read any more
	closing sync.Once

	block []byte // being written
	rest  []byte // being read, a tail of held
	held  []byte
	err   error // why the writing ended; valid once full is closed

	rows, bytes atomic.Int64 // of what was written, for progress
}

// newPipe makes a pipe. Its blocks come from spare, and go back there.
func newPipe(spare chan []byte) *pipe {
	return &pipe{full: make(chan []byte, blocks-2), spare: spare, closed: make(chan struct{})}
}

// newSpare makes a channel of blocks to be reused by the next pipe: a small table does not need new
// ones.
func newSpare() chan []byte { return make(chan []byte, blocks) }

// Write takes the bytes of a row. After stopReading it discards them: an error would make pgconn
// close the source's connection, and with it the snapshot.
func (p *pipe) Write(row []byte) (int, error) {
	if !noRow(row) {
		p.rows.Add(1)
	}
	p.bytes.Add(int64(len(row)))
	if len(p.block)+len(row) > cap(p.block) && len(p.block) > 0 {
		p.pass()
	}
	if p.block == nil {
		p.block = p.take()
	}
	p.block = append(p.block, row...) // a row larger than a block makes it grow
	return len(row), nil
}

// binaryHeader is the length of the header of binary COPY, which is sent with the first row; the
// trailer is a message of its own, or is sent with the header if there are no rows.
const binaryHeader = 19

// noRow reports whether a message of COPY TO only has the trailer of the binary format. In the text
// format a row ends with a newline.
func noRow(message []byte) bool {
	return (len(message) == 2 || len(message) == binaryHeader+2) && bytes.HasSuffix(message, []byte{0xff, 0xff})
}

func (p *pipe) take() []byte {
	select {
	case block := <-p.spare:
		return block[:0]
	default:
		return make([]byte, 0, blockBytes)
	}
}

func (p *pipe) pass() {
	select {
	case p.full <- p.block:
	case <-p.closed:
	}
	p.block = nil
}

// end ends the writing: everything was written if err is nil, otherwise err is why not.
func (p *pipe) end(err error) {
	if len(p.block) > 0 && err == nil {
		p.pass()
	}
	p.err = err
	close(p.full)
}

// Read implements io.Reader.
func (p *pipe) Read(b []byte) (int, error) {
	if len(p.rest) == 0 {
		if cap(p.held) == blockBytes { // a block that grew is left to the garbage collector
			select {
			case p.spare <- p.held:
			default:
			}
		}
		p.held = nil
		block, ok := <-p.full
		if !ok {
			if p.err != nil {
				return 0, p.err
			}
			return 0, io.EOF
		}
		p.held, p.rest = block, block
	}
	n := copy(b, p.rest)
	p.rest = p.rest[n:]
	return n, nil
}

// stopReading makes Write discard what follows.
func (p *pipe) stopReading() { p.closing.Do(func() { close(p.closed) }) }
