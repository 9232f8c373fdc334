package flow

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/internal/fail"
	"github.com/walferry/walferry/internal/online"
	"github.com/walferry/walferry/internal/session"
	"github.com/walferry/walferry/internal/wait"
)

// openWriter is a transaction of the source that has written, or a prepared one.
type openWriter struct {
	online.Holder
	Transaction string
}

// awaitWriters returns once no transaction that writes is older than a second, or patience is over:
// then with those that were there all the time. The age of other roles' transactions is hidden from
// a role without pg_read_all_stats: those that are there at the beginning are waited for, whatever
// it is. called is what people call the server; tell, which may be nil, is told whom it waits for.
func awaitWriters(ctx context.Context, source *session.Link, called string, patience time.Duration, tell online.Waits) (stayed []online.Holder, err error) {
	var first map[string]bool // at the beginning
	told := false
	for began := time.Now(); time.Since(began) < patience; {
		all, err := openWriters(ctx, source)
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
		if tell != nil && time.Since(began) > time.Second {
			tell(online.Wait{For: "waiting for transactions of the " + called + " that have written: ", Holders: old}, !told)
			told = true
		}
		if err := wait.Sleep(ctx, 100*time.Millisecond); err != nil {
			return nil, err
		}
	}
	return stayed, nil
}

// openWriters lists the transactions that a new slot would wait for, of all databases, oldest
// first.
func openWriters(ctx context.Context, source *session.Link) (all []openWriter, err error) {
	err = source.Do(ctx, func(conn *pgx.Conn) error {
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

// ClearWay returns once the applier would be held for no more than a moment: no old transaction of
// the source has written, which the temporary slot would wait for, and nobody holds a lock on the
// target that the applier waits for. What stays for as long as patience is named in the error,
// which is a gate's.
func (f *Flow) ClearWay(ctx context.Context, patience time.Duration, tell online.Waits) error {
	from, to := f.Name.Sides().From(), f.Name.Sides().To()
	stayed, err := awaitWriters(ctx, f.From.Link, from, patience, tell)
	if err != nil {
		return err
	}
	if len(stayed) > 0 {
		return &fail.Error{
			Kind:    fail.Gate,
			Problem: "the snapshot of the " + from + " has to wait for transactions that have written, and they do not end: " + online.List(stayed),
			Advice:  "the applier was not held for them. On the " + from + ", " + online.EndHint(stayed) + "; then ask again",
		}
	}
	for began, told := time.Now(), false; ; {
		holders := f.InApplierWay(ctx)
		switch {
		case len(holders) == 0:
			return nil
		case time.Since(began) > patience:
			return &fail.Error{
				Kind:    fail.Gate,
				Problem: "the applier waits for a lock on the " + to + ", held by " + online.List(holders),
				Advice:  "on the " + to + ", " + online.EndHint(holders) + "; then ask again",
			}
		case time.Since(began) > time.Second:
			tell(online.Wait{For: "the applier waits for a lock on the " + to + ", held by ", Holders: holders}, !told)
			told = true
		}
		if err := wait.Sleep(ctx, 100*time.Millisecond); err != nil {
			return err
		}
	}
}
