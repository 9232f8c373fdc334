package opening

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/fail"
	"github.com/walferry/walferry/internal/online"
	"github.com/walferry/walferry/internal/session"
	"github.com/walferry/walferry/internal/wait"
)

// Gate tries what the opening of the target will run, and rolls it back: every held trigger and rule
// is there, may be enabled, and its lock can be had. What has gone is reported and will be left
// out. What acts on applied rows although it should not is held again, and the cutover refused: it
// may have changed the target.
func (t *Target) Gate(ctx context.Context, patience time.Duration, step func(string)) error {
	fresh, err := t.Hold(ctx)
	if err != nil {
		return err
	}
	if len(fresh) > 0 {
		var which []string
		for _, f := range fresh {
			which = append(which, f.Action.String())
		}
		return &fail.Error{Kind: fail.Gate, Problem: "on the target, what was to be disabled until the cutover was enabled or created meanwhile, and has acted on rows that were applied: " + catalog.List(which), Advice: "it is disabled now, and will be enabled as it was when the target opens; see by `walferry verify` whether it has changed anything, and ask again"}
	}
	return t.tryAll(ctx, patience, step)
}

// tryAll runs what the opening will run, and rolls it back: each statement works, and its lock can be
// had in the time given, or the error is a gate's. What has gone is reported and will be left out.
func (t *Target) tryAll(ctx context.Context, patience time.Duration, step func(string)) error {
	var statements []Statement
	var gone []Held
	err := t.Link.Do(ctx, func(conn *pgx.Conn) error {
		list, err := Recorded(ctx, conn, t.Migration)
		if err == nil {
			statements, gone, err = opens(ctx, conn, list)
		}
		return err
	})
	if err != nil {
		return err
	}
	for _, h := range gone {
		step(fmt.Sprintf("the target no longer has %s, which was to be enabled: it is left out", h))
	}
	deadline := time.Now().Add(patience)
	for len(statements) > 0 {
		n := 1
		for n < len(statements) && statements[n].Schema == statements[0].Schema && statements[n].Table == statements[0].Table {
			n++
		}
		err := t.try(ctx, time.Until(deadline), statements[:n], step)
		if err != nil {
			return err
		}
		statements = statements[n:]
	}
	return nil
}

var errTried = errors.New("it works")

// try tries the statements of one table.
func (t *Target) try(ctx context.Context, patience time.Duration, statements []Statement, step func(string)) error {
	first := statements[0]
	table := catalog.Name{Schema: first.Schema, Name: first.Table}.String()
	exclusive := slices.ContainsFunc(statements, func(s Statement) bool { return s.Exclusive })
	waits := func(error) {
		step(fmt.Sprintf("waiting for a lock of %s on the target, which its opening needs; held by %s", table, t.blockers(ctx, table, exclusive)))
	}
	err := t.Transaction(ctx, max(patience, time.Millisecond), waits, func(ctx context.Context, tx pgx.Tx) error {
		for _, s := range statements {
			if _, err := tx.Exec(ctx, s.SQL); err != nil {
				return fmt.Errorf("%s: %w", s.SQL, err)
			}
		}
		return errTried
	})
	switch {
	case errors.Is(err, errTried):
		return nil
	case ctx.Err() != nil || !catalog.LostLock(err):
		return fmt.Errorf("try what the opening of the target needs: %w", err)
	}
	return &fail.Error{Kind: fail.Gate, Problem: fmt.Sprintf("%s of the target cannot be locked, which its opening needs, to run %s; held by %s", table, first.SQL, t.blockers(ctx, table, exclusive)), Advice: "end those transactions on the target (pg_terminate_backend), and ask again"}
}

// Prepare enables what is held in a transaction, and leaves it open. It keeps trying until ctx
// ends, but nobody has to queue behind us for longer than a moment.
func (t *Target) Prepare(ctx context.Context, step func(string)) (*pgx.Conn, error) {
	pauses := wait.Pauses{First: 350 * time.Millisecond, Random: true}
	for told := false; ; {
		conn, err := online.Open(ctx, session.Config{DSN: t.DSN, Application: t.Migration + " open"})
		if err != nil {
			return nil, fmt.Errorf("prepare the opening of the target: %w", err)
		}
		at, err := enableAll(ctx, conn, t.Migration)
		if err == nil {
			return conn, nil
		}
		conn.Close(context.WithoutCancel(ctx)) //nolint:errcheck // which rolls everything back
		if at == nil || ctx.Err() == nil && !catalog.LostLock(err) {
			return nil, fmt.Errorf("prepare the opening of the target: %w", err)
		}
		table := catalog.Name{Schema: at.Schema, Name: at.Table}.String()
		if ctx.Err() != nil {
			return nil, fmt.Errorf("prepare the opening of the target: lock %s, held by %s: %w", table, t.blockers(ctx, table, at.Exclusive), err)
		}
		if !told {
			step(fmt.Sprintf("waiting for a lock of %s on the target, held by %s", table, t.blockers(ctx, table, at.Exclusive)))
		}
		told = true
		wait.Sleep(ctx, pauses.After(0)) //nolint:errcheck // the next attempt sees that ctx has ended, and reports what it would have needed
	}
}

