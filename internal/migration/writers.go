package migration

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/decoder"
	"github.com/walferry/walferry/internal/online"
	"github.com/walferry/walferry/internal/wait"
)

// watched is the stream on its way to the applier. It remembers the last transaction that
// changed a migrated table, and sees the beats.
type watched struct {
	*decoder.Stream
	f *following
}

// Next is the stream's.
func (w *watched) Next(ctx context.Context) (*decoder.Tx, error) {
	tx, err := w.Stream.Next(ctx)
	if err == nil {
		w.f.beats.saw(tx)
		if table := written(tx); table != nil {
			w.f.mu.Lock()
			w.f.writtenAt, w.f.written = tx.CommitLSN, table
			w.f.mu.Unlock()
		}
	}
	return tx, err
}

// written is a table that a transaction has changed, and that is not of ours.
func written(tx *decoder.Tx) *decoder.Relation {
	for i := range tx.Changes {
		if c := &tx.Changes[i]; c.Op == decoder.Truncate {
			if len(c.Truncated) > 0 {
				return c.Truncated[0]
			}
		} else if c.Relation.Namespace != "walferry" {
			return c.Relation
		}
	}
	return nil
}

// passed tells whether somebody has passed the fence whose position is given: the stream has
// every change of the tables that it publishes, whoever made it and by what way, and after
// that position it must have none. A beat that was written before has come through: what
// committed before it is seen.
func (f *following) passed(position decoder.LSN) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.written == nil || f.writtenAt < position {
		return nil
	}
	return &GateError{Problem: fmt.Sprintf("somebody has passed the fence: %s was changed at %s, and every write was to be before %s",
		f.written.Table().String(), f.writtenAt, position), Advice: "find out who disabled the fence's trigger, or writes beside statements (a subscription, an extension); nothing is lost: the change is on the target, too. Then ask again"}
}

// openWriter is a transaction of the source that has written, or a prepared one.
type openWriter struct {
	online.Holder
	Transaction string
}

// waitForWriters returns when no transaction that writes is older than a second,
// or patience is over: then with those that were there all the time. The age of other roles' transactions is hidden
// from a role without pg_read_all_stats: those that are there at the beginning are waited for, whatever it is.
// With tell it says for whom it waits.
func (r *runner) waitForWriters(ctx context.Context, patience time.Duration, tell func(string)) (stayed []online.Holder, err error) {
	var first map[string]bool // of the beginning
	told := tell == nil
	for began := time.Now(); time.Since(began) < patience; {
		all, err := r.openWriters(ctx)
		if err != nil {
			return nil, err
		}
		if first == nil {
			first = map[string]bool{}
			for _, w := range all {
				first[w.Transaction] = true
			}
		}
		var old []online.Holder
		stayed = nil
		for _, w := range all {
			if w.Seconds > 1 || w.Seconds < 0 && first[w.Transaction] {
				old = append(old, w.Holder)
				if first[w.Transaction] {
					stayed = append(stayed, w.Holder)
				}
			}
		}
		if len(old) == 0 {
			return nil, nil
		}
		if !told && time.Since(began) > time.Second {
			told = true
			tell("waiting for transactions of the source that have written: " + online.List(old))
		}
		if err := wait.Sleep(ctx, 100*time.Millisecond); err != nil {
			return nil, err
		}
	}
	return stayed, nil
}

// openWriters lists the transactions that a new slot would wait for, of all databases, the oldest first.
func (r *runner) openWriters(ctx context.Context) (all []openWriter, err error) {
	err = r.source.Do(ctx, func(conn *pgx.Conn) error {
		rows, err := conn.Query(ctx, `
select `+online.HolderColumns+`, l.backend_xid::text
  from pg_stat_activity l join pg_stat_activity a on a.pid = l.pid
 where l.backend_xid is not null and l.pid <> pg_backend_pid()
 group by l.pid, l.backend_xid::text
 union all
select 0, '', '', extract(epoch from clock_timestamp() - prepared)::float8, '', '', transaction::text from pg_prepared_xacts
 order by 4 desc`)
		if err != nil {
			return err
		}
		all, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (w openWriter, err error) {
			return w, row.Scan(&w.PID, &w.User, &w.Application, &w.Seconds, &w.State, &w.Query, &w.Transaction)
		})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("look for open transactions: %w", err)
	}
	return all, nil
}

// clearWay returns when the applier can be held for no more than a moment: no old transaction of the source has
// written, for which the temporary slot would wait, and nobody holds a lock on the target that the
// applier waits for. Who stays for as long as patience is named in a *GateError.
func (r *runner) clearWay(ctx context.Context, patience time.Duration, tell func(string)) error {
	stayed, err := r.waitForWriters(ctx, patience, tell)
	if err != nil {
		return err
	}
	if len(stayed) > 0 {
		return &GateError{
			Problem: "the snapshot of the source has to wait for transactions that have written, and they do not end: " + online.List(stayed),
			Advice:  "the applier was not held for them. On the source, " + online.EndHint(stayed) + "; then again",
		}
	}
	for began, told := time.Now(), false; ; {
		holders := r.inApplierWay(ctx)
		switch {
		case len(holders) == 0:
			return nil
		case time.Since(began) > patience:
			return &GateError{
				Problem: "the applier waits for a lock on the target, held by " + online.List(holders),
				Advice:  "on the target, " + online.EndHint(holders) + "; then again",
			}
		case !told && time.Since(began) > time.Second:
			told = true
			tell("the applier waits for a lock on the target, held by " + online.List(holders))
		}
		if err := wait.Sleep(ctx, 100*time.Millisecond); err != nil {
			return err
		}
	}
}
