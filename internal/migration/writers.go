package migration

import (
	"context"
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

// waitForWriters returns when no transaction that writes is older than a second,
// or patience is over. The age of other roles' transactions is hidden from a role without
// pg_read_all_stats: those that are there at the beginning are waited for, whatever it is.
// With tell it says for whom it waits.
func (r *runner) waitForWriters(ctx context.Context, patience time.Duration, tell func(string)) error {
	type writer struct {
		online.Holder
		Transaction string
	}
	var hidden map[string]bool
	told := tell == nil
	for began := time.Now(); time.Since(began) < patience; {
		var all []writer
		err := r.source.Do(ctx, func(conn *pgx.Conn) error {
			rows, err := conn.Query(ctx, `
select `+online.HolderColumns+`, l.backend_xid::text
  from pg_stat_activity l join pg_stat_activity a on a.pid = l.pid
 where l.backend_xid is not null and l.pid <> pg_backend_pid()
 group by l.pid, l.backend_xid::text order by 4 desc`)
			if err != nil {
				return err
			}
			all, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (w writer, err error) {
				return w, row.Scan(&w.PID, &w.User, &w.Application, &w.Seconds, &w.State, &w.Query, &w.Transaction)
			})
			return err
		})
		if err != nil {
			return fmt.Errorf("look for open transactions: %w", err)
		}
		first := hidden == nil
		if first {
			hidden = map[string]bool{}
		}
		var old []online.Holder
		for _, w := range all {
			if first && w.Seconds < 0 {
				hidden[w.Transaction] = true
			}
			if w.Seconds > 1 || hidden[w.Transaction] {
				old = append(old, w.Holder)
			}
		}
		if len(old) == 0 {
			return nil
		}
		if !told && time.Since(began) > time.Second {
			told = true
			tell("waiting for transactions of the source that have written: " + online.List(old))
		}
		if err := wait.Sleep(ctx, 100*time.Millisecond); err != nil {
			return err
		}
	}
	return nil
}
