package cleanup

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/applier"
	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/cutover"
	"github.com/walferry/walferry/internal/fail"
	"github.com/walferry/walferry/internal/flow"
	"github.com/walferry/walferry/internal/online"
	"github.com/walferry/walferry/internal/session"
	"github.com/walferry/walferry/slot"
)

// fromSource removes slot, publications, fence and triggers of a migration from its source, and the
// schema walferry if no other migration uses it.
func fromSource(ctx context.Context, conn *pgx.Conn, name string) error {
	names := slot.NamesOf(name)
	if err := cutover.Open(ctx, conn, name, ""); err != nil {
		return err
	}
	if err := slot.Drop(ctx, conn, names.Slot); err != nil {
		return err
	}
	if err := fence(ctx, conn, name); err != nil {
		return err
	}
	if err := flow.Unwatch(ctx, conn, name); err != nil {
		return err
	}
	for _, p := range []string{names.Publication, names.Inserts} {
		if err := slot.DropPublication(ctx, conn, p); err != nil {
			return err
		}
	}
	if err := flow.DisarmTo(ctx, conn, flow.Name{Migration: name, Direction: flow.Back}); err != nil {
		return err
	}
	if err := forgetBack(ctx, conn, name); err != nil {
		return err
	}
	return sourceSchema(ctx, conn, name)
}

// forgetBack removes the record of a migration's way back, which is on the source, and the tables of records if there is
// no other: the source may be the target of other migrations.
func forgetBack(ctx context.Context, conn *pgx.Conn, name string) error {
	there, err := column(ctx, conn, `
select relname::text from pg_class where relnamespace = to_regnamespace('walferry') and relkind = 'r' and relname in ('migration', 'request', 'word', 'validation')`)
	if err != nil {
		return fmt.Errorf("look for the record of the way back: %w", err)
	}
	if len(there) == 0 {
		return nil
	}
	if err := catalog.Trust(ctx, conn); err != nil { // they may be views that a user has created
		return err
	}
	back := flow.Name{Migration: name, Direction: flow.Back}.String()
	unused := true
	for _, table := range there {
		of := "migration"
		if table == "migration" {
			of = "name"
		}
		var others bool
		if _, err = conn.Exec(ctx, `delete from walferry.`+table+` where `+of+` = $1`, back); err == nil {
			err = conn.QueryRow(ctx, `select exists(select from walferry.`+table+`)`).Scan(&others)
		}
		if err != nil {
			return fmt.Errorf("remove the record of the way back: %w", err)
		}
		unused = unused && !others
	}
	if !unused {
		return nil
	}
	return online.Run(ctx, conn, "", `drop table if exists walferry.migration, walferry.request, walferry.word, walferry.validation`)
}

// sourceSchema removes what the migrations of one source share, unless there is another one. The
// schema stays if it contains anything of others.
func sourceSchema(ctx context.Context, conn *pgx.Conn, name string) error {
	var schema, heartbeat bool
	err := conn.QueryRow(ctx, `select to_regnamespace('walferry') is not null, to_regclass('walferry.heartbeat') is not null`).Scan(&schema, &heartbeat)
	if err != nil {
		return fmt.Errorf("clean up the source: %w", err)
	}
	if !schema {
		return nil
	}
	others, err := otherMigrations(ctx, conn, name, "")
	if err != nil {
		return err
	}
	if len(others) > 0 {
		if !heartbeat {
			return nil
		}
		if err := catalog.Trust(ctx, conn); err != nil { // it may have a trigger that a user has created
			return err
		}
		if _, err := conn.Exec(ctx, `delete from walferry.heartbeat where migration = $1`, name); err != nil {
			return fmt.Errorf("clean up the source: %w", err)
		}
		return nil
	}
	if session.Major(conn.PgConn()) == 10 {
		if err := slot.DropTruncationTriggers(ctx, conn); err != nil {
			return err
		}
	}
	patience, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	err = online.Run(patience, conn, "", `drop table if exists walferry.heartbeat, walferry.progress; drop schema walferry`)
	if catalog.State(err) == catalog.DependentObjects { // it contains something else: leftovers reports it
		return nil
	}
	if err != nil {
		holders, _ := online.Holders(context.WithoutCancel(ctx), conn, applier.ProgressTable)
		return fmt.Errorf("drop schema walferry on the source, whose tables are in use (%s): %w", online.List(holders), err)
	}
	return nil
}

// fence takes a fence down for good.
func fence(ctx context.Context, conn *pgx.Conn, name string) error {
	if err := cutover.Open(ctx, conn, name, ""); err != nil {
		return err
	}
	patience, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	left, err := cutover.Remove(patience, conn, name)
	if err != nil || len(left) == 0 {
		return err
	}
	e := &fail.Error{
		Kind:    fail.Run,
		Problem: "the source accepts writes, but triggers of the fence could not be dropped " + cutover.ListLeft(left),
		Advice:  "end the sessions named, or wait for them, and run the same command again",
	}
	for _, l := range left {
		e.Advice = cmp.Or(fail.Hint(l.Err), e.Advice)
	}
	return e
}
