package flow

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/slot"
)

// Retention watches the WAL that a flow's slot holds back on the server that it comes from.
type Retention struct {
	flow   *Flow
	limit  int64  // 0: none was given
	warned int64  // percent of the limit, or the doubled size without one
	status string // wal_status that was last reported
	rate   rate
}

// Retention watches the slot's WAL. limit is in bytes; with 0 the server's own counts, if it has
// one.
func (f *Flow) Retention(limit int64) *Retention { return &Retention{flow: f, limit: max(0, limit)} }

// Retained is what a slot holds back.
type Retained struct {
	Bytes, Limit int64   // without a limit it is 0
	Left         float64 // seconds until the limit, at the rate of now; -1: it does not grow, or there is no limit
}

// Look looks at the slot, and logs what the operator should know. ok: there is one that holds WAL
// back.
func (r *Retention) Look(ctx context.Context) (now Retained, ok bool, err error) {
	var info slot.Info
	var keep int64
	err = r.flow.From.Link.Do(ctx, func(conn *pgx.Conn) (err error) {
		if info, err = slot.Read(ctx, conn.PgConn(), r.flow.Name.Source().Slot); err != nil {
			return err
		}
		return conn.QueryRow(ctx, `
select (pg_current_wal_insert_lsn() - $1::text::pg_lsn)::int8,
       coalesce((select setting::int8 << 20 from pg_settings where name = 'max_slot_wal_keep_size'), -1)`, info.Restart.String()).Scan(&now.Bytes, &keep)
	})
	var missing *slot.Error
	switch {
	case errors.As(err, &missing):
		return now, false, nil // it is being made, or the stream reports it
	case err != nil:
		return now, false, err
	case info.Restart == 0:
		return now, false, nil
	}
	if info.WALStatus != r.status && (info.WALStatus == "unreserved" || info.WALStatus == "lost") {
		r.flow.Logger.Warn("the source may remove WAL that the slot needs, or has", "slot", info.Name, "wal_status", info.WALStatus, "retained_mb", now.Bytes>>20)
	}
	r.status = info.WALStatus

	now.Limit = r.limit
	if now.Limit == 0 && keep > 0 {
		now.Limit = keep // the server's own, at which it invalidates the slot
	}
	growth := r.rate.add(time.Now(), now.Bytes)
	now.Left = -1.0
	if now.Limit > 0 && growth > 0 {
		now.Left = max(0, float64(now.Limit-now.Bytes)/growth)
	}
	r.warn(now)
	return now, true, nil
}

// firstWarning is where warnings begin if there is no limit.
const firstWarning = 10 << 30

// warn reports each threshold once: half and four fifths of the limit, or, without one, 10 GB and
// each doubling of that.
func (r *Retention) warn(now Retained) {
	reached := int64(0)
	if now.Limit > 0 {
		for _, percent := range []int64{50, 80} {
			if now.Bytes >= now.Limit/100*percent {
				reached = percent
			}
		}
	} else {
		for size := int64(firstWarning); now.Bytes >= size; size *= 2 {
			reached = size
		}
	}
	if reached > r.warned {
		args := []any{"retained_mb", now.Bytes >> 20}
		if now.Limit > 0 {
			args = append(args, "limit_mb", now.Limit>>20)
		}
		if now.Left >= 0 {
			args = append(args, "left", time.Duration(now.Left*float64(time.Second)).Round(time.Second))
		}
		r.flow.Logger.Warn("the slot holds back WAL on the source", args...)
	}
	r.warned = reached
}

// rate is how fast something grows, over the last samples.
type rate struct {
	at    []time.Time
	value []int64
}

// rateSamples cover about five minutes at the usual heartbeat.
const rateSamples = 60

// add takes a sample, and returns the growth per second since the oldest that is kept.
func (r *rate) add(at time.Time, value int64) float64 {
	r.at, r.value = append(r.at, at), append(r.value, value)
	if len(r.at) > rateSamples {
		r.at, r.value = r.at[1:], r.value[1:]
	}
	seconds := at.Sub(r.at[0]).Seconds()
	if seconds <= 0 {
		return 0
	}
	return float64(value-r.value[0]) / seconds
}
