package web

import (
	"time"

	"github.com/walferry/walferry/internal/state"
	"github.com/walferry/walferry/internal/status"
)

// historyLength is how far the charts go back.
const historyLength = 2 * time.Hour

// point is what the charts show of a moment; nil: it was not known.
type point struct {
	at           time.Time
	lagSeconds   *float64
	lagBytes     *int64
	retained     *int64
	limit        *int64
	transactions int64
	changes      int64
	copied       int64
}

// history are the points of the last two hours.
type history struct{ points []point }

func (h *history) add(at time.Time, st *status.Status) {
	stream, retained, limit := st.Stream, st.Source.RetainedBytes, st.Source.RetainedLimit
	if st.Phase == state.Switched {
		stream, retained, limit = st.WayBack.Stream, st.WayBack.RetainedBytes, st.WayBack.RetainedLimit
	}
	h.points = append(h.points, point{
		at, stream.LagSeconds, stream.LagBytes, retained, limit, stream.Transactions, stream.Changes, st.Copy.Bytes,
	})
	old := 0
	for old < len(h.points) && at.Sub(h.points[old].at) > historyLength {
		old++
	}
	h.points = h.points[old:]
}

// columns is the history as columns, for a chart.
type columns struct {
	At           []float64  `json:"at"` // seconds since 1970
	LagSeconds   []*float64 `json:"lag_seconds"`
	LagBytes     []*int64   `json:"lag_bytes"`
	Retained     []*int64   `json:"retained_bytes"`
	Limit        []*int64   `json:"retained_limit_bytes"`
	Transactions []int64    `json:"transactions"`
	Changes      []int64    `json:"changes"`
	Copied       []int64    `json:"copied_bytes"`
}

func (h *history) columns() (c columns) {
	for _, p := range h.points {
		c.At = append(c.At, float64(p.at.UnixMilli())/1000)
		c.LagSeconds, c.LagBytes = append(c.LagSeconds, p.lagSeconds), append(c.LagBytes, p.lagBytes)
		c.Retained, c.Limit = append(c.Retained, p.retained), append(c.Limit, p.limit)
		c.Transactions, c.Changes, c.Copied = append(c.Transactions, p.transactions), append(c.Changes, p.changes), append(c.Copied, p.copied)
	}
	return c
}

// catchUpOver is the time over which a lag is seen to shrink.
const catchUpOver = time.Minute

// catchUp returns how many seconds a lag of bytes still takes at the rate at which it has shrunk in the last minute; nil: it has not, or it is
// not known.
func (h *history) catchUp() *float64 {
	n := len(h.points)
	if n == 0 || h.points[n-1].lagBytes == nil {
		return nil
	}
	last, first := h.points[n-1], h.points[n-1]
	for i := n - 1; i >= 0 && h.points[i].lagBytes != nil && last.at.Sub(h.points[i].at) <= catchUpOver; i-- {
		first = h.points[i]
	}
	passed, shrunk := last.at.Sub(first.at).Seconds(), float64(*first.lagBytes-*last.lagBytes)
	if passed <= 0 || shrunk <= 0 {
		return nil
	}
	left := passed * float64(*last.lagBytes) / shrunk
	return &left
}
