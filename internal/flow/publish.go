package flow

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/internal/online"
	"github.com/walferry/walferry/internal/session"
	"github.com/walferry/walferry/internal/state"
	"github.com/walferry/walferry/slot"
)

// Publish creates the flow's publications of those of tables that hold rows, and replaces any that are
// there. They must be committed before the slot is created: a slot decodes with the catalog as of its
// time. words, which may be nil, are watched from here on. step is told what is done.
func (f *Flow) Publish(ctx context.Context, tables []state.Table, words *Words, step func(string)) (publications map[string]slot.PublicationIdentity, err error) {
	err = f.From.Link.Do(ctx, func(conn *pgx.Conn) error { return online.Own(ctx, conn, `create schema if not exists walferry`) })
	if err != nil {
		return nil, fmt.Errorf("create the schema walferry on the source: %w", err)
	}
	var all, changing, inserts []pgx.Identifier
	for _, t := range tables {
		name := pgx.Identifier{t.Schema, t.Name.Name}
		switch {
		case t.Kind != "r":
			continue
		case t.InsertOnly:
			inserts = append(inserts, name)
		default:
			changing = append(changing, name)
		}
		all = append(all, name)
	}
	err = f.From.Link.Do(ctx, func(conn *pgx.Conn) error {
		marks, err := MakeMark(ctx, conn)
		if err != nil {
			return err
		}
		if session.Major(conn.PgConn()) == 10 {
			if err := slot.CreateTruncationTriggers(ctx, conn, all); err != nil {
				return err
			}
		}
		if words != nil {
			step("watch the --insert-only tables")
			if err := words.Watch(ctx, conn); err != nil {
				return err
			}
		}
		publications, err = slot.Publish(ctx, conn, f.Name.Source(), append(changing, marks...), inserts)
		return err
	})
	return publications, err
}
