package schema

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/fail"
	"github.com/walferry/walferry/internal/online"
	"github.com/walferry/walferry/internal/session"
	"github.com/walferry/walferry/internal/state"
)

// ValidationTableSQL is for the target: statements that look at the rows of foreign keys that were
// created inside the fence without that. They are run once the target is open, and stay until they
// have succeeded.
const ValidationTableSQL = `
create table if not exists walferry.validation (
    migration  text not null,
    position   int not null,
    table_name text not null,
    sql        text not null,
    whole      bool not null,
    error      text not null default '',
    primary key (migration, position)
);
`

// Pending are foreign keys that a role without session_replication_role gets inside the fence, and
// what of them is to be validated once the target is open. That is recorded in walferry.validation.
type Pending struct {
	Link  *session.Link // to the target
	DSN   string        // of the target
	Store *state.Store  // of the migration
	Jobs  int
}

// Prepared are foreign keys that are about to be created, and the connection that will do it.
type Prepared struct {
	*LateKeys
	of   *Pending
	conn *pgx.Conn
}

// Prepare finds out what there will be to do, while nothing is fenced.
func (p *Pending) Prepare(ctx context.Context, dump *Dump) (*Prepared, error) {
	err := p.Link.Do(ctx, func(conn *pgx.Conn) error { return catalog.Own(ctx, conn, ValidationTableSQL) })
	if err != nil {
		return nil, fmt.Errorf("create walferry.validation on the target: %w", err)
	}
	conn, err := online.Open(ctx, session.Config{DSN: p.DSN, Application: p.Store.Name() + " foreign keys"})
	if err != nil {
		return nil, err
	}
	keys, err := dump.LateForeignKeys(ctx, conn)
	if err != nil {
		conn.Close(context.WithoutCancel(ctx))
		return nil, err
	}
	return &Prepared{keys, p, conn}, nil
}

// Close ends the connection.
func (k *Prepared) Close(ctx context.Context) {
	k.conn.Close(context.WithoutCancel(ctx)) //nolint:errcheck // nothing is in progress on it
}

// Create creates, inside the fence, what Prepare has found, without looking at the rows; what
// remains to be validated is recorded before.
func (k *Prepared) Create(ctx context.Context, tell func(string)) error {
	name := k.of.Store.Name()
	err := k.of.Link.Do(ctx, func(conn *pgx.Conn) error {
		batch := &pgx.Batch{}
		batch.Queue(`delete from walferry.validation where migration = $1`, name)
		for i, v := range k.Later {
			batch.Queue(`insert into walferry.validation (migration, position, table_name, sql, whole) values ($1, $2, $3, $4, $5)`, name, i, v.Table, v.SQL, v.Whole)
		}
		return conn.SendBatch(ctx, batch).Close()
	})
	if err != nil {
		return fmt.Errorf("record the foreign keys that are to be validated: %w", err)
	}
	if err := k.LateKeys.Create(ctx, k.conn); err != nil {
		return err
	}
	if n := len(k.Add); n > 0 {
		tell(fmt.Sprintf("created %d foreign keys, which this role could not have while rows arrived; they are validated once everything else is done", n))
	}
	return nil
}

// Rehearse creates the keys outside of the fence, rolls that back, and returns how long it took.
func (k *Prepared) Rehearse(ctx context.Context) (time.Duration, error) {
	if len(k.Add) == 0 {
		return 0, nil
	}
	// Nobody, including the applier, waits behind it for longer than this.
	if _, err := k.conn.Exec(ctx, `set lock_timeout = '2s'`); err != nil {
		return 0, err
	}
	began := time.Now()
	err := k.LateKeys.Rehearse(ctx, k.conn)
	return time.Since(began), err
}

// List returns the statements that are still to be run, and why the last attempt failed.
func (p *Pending) List(ctx context.Context) (list []Validation, failures []string, err error) {
	err = p.Link.Do(ctx, func(conn *pgx.Conn) error {
		list, failures = nil, nil
		if there, err := p.Store.Has(ctx, conn, "validation"); err != nil || !there {
			return err
		}
		rows, err := conn.Query(ctx, `select table_name, sql, whole, error from walferry.validation where migration = $1 order by position`, p.Store.Name())
		if err != nil {
			return err
		}
		var v Validation
		var failure string
		_, err = pgx.ForEachRow(rows, []any{&v.Table, &v.SQL, &v.Whole, &failure}, func() error {
			list = append(list, v)
			if failure != "" {
				failures = append(failures, v.SQL+": "+failure)
			}
			return nil
		})
		return err
	})
	if err != nil {
		return nil, nil, fmt.Errorf("read which foreign keys are to be validated: %w", err)
	}
	return list, failures, nil
}

// Left returns the statements that are still to be run, to run them by hand.
func (p *Pending) Left(ctx context.Context) ([]string, error) {
	list, _, err := p.List(ctx)
	return Statements(list), err
}

// Drop undoes Create: it drops the foreign keys of tables, and forgets what was to be validated.
func (p *Pending) Drop(ctx context.Context, tables []catalog.Table) error {
	names := make([]string, len(tables))
	for i := range tables {
		names[i] = tables[i].String()
	}
	list, _, err := p.List(ctx)
	if err == nil && len(list) > 0 {
		err = p.Link.Exec(ctx, `delete from walferry.validation where migration = $1`, p.Store.Name())
	}
	if err != nil {
		return err
	}
	return p.Link.Do(ctx, func(conn *pgx.Conn) error {
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

// Validate runs what is recorded. The target is in use: nobody is refused meanwhile.
func (p *Pending) Validate(ctx context.Context, step func(string)) error {
	list, _, err := p.List(ctx)
	if err != nil || len(list) == 0 {
		return err
	}
	step(fmt.Sprintf("validating foreign keys: %d statements", len(list)))
	var mu sync.Mutex
	var failed []string
	var unrecorded error
	err = Validate(ctx, p.DSN, list, p.Jobs, func(v Validation, err error) {
		mu.Lock()
		defer mu.Unlock()
		var recorded error
		if err == nil {
			recorded = p.Link.Exec(ctx, `delete from walferry.validation where migration = $1 and sql = $2`, p.Store.Name(), v.SQL)
		} else {
			failed = append(failed, v.SQL+": "+err.Error())
			recorded = p.Link.Exec(ctx, `update walferry.validation set error = $3 where migration = $1 and sql = $2`, p.Store.Name(), v.SQL, err.Error())
		}
		unrecorded = errors.Join(unrecorded, recorded)
	})
	if err := errors.Join(err, unrecorded); err != nil {
		return fmt.Errorf("validate the foreign keys (the same command continues): %w", err)
	}
	if len(failed) > 0 {
		for _, f := range failed {
			step("not validated: " + f)
		}
		return &fail.Error{Kind: fail.Run, Problem: fmt.Sprintf("the target is open, but %d foreign keys could not be validated: %s", len(failed), list1(failed)), Advice: "they hold for what is written from now on; fix the rows that they name, then `walferry migrate` again, or run on the target: " + strings.Join(Statements(list), "; ")}

	}
	step("the foreign keys are validated")
	return nil
}

func list1(texts []string) string {
	if len(texts) == 1 {
		return texts[0]
	}
	return fmt.Sprintf("%s; and %d more", texts[0], len(texts)-1)
}

// Statements returns what is to be run by hand.
func Statements(list []Validation) (sql []string) {
	for _, v := range list {
		sql = append(sql, strings.TrimSuffix(v.SQL, ";"))
	}
	return sql
}
