package migration

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/online"
	"github.com/walferry/walferry/internal/schema"
	"github.com/walferry/walferry/internal/session"
	"github.com/walferry/walferry/internal/state"
)

// validationDDL is on the target: statements that look at the rows of foreign keys which
// were created inside the fence without that. They are run when the target is open, and
// stay until they have worked.
const validationDDL = `
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

// lateKeys are foreign keys that a role without session_replication_role gets inside the
// fence, and the connection that will create them.
type lateKeys struct {
	r    *runner
	keys *schema.LateKeys
	conn *pgx.Conn
}

// prepareLateKeys finds out what there will be to do, while nothing is fenced; nil: nothing.
func (r *runner) prepareLateKeys(ctx context.Context) (*lateKeys, error) {
	if r.c.Schema == "none" {
		return nil, nil
	}
	may, err := r.replicaRole(ctx)
	if err != nil || may {
		return nil, err
	}
	dump, err := r.archive(ctx)
	if err != nil {
		return nil, err
	}
	err = r.target.Do(ctx, func(conn *pgx.Conn) error { return catalog.Own(ctx, conn, validationDDL) })
	if err != nil {
		return nil, fmt.Errorf("create walferry.validation on the target: %w", err)
	}
	conn, err := online.Open(ctx, session.Config{DSN: r.c.Target, Application: r.c.Name + " foreign keys"})
	if err != nil {
		return nil, err
	}
	keys, err := dump.LateForeignKeys(ctx, conn)
	if err != nil {
		conn.Close(context.WithoutCancel(ctx))
		return nil, err
	}
	return &lateKeys{r, keys, conn}, nil
}

// Close ends the connection.
func (k *lateKeys) Close(ctx context.Context) {
	k.conn.Close(context.WithoutCancel(ctx)) //nolint:errcheck // nothing is under way on it
}

// Rehearse creates the keys outside of the fence, and takes that back.
func (k *lateKeys) Rehearse(ctx context.Context) (time.Duration, error) {
	if len(k.keys.Add) == 0 {
		return 0, nil
	}
	// Nobody, the applier neither, waits behind it for longer than this.
	if _, err := k.conn.Exec(ctx, `set lock_timeout = '2s'`); err != nil {
		return 0, err
	}
	began := time.Now()
	err := k.keys.Rehearse(ctx, k.conn)
	return time.Since(began), err
}

// Create creates, inside the fence, what prepareLateKeys has found, without looking at
// the rows; what is left to be validated is recorded before.
func (k *lateKeys) Create(ctx context.Context, step func(string)) error {
	r := k.r
	err := r.target.Do(ctx, func(conn *pgx.Conn) error {
		batch := &pgx.Batch{}
		batch.Queue(`delete from walferry.validation where migration = $1`, r.c.Name)
		for i, v := range k.keys.Later {
			batch.Queue(`insert into walferry.validation (migration, position, table_name, sql, whole) values ($1, $2, $3, $4, $5)`, r.c.Name, i, v.Table, v.SQL, v.Whole)
		}
		return conn.SendBatch(ctx, batch).Close()
	})
	if err != nil {
		return fmt.Errorf("record the foreign keys that are to be validated: %w", err)
	}
	if err := k.keys.Create(ctx, k.conn); err != nil {
		return err
	}
	if n := len(k.keys.Add); n > 0 {
		step(fmt.Sprintf("created %d foreign keys, which this role could not have while rows came; they are validated when everything else is done", n))
	}
	return nil
}

// lateForeignKeys does both, for a one-time copy.
func (r *runner) lateForeignKeys(ctx context.Context, step func(string)) error {
	keys, err := r.prepareLateKeys(ctx)
	if err != nil || keys == nil {
		return err
	}
	defer keys.Close(ctx)
	return keys.Create(ctx, step)
}

// unvalidated are the statements that are still to be run, and why the last try failed.
func unvalidated(ctx context.Context, target *session.Link, s *state.Store) (list []schema.Validation, failures []string, err error) {
	err = target.Do(ctx, func(conn *pgx.Conn) error {
		list, failures = nil, nil
		if there, err := s.Has(ctx, conn, "validation"); err != nil || !there {
			return err
		}
		rows, err := conn.Query(ctx, `select table_name, sql, whole, error from walferry.validation where migration = $1 order by position`, s.Name())
		if err != nil {
			return err
		}
		var v schema.Validation
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

// addUnvalidated sets what is still to be run of a cutover that is done.
func addUnvalidated(ctx context.Context, target *session.Link, s *state.Store, result *CutoverResult) error {
	list, _, err := unvalidated(ctx, target, s)
	result.Unvalidated = statementsOf(list)
	return err
}

// validateKeys runs what is recorded. The target is in use: nobody is refused meanwhile.
func (r *runner) validateKeys(ctx context.Context, step func(string)) error {
	list, _, err := unvalidated(ctx, r.target, r.store)
	if err != nil || len(list) == 0 {
		return err
	}
	step(fmt.Sprintf("validating foreign keys: %d statements", len(list)))
	var mu sync.Mutex
	var failed []string
	var unrecorded error
	err = schema.Validate(ctx, r.c.Target, list, r.c.Jobs, func(v schema.Validation, err error) {
		mu.Lock()
		defer mu.Unlock()
		var recorded error
		if err == nil {
			recorded = r.target.Exec(ctx, `delete from walferry.validation where migration = $1 and sql = $2`, r.c.Name, v.SQL)
		} else {
			failed = append(failed, v.SQL+": "+err.Error())
			recorded = r.target.Exec(ctx, `update walferry.validation set error = $3 where migration = $1 and sql = $2`, r.c.Name, v.SQL, err.Error())
		}
		unrecorded = errors.Join(unrecorded, recorded)
	})
	if err := errors.Join(err, unrecorded); err != nil {
		return fmt.Errorf("validate the foreign keys (the same command goes on with it): %w", err)
	}
	if len(failed) > 0 {
		for _, f := range failed {
			step("not validated: " + f)
		}
		return &RunError{Problem: fmt.Sprintf("the target is open, but %d foreign keys could not be validated: %s", len(failed), list1(failed)), Advice: "they hold for what is written from now on; mend the rows that they name, then `walferry migrate` again, or run on the target: " + strings.Join(statementsOf(list), "; ")}

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

func statementsOf(list []schema.Validation) (sql []string) {
	for _, v := range list {
		sql = append(sql, strings.TrimSuffix(v.SQL, ";"))
	}
	return sql
}
