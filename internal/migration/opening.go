package migration

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/online"
	"github.com/walferry/walferry/internal/schema"
	"github.com/walferry/walferry/internal/session"
	"github.com/walferry/walferry/internal/wait"
)

// replicaRole tells whether the target's role may set session_replication_role,
// so that neither ordinary triggers nor foreign keys act on what is applied.
func (r *runner) replicaRole(ctx context.Context) (may bool, err error) {
	err = r.target.Do(ctx, func(conn *pgx.Conn) error {
		tx, err := conn.Begin(ctx)
		if err != nil {
			return err
		}
		defer tx.Rollback(context.WithoutCancel(ctx)) //nolint:errcheck // that is the point
		_, err = tx.Exec(ctx, `set local session_replication_role = replica`)
		may = err == nil
		return nil
	})
	return may, err
}

// postData brings foreign keys, triggers and the rest of the schema. A role that
// may not set session_replication_role gets its foreign keys in the cutover: their
// cascades would act on what the stream brings as well.
func (r *runner) postData(ctx context.Context) error {
	dump, err := r.archive(ctx)
	if err != nil {
		return err
	}
	may, err := r.replicaRole(ctx)
	if err != nil {
		return err
	}
	var refused []schema.Refused
	if may {
		r.step("create and validate the foreign keys")
		if refused, err = schema.Refusals(dump.ForeignKeys(ctx, r.c.Target, r.c.Jobs)); err != nil {
			return err
		}
	}
	r.step("create triggers, policies, privileges and the rest; fill materialized views")
	conn, err := online.Open(ctx, session.Config{DSN: r.c.Target, Application: r.c.Name + " schema"})
	if err != nil {
		return err
	}
	defer func() { conn.Close(context.WithoutCancel(ctx)) }()
	report, err := dump.Finish(ctx, conn)
	r.tell(report)
	more, err := schema.Refusals(err)
	if err != nil {
		return err
	}
	return r.keepRefused(ctx, conn, distinctRefused(slices.Concat(report.Refused, refused, more)))
}

// dropLateForeignKeys undoes lateForeignKeys, for a cutover that was not finished.
func (r *runner) dropLateForeignKeys(ctx context.Context) error {
	if r.c.Schema == "none" {
		return nil
	}
	may, err := r.replicaRole(ctx)
	if err != nil || may {
		return err
	}
	names := make([]string, len(r.tables))
	for i := range r.tables {
		names[i] = r.tables[i].String()
	}
	list, _, err := unvalidated(ctx, r.target, r.store)
	if err == nil && len(list) > 0 {
		err = r.target.Exec(ctx, `delete from walferry.validation where migration = $1`, r.c.Name)
	}
	if err != nil {
		return err
	}
	return r.target.Do(ctx, func(conn *pgx.Conn) error {
		rows, err := conn.Query(ctx, `
select format('alter table %s drop constraint if exists %I', t.name, c.conname)
  from unnest($1::text[]) as t(name) join pg_constraint c on c.conrelid = to_regclass(t.name)
 where c.contype = 'f' and c.coninhcount = 0`, names)
		if err != nil {
			return fmt.Errorf("look for foreign keys on the target: %w", err)
		}
		drops, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			return fmt.Errorf("look for foreign keys on the target: %w", err)
		}
		for _, sql := range drops {
			if _, err := conn.Exec(ctx, sql); err != nil {
				return fmt.Errorf("drop a foreign key until the next cutover: %w", err)
			}
		}
		return nil
	})
}

// prepareOpening enables in a transaction what is held, and leaves it open. It goes on until ctx
// ends, but nobody has to queue behind us for longer than a moment.
func (r *runner) prepareOpening(ctx context.Context, step func(string)) (*pgx.Conn, error) {
	pauses := wait.Pauses{First: 350 * time.Millisecond, Random: true}
	for told := false; ; {
		conn, err := online.Open(ctx, session.Config{DSN: r.c.Target, Application: r.c.Name + " open"})
		if err != nil {
			return nil, fmt.Errorf("prepare the opening of the target: %w", err)
		}
		at, err := enableAll(ctx, conn, r.c.Name)
		if err == nil {
			return conn, nil
		}
		conn.Close(context.WithoutCancel(ctx)) //nolint:errcheck // which takes everything back
		if at == nil || ctx.Err() == nil && !catalog.LostLock(err) {
			return nil, fmt.Errorf("prepare the opening of the target: %w", err)
		}
		table := catalog.Name{Schema: at.Schema, Name: at.Table}.String()
		if ctx.Err() != nil {
			return nil, fmt.Errorf("prepare the opening of the target: lock %s, held by %s: %w", table, r.blockers(ctx, table, at.exclusive), err)
		}
		if !told {
			step(fmt.Sprintf("waiting for a lock of %s on the target, held by %s", table, r.blockers(ctx, table, at.exclusive)))
		}
		told = true
		wait.Sleep(ctx, pauses.After(0)) //nolint:errcheck // the next attempt sees that ctx has ended, and says what it would have needed
	}
}

