package snapshot

// Progress is how far a copy is.
type Progress struct {
	Tables, TablesDone int
	Pieces, PiecesDone int

	// Rows and StreamBytes are what was read from the source, by finished pieces and by those in hand.
	Rows        int64
	StreamBytes int64

	// BytesTotal is the size of all tables on the source, TOAST included, and
	// Bytes how much of that is done: by the same measure, so that it arrives at
	// BytesTotal when the copy does. It is an estimate, never shrinking unless a piece is repeated.
	Bytes, BytesTotal int64

	// Running are the tables that are being copied, the largest first.
	Running []TableProgress
}

// TableProgress is how far the copy of a table is; see Progress.
type TableProgress struct {
	Table              Table
	Pieces, PiecesDone int
	Rows               int64
	Bytes, BytesTotal  int64
}

// Progress tells how far Run is. It may be called at any time, from any goroutine.
func (c *Copier) Progress() Progress {
	c.mu.Lock()
	defer c.mu.Unlock()
	var p Progress
	for _, t := range c.tables {
		one := TableProgress{
			Table: t.Table, Pieces: len(t.bounds), PiecesDone: t.done, Rows: t.rows, BytesTotal: t.bytes,
		}
		stream := t.stream
		share := t.bytes / int64(len(t.bounds))
		one.Bytes = share * int64(t.done)
		for pipe := range t.running {
			rows, bytes := pipe.rows.Load(), pipe.bytes.Load()
			one.Rows += rows
			stream += bytes
			one.Bytes += min(bytes, share)
		}
		if t.done == len(t.bounds) {
			one.Bytes = t.bytes
			p.TablesDone++
		}
		p.Tables++
		p.Pieces += one.Pieces
		p.PiecesDone += one.PiecesDone
		p.Rows += one.Rows
		p.StreamBytes += stream
		p.Bytes += one.Bytes
		p.BytesTotal += one.BytesTotal
		if len(t.running) > 0 {
			p.Running = append(p.Running, one)
		}
	}
	return p
}
