package schema

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/online"
	"github.com/walferry/walferry/internal/session"
)

// ForeignKeys adds the foreign keys, first without looking at the rows and then, jobs at a time,
// each by VALIDATE, which lets others write meanwhile. Indexes that are still missing, such as
// those of partitioned tables, are built first. A foreign key that was NOT VALID on the source
// stays so; those of partitioned tables, where older versions know no NOT VALID, look at the rows
// at once. What is there is skipped. All foreign keys are tried; the error joins the *ObjectErrors
// of those that failed.
func (d *Dump) ForeignKeys(ctx context.Context, targetDSN string, jobs int) error {
	conn, err := online.Open(ctx, session.Config{DSN: targetDSN, Application: "foreign keys"})
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	if err := Tune(ctx, conn, 1); err != nil {
		return err
	}
	failed := flat(errors.Join(d.remaining(ctx, conn), d.attach(ctx, conn)))
	if conn.IsClosed() {
		return errors.Join(failed...)
	}
	found, err := LoadPresent(ctx, conn)
	if err != nil {
		return err
	}
	var validate []*entry
	for _, e := range d.entries {
		if e.kind != "FK CONSTRAINT" {
			continue
		}
		sql, later := withoutCheck(e)
		if s, ok := found[e.key()]; ok {
			if unchecked(e, s) {
				validate = append(validate, e)
			}
			continue
		}
		err := d.do(ctx, conn, sql)
		switch {
		case err == nil && later:
			validate = append(validate, e)
		case err == nil || present(err):
		case conn.IsClosed():
			return objectError(e, sql, err)
		default:
			failed = append(failed, objectError(e, sql, err))
		}
	}
	return errors.Join(append(failed, validateAll(ctx, targetDSN, validate, jobs))...)
}

// withoutCheck adds NOT VALID to a foreign key, so that the rows are looked at later; later is
// false if they are not to be looked at, or must be at once.
func withoutCheck(e *entry) (sql string, later bool) {
	body, ok := strings.CutSuffix(strings.TrimRight(e.sql, " \n"), ";")
	_, _, only, known := e.target()
	if !ok || !known || !only || loose(e) {
		return e.sql, false // without ONLY it is one of a partitioned table
	}
	return body + " NOT VALID;\n", true
}

// loose reports whether the source itself does not guarantee that its rows satisfy a foreign key.
func loose(e *entry) bool {
	body := strings.TrimSuffix(strings.TrimRight(e.sql, " \n"), ";")
	return strings.HasSuffix(body, " NOT VALID") || strings.HasSuffix(body, " NOT ENFORCED")
}

// unchecked reports whether an existing foreign key is still to be validated. From version 18 on
// that may be one of a partitioned table.
func unchecked(e *entry, there presence) bool {
	_, _, _, known := e.target()
	return known && !there.ok && !loose(e)
}

func validateAll(ctx context.Context, targetDSN string, entries []*entry, jobs int) error {
	if len(entries) == 0 {
		return nil
	}
	var tables []string
	of := map[string][]*entry{} // by table: two of one table would wait for each other
	for _, e := range entries {
		table, _, _, _ := e.target()
		name := table.String()
		if of[name] == nil {
			tables = append(tables, name)
		}
		of[name] = append(of[name], e)
	}
	queue := make(chan []*entry, len(tables))
	for _, name := range tables {
		queue <- of[name]
	}
	close(queue)
	failed := make([][]error, min(max(jobs, 1), len(tables)))
	var g errgroup.Group
	for i := range failed {
		g.Go(func() error {
			conn, err := online.Open(ctx, session.Config{DSN: targetDSN, Application: "foreign keys"})
			if err != nil {
				return err
			}
			defer conn.Close(context.WithoutCancel(ctx))
			if err := Tune(ctx, conn, len(failed)); err != nil {
				return err
			}
			for table := range queue {
				for _, e := range table {
					if err := validate(ctx, conn, e); conn.IsClosed() {
						return err
					} else if err != nil {
						failed[i] = append(failed[i], err)
					}
				}
			}
			return nil
		})
	}
	err := g.Wait()
	for _, list := range failed {
		err = errors.Join(append([]error{err}, list...)...)
	}
	return err
}

func validate(ctx context.Context, conn *pgx.Conn, e *entry) error {
	table, name, _, _ := e.target()
	sql := fmt.Sprintf("alter table %s validate constraint %s", table.String(), catalog.Quote(name))
	if err := execute(ctx, conn, sql); err != nil {
		return objectError(e, sql, err)
	}
	return nil
}