// enableAll begins a transaction and enables in it what is held. With an error that a statement
// had it returns that.
func enableAll(ctx context.Context, conn *pgx.Conn, name string) (at *openStatement, err error) {
	for _, sql := range []string{`begin`, lockTimeout} {
		if _, err := conn.Exec(ctx, sql); err != nil {
			return nil, err
		}
	}
	list, err := readDisabled(ctx, conn, name)
	if err != nil {
		return nil, err
	}
	statements, _, err := opens(ctx, conn, list) // what has gone was told before the fence
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

// leftHeld is what could not be enabled, and why.
type leftHeld struct {
	held
	sql string
	err error
}

func actionsOf(left []leftHeld) (list []held) {
	for _, l := range left {
		list = append(list, l.held)
	}
	return list
}

func sqlOf(left []leftHeld) (sql []string) {
	for _, l := range left {
		sql = append(sql, l.sql)
	}
	return sql
}

// openingPatience is the most that enabling one by one waits for locks altogether; after that it takes what is free.
const openingPatience = 10 * time.Second

// enableHeld enables what is held, each for itself, and records it. It returns what it could not enable;
// with an error, the target could not be asked.
func (r *runner) enableHeld(ctx context.Context) (left []leftHeld, err error) {
	began := time.Now()
	err = r.target.Do(ctx, func(conn *pgx.Conn) error {
		list, err := readDisabled(ctx, conn, r.c.Name)
		if err != nil {
			return err
		}
		statements, gone, err := opens(ctx, conn, list)
		if err != nil {
			return err
		}
		for _, h := range gone {
			r.c.Logger.Warn("the target does not have any more what was to be enabled", "action", h)
		}
		left = nil
		for _, s := range statements {
			err := pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
				timeout := lockTimeout
				if time.Since(began) > openingPatience {
					timeout = `set local lock_timeout = '50ms'`
				}
				if _, err := tx.Exec(ctx, timeout); err != nil {
					return err
				}
				if _, err := tx.Exec(ctx, s.SQL); err != nil {
					return err
				}
				rest := slices.DeleteFunc(slices.Clone(list), func(h held) bool { return h.Kind == s.held.Kind && h.OID == s.held.OID && h.Name == s.held.Name })
				if err := writeHeld(ctx, tx, r.c.Name, rest); err != nil {
					return err
				}
				list = rest
				return nil
			})
			if err != nil && (conn.IsClosed() || ctx.Err() != nil) {
				return err
			}
			if err != nil {
				left = append(left, leftHeld{s.held, s.SQL, err})
			}
		}
		return nil
	})
	return left, err
}

// enableRest goes on trying, for a while, to enable what the opening has left. What then is left
// stays recorded: status shows it, and migrate and cleanup try again.
func (r *runner) enableRest(ctx context.Context, patience time.Duration) ([]string, error) {
	var left []leftHeld
	var err error
	for end := time.Now().Add(patience); ; wait.Sleep(ctx, time.Second) { //nolint:errcheck // each attempt sees that ctx has ended
		if left, err = r.enableHeld(ctx); err == nil && len(left) == 0 {
			return nil, nil
		}
		if ctx.Err() != nil || time.Now().After(end) {
			break
		}
	}
	if err != nil {
		return nil, fmt.Errorf("enable what was disabled on the target until the cutover: %w", err)
	}
	return sqlOf(left), fmt.Errorf("%d triggers and rules of the target are still disabled: %s: %w", len(left), left[0].held, left[0].err)
}

// enableLeft tries again to enable what the opening of a cutover that is done has left, and returns
// what is recorded of that.
func (r *runner) enableLeft(ctx context.Context) (*CutoverResult, error) {
	result, err := cutoverResult(ctx, r.store)
	if err != nil || result == nil || len(result.Disabled) == 0 {
		return result, err
	}
	disabled, err := r.enableRest(ctx, 0)
	if err != nil && len(disabled) == 0 {
		return nil, err
	}
	result.Disabled = disabled
	return result, r.keepResult(ctx, result, nil)
}

// disabled is the SQL that enables what is held.
func disabled(ctx context.Context, target *session.Link, name string) (sql []string, err error) {
	err = target.Do(ctx, func(conn *pgx.Conn) error {
		list, err := readDisabled(ctx, conn, name)
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

func (r *runner) refreshViews(ctx context.Context) (int, error) {
	conn, err := online.Open(ctx, session.Config{DSN: r.c.Target, Application: r.c.Name + " schema"})
	if err != nil {
		return 0, err
	}
	defer func() { conn.Close(context.WithoutCancel(ctx)) }()
	return schema.RefreshViews(ctx, conn)
}
