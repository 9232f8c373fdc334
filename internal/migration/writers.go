package migration

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/decoder"
	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/cutover"
	"github.com/walferry/walferry/internal/online"
	"github.com/walferry/walferry/internal/wait"
)

// writerGates: nobody can change rows of the tables whom the fence does not see.
func (r *runner) writerGates(ctx context.Context, conn *pgx.Conn) error {
	fence, subscriptions, err := cutover.NewFence(ctx, conn, r.c.Name, r.tables)
	if err != nil {
		return err
	}
	var feeds, stop []string
	for _, s := range subscriptions {
		if s.Enabled {
			feeds = append(feeds, fmt.Sprintf("%s (into %s)", catalog.Quote(s.Name), list(s.Tables)))
			stop = append(stop, "`"+s.StopSQL()+"`")
		}
	}
	if len(feeds) > 0 {
		return &GateError{Problem: "the source has subscriptions that write to migrated tables, and would do so after the cutover: " + list(feeds), Advice: "on the source " + strings.Join(stop, ", ") + ", or drop them; then ask again: the publisher keeps what comes meanwhile, for a subscription of the target's"}
	}
	var above []string
	for _, p := range fence.Parents {
		if !p.OwnerLike {
			above = append(above, fmt.Sprintf("%s (of %s)", p, p.Owner))
		}
	}
	if len(above) > 0 {
		return &GateError{Problem: "a statement on a table that is not migrated would change rows of its children, which are, behind the fence: " + list(above), Advice: "walferry fences such parents, too, and must own them for it: make its role a member of their owner, or detach the children"}
	}
	return nil
}

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

// forFence is the part of a cutover's time that is kept for the fence. So long others are
// refused at most for the sake of a transaction that has written before.
func (o CutoverOptions) forFence() time.Duration {
	return min(max(5*time.Second, o.Timeout/4), o.Timeout/2)
}

// tooOld is the age of a writer with whom the fence is not closed at all: nobody knows how
// long he goes on, but that he has for so long (decision 025).
const tooOld = 5 * time.Second

// quietMoment waits, for a quarter of the time there is, until no transaction that has
// written is older than a second and the target is close: what would be waited for
// inside the fence is cheaper to wait for outside. For one of the tables that is tooOld it
// waits until what is left is the fence's time, and gives up.
func (s *switching) quietMoment(ctx context.Context) error {
	last := time.Now().Add(s.o.Timeout - s.o.forFence())
	if deadline, ok := ctx.Deadline(); ok {
		last = deadline.Add(-s.o.forFence())
	}
	for end := time.Now().Add(s.o.Timeout / 4); ; {
		if _, err := s.r.waitForWriters(ctx, time.Until(end), s.say); err != nil {
			return err
		}
		var waited *cutover.WaitError
		if err := s.fence.WaitForOld(ctx, s.conn, time.Second, end); err != nil && !errors.As(err, &waited) {
			return err
		}
		if err := s.fence.WaitForOld(ctx, s.conn, tooOld, last); errors.As(err, &waited) {
			return &GateError{
				Problem: waited.Problem + ": the fence would refuse everybody else for as long as they do",
				Advice:  waited.Hint() + "; or ask again with a longer --timeout, or when they have ended",
			}
		} else if err != nil {
			return err
		}
		lag, err := s.f.canary(ctx)
		if err != nil || lag < time.Second || time.Now().After(end) {
			return err
		}
	}
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
