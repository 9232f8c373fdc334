package snapshot

import (
	"errors"
	"io"
	"math/rand/v2"
	"slices"
	"testing"
)

func TestCtidRanges(t *testing.T) {
	for _, test := range []struct {
		pages, n int64
		want     []string
	}{
		{2, 2, []string{"ctid < '(1,0)'", "ctid >= '(1,0)'"}},
		{10, 3, []string{"ctid < '(4,0)'", "ctid >= '(4,0)' and ctid < '(8,0)'", "ctid >= '(8,0)'"}},
		{5, 4, []string{"ctid < '(2,0)'", "ctid >= '(2,0)' and ctid < '(4,0)'", "ctid >= '(4,0)'"}}, // fewer than asked for
	} {
		if got := ctidRanges(test.pages, test.n); !slices.Equal(got, test.want) {
			t.Errorf("%d pages in %d: got %q, want %q", test.pages, test.n, got, test.want)
		}
	}
}

func TestPieceSize(t *testing.T) {
	for _, test := range []struct {
		total int64
		jobs  int
		want  int64
	}{
		{0, 4, 64 << 20}, {1 << 30, 4, 64 << 20}, {4 << 30, 4, 256 << 20}, {1 << 40, 4, 1 << 30},
	} {
		if got := pieceSize(test.total, test.jobs); got != test.want {
			t.Errorf("%d bytes, %d jobs: got %d, want %d", test.total, test.jobs, got, test.want)
		}
	}
}

// Whatever the sizes of the writes and of the reads, the bytes are the same; an end with an error
// is heard, and a reader that is gone stops nothing.
func TestPipe(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	broken := errors.New("broken")
	for _, ending := range []error{nil, broken} {
		p := newPipe(newSpare())
		var want []byte
		rows := make([][]byte, 1000)
		for i := range rows {
			size := random.IntN(2000)
			if i%200 == 0 {
				size = blockBytes + random.IntN(blockBytes)
			}
			rows[i] = make([]byte, size)
			for j := range rows[i] {
				rows[i][j] = byte(random.Uint32())
			}
			if size > 0 {
				rows[i][size-1] = '\n' // no trailer of the binary format
			}
			want = append(want, rows[i]...)
		}
		go func() {
			for _, row := range rows {
				p.Write(row)
			}
			p.end(ending)
		}()
		got, err := io.ReadAll(p)
		if !errors.Is(err, ending) {
			t.Errorf("got error %v, want %v", err, ending)
		}
		if ending == nil && string(got) != string(want) {
			t.Errorf("got %d bytes, want %d, or they differ", len(got), len(want))
		}
		if p.rows.Load() != int64(len(rows)) || p.bytes.Load() != int64(len(want)) {
			t.Errorf("counted %d rows, %d bytes", p.rows.Load(), p.bytes.Load())
		}
	}

	p := newPipe(newSpare())
	p.stopReading()
	for range 100 {
		p.Write(make([]byte, blockBytes))
	}
	p.end(nil)
}

// What COPY TO sends besides rows is none: the trailer of the binary format, which is a message of
// its own, or comes with the header where there is no row at all.
func TestPipe_CountsRows(t *testing.T) {
	header, trailer := "PGCOPY\n\xff\r\n\x00"+"\x00\x00\x00\x00\x00\x00\x00\x00", "\xff\xff"
	row := "\x00\x01\x00\x00\x00\x04\x00\x00\xff\xff"
	for name, c := range map[string]struct {
		messages []string
		want     int64
	}{
		"binary":       {[]string{header + row, row, trailer}, 2},
		"binary empty": {[]string{header + trailer}, 0},
		"text":         {[]string{"1\n", "\n", "23456789012345678901\n"}, 3},
	} {
		p := newPipe(newSpare())
		for _, m := range c.messages {
			p.Write([]byte(m))
		}
		if got := p.rows.Load(); got != c.want {
			t.Errorf("%s: counted %d rows, want %d", name, got, c.want)
		}
	}
}
