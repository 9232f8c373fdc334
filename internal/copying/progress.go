package copying

import (
	"slices"
	"time"

	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/state"
	"github.com/walferry/walferry/snapshot"
)

// Progress returns how far the copy is, and which tables are being copied; ok: it was begun in this
// run.
func (c *Copy) Progress() (all state.CopyStatus, running []snapshot.TableProgress, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.copiers) == 0 {
		return all, nil, false
	}
	var p snapshot.Progress
	for _, copier := range c.copiers {
		one := copier.Progress()
		p.Tables, p.TablesDone = p.Tables+one.Tables, p.TablesDone+one.TablesDone
		p.Pieces, p.PiecesDone = p.Pieces+one.Pieces, p.PiecesDone+one.PiecesDone
		p.Rows, p.Bytes, p.BytesTotal = p.Rows+one.Rows, p.Bytes+one.Bytes, p.BytesTotal+one.BytesTotal
		p.Running = append(p.Running, one.Running...)
	}
	return copyStatus(p, time.Since(c.began)), p.Running, true
}

// Indexes returns how many tables have theirs, and which are copied and wait for that; ok: they were begun in this run.
func (c *Copy) Indexes() (s state.IndexStatus, waiting []catalog.Name, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.indexes == nil {
		return s, nil, false
	}
	return *c.indexes, slices.Clone(c.indexing), true
}

func copyStatus(p snapshot.Progress, elapsed time.Duration) state.CopyStatus {
	s := state.CopyStatus{
		Tables: p.Tables, TablesDone: p.TablesDone, Pieces: p.Pieces, PiecesDone: p.PiecesDone,
		Rows: p.Rows, Bytes: p.Bytes, BytesTotal: p.BytesTotal,
	}
	if left := s.BytesTotal - s.Bytes; s.TablesDone < s.Tables && s.Bytes > 0 && left > 0 {
		eta := elapsed.Seconds() * float64(left) / float64(s.Bytes)
		s.ETASeconds = &eta
	}
	return s
}
