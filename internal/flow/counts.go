package flow

import (
	"github.com/walferry/walferry/applier"
	"github.com/walferry/walferry/decoder"
	"github.com/walferry/walferry/internal/state"
)

// streamsNow adds up what the streams have counted; mu is held.
func (r *Running) streamsNow() decoder.Counts {
	c := r.before
	if r.stream != nil {
		now := r.stream.Counts()
		c.Bytes, c.Reconnects = c.Bytes+now.Bytes, c.Reconnects+now.Reconnects
		if now.FailedAt.After(c.FailedAt) {
			c.FailedAt = now.FailedAt
		}
	}
	return c
}

func counts(a applier.Counts, s decoder.Counts) *state.FlowCounts {
	return &state.FlowCounts{
		Inserts: a.Inserts, Updates: a.Updates, Deletes: a.Deletes, Truncates: a.Truncates,
		Groups: a.Groups, Delay: a.Delay, FailedGroups: a.FailedGroups,
		ReceivedBytes: s.Bytes, FromReconnects: s.Reconnects, ToReconnects: a.Reconnects,
		FromFailedAt: s.FailedAt, ToFailedAt: a.FailedAt,
	}
}