// enableAll begins a transaction and enables what is held in it. It returns the error of a
// statement that failed.
func enableAll(ctx context.Context, conn *pgx.Conn, name string) (at *Statement, err error) {
	for _, sql := range []string{`begin`, lockTimeout} {
		if _, err := conn.Exec(ctx, sql); err != nil {
			return nil, err
		}
	}
	list, err := Recorded(ctx, conn, name)
	if err != nil {
		return nil, err
	}
	statements, _, err := opens(ctx, conn, list) // what has gone was reported before the fence
	if err != nil {
		return nil, err
	}
	for i := range statements {
		if _, err := conn.Exec(ctx, statements[i].SQL); err != nil {
			return &statements[i], fmt.Errorf("%s: %w", statements[i].SQL, err)
		}
	}
	return nil, nil
}

// left is what could not be enabled, and why.
type left struct {
	Held
	sql string
	err error
}

// sqlOf returns what enables what is left.
func sqlOf(left []left) (sql []string) {
	for _, l := range left {
		sql = append(sql, l.sql)
	}
	return sql
}

// eachPatience is the most that enabling one by one waits for locks altogether; after that it takes what is free.
const eachPatience = 10 * time.Second

// EnableEach enables what is held, each on its own, and records it. It returns the SQL of what it
// could not enable, and how that is recorded; with an error, the target could not be asked.
func (t *Target) EnableEach(ctx context.Context) (sql, recorded []string, err error) {
	rest, err := t.enableEach(ctx)
	if err != nil {
		return nil, nil, err
	}
	var list []Held
	for _, l := range rest {
		list = append(list, l.Held)
	}
	recorded, err = texts(list)
	return sqlOf(rest), recorded, err
}

func (t *Target) enableEach(ctx context.Context) (rest []left, err error) {
	began := time.Now()
	err = t.Link.Do(ctx, func(conn *pgx.Conn) error {
		list, err := Recorded(ctx, conn, t.Migration)
		if err != nil {
			return err
		}
		statements, gone, err := opens(ctx, conn, list)
		if err != nil {
			return err
		}
		for _, h := range gone {
			t.Logger.Warn("the target no longer has what was to be enabled", "action", h)
		}
		rest = nil
		for _, s := range statements {
			err := pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
				timeout := lockTimeout
				if time.Since(began) > eachPatience {
					timeout = `set local lock_timeout = '50ms'`
				}
				if _, err := tx.Exec(ctx, timeout); err != nil {
					return err
				}
				if _, err := tx.Exec(ctx, s.SQL); err != nil {
					return err
				}
				still := slices.DeleteFunc(slices.Clone(list), func(h Held) bool { return h.Kind == s.Held.Kind && h.OID == s.Held.OID && h.Name == s.Held.Name })
				if err := record(ctx, tx, t.Migration, still); err != nil {
					return err
				}
				list = still
				return nil
			})
			if err != nil && (conn.IsClosed() || ctx.Err() != nil) {
				return err
			}
			if err != nil {
				rest = append(rest, left{s.Held, s.SQL, err})
			}
		}
		return nil
	})
	return rest, err
}

// EnableRest keeps trying for a while to enable what the opening has left. What is left then stays
// recorded: status shows it, and migrate and cleanup try again.
func (t *Target) EnableRest(ctx context.Context, patience time.Duration) ([]string, error) {
	var rest []left
	var err error
	for end := time.Now().Add(patience); ; wait.Sleep(ctx, time.Second) { //nolint:errcheck // each attempt sees that ctx has ended
		if rest, err = t.enableEach(ctx); err == nil && len(rest) == 0 {
			return nil, nil
		}
		if ctx.Err() != nil || time.Now().After(end) {
			break
		}
	}
	if err != nil {
		return nil, fmt.Errorf("enable what was disabled on the target until the cutover: %w", err)
	}
	return sqlOf(rest), fmt.Errorf("%d triggers and rules of the target are still disabled: %s: %w", len(rest), rest[0].Held, rest[0].err)
}

// SQL returns what enables what is held.
func SQL(ctx context.Context, target *session.Link, name string) (sql []string, err error) {
	err = target.Do(ctx, func(conn *pgx.Conn) error {
		list, err := Recorded(ctx, conn, name)
		if err != nil {
			return err
		}
		statements, _, err := opens(ctx, conn, list)
		for _, st := range statements {
			sql = append(sql, st.SQL)
		}
		return err
	})
	return sql, err
}
