package flow

import (
	"context"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/fail"
	"github.com/walferry/walferry/internal/session"
	"github.com/walferry/walferry/internal/state"
)

// Words are what was said of tables by --insert-only: that they are only ever inserted into. Each
// table is watched from before the slot on (Watch). What the watch shows is compared with what it
// showed before the rows of the table were last read: under the slot's snapshot, or when it was
// copied again. A table whose mark has changed since is copied again, outside of the fence; inside
// it the marks are compared once more, and nothing else is done (decision 023).
type Words struct {
	Flow   string // the flow's name
	From   *session.Link
	Store  *state.Store  // for what else is kept beside the marks
	To     *session.Link // the marks are kept there
	Tables []catalog.Table

	// Owned returns of which tables From is the one that is written to: of others nothing is looked at. nil: of all.
	Owned func(context.Context) (func(catalog.Name) bool, error)
}

// WordsOf returns the words about a flow's tables. store is where their marks are kept, at to.
func WordsOf(name Name, from, to *session.Link, store *state.Store, tables []catalog.Table) *Words {
	return &Words{Flow: name.String(), From: from, To: to, Store: store, Tables: tables}
}

// WordTableSQL is for the target: what the watch showed of a table before its rows were read.
const WordTableSQL = `
create table if not exists walferry.word (
    migration   text not null,
    schema_name text not null,
    table_name  text not null,
    mark        text not null,
    copied      int not null default 0,  -- how often it was copied again
    primary key (migration, schema_name, table_name)
);
`

const setWord = `
insert into walferry.word as w (migration, schema_name, table_name, mark, copied) values ($1, $2, $3, $4, $5)
on conflict (migration, schema_name, table_name) do update set mark = excluded.mark, copied = `

// Watch begins to watch the tables, and keeps what the watch shows. conn is to the server that they
// are on. The slot is created later, and waits for every transaction that has changed a row by now,
// so that its snapshot has what they did, and what is changed later shows.
func (w *Words) Watch(ctx context.Context, conn *pgx.Conn) error {
	marks, err := w.set(ctx, conn, w.Tables)
	if err != nil {
		return err
	}
	return w.To.Do(ctx, func(target *pgx.Conn) error {
		if err := catalog.Own(ctx, target, WordTableSQL); err != nil {
			return fmt.Errorf("create walferry.word on the target: %w", err)
		}
		if _, err := target.Exec(ctx, `delete from walferry.word where migration = $1`, w.Flow); err != nil {
			return fmt.Errorf("forget earlier marks: %w", err)
		}
		for i := range w.Tables {
			t := &w.Tables[i]
			if _, err := target.Exec(ctx, setWord+"0", w.Flow, t.Schema, t.Name.Name, marks[t.OID], 0); err != nil {
				return fmt.Errorf("keep the mark of %s: %w", t, err)
			}
		}
		return nil
	})
}

// Ready makes sure that the tables are watched.
func (w *Words) Ready(ctx context.Context) error {
	if len(w.Tables) == 0 {
		return nil
	}
	return w.From.Do(ctx, func(conn *pgx.Conn) error { return Watch{Name: w.Flow, Tables: w.Tables}.Set(ctx, conn) })
}

// Begin keeps what the watch shows now, when both servers have the same rows: From is about to be written to.
func (w *Words) Begin(ctx context.Context) error {
	if len(w.Tables) == 0 {
		return nil
	}
	var marks map[uint32]string
	err := w.From.Do(ctx, func(conn *pgx.Conn) (err error) {
		marks, err = Marks(ctx, conn, w.Flow, oidsOf(w.Tables))
		return err
	})
	if err != nil {
		return err
	}
	return w.To.Do(ctx, func(conn *pgx.Conn) error {
		for i := range w.Tables {
			t := &w.Tables[i]
			if _, err := conn.Exec(ctx, setWord+"0", w.Flow, t.Schema, t.Name.Name, marks[t.OID], 0); err != nil {
				return fmt.Errorf("keep the mark of %s: %w", t, err)
			}
		}
		return nil
	})
}

// of returns those about some tables only.
func (w *Words) of(tables map[catalog.Name]bool) *Words {
	some := *w
	some.Tables = slices.DeleteFunc(slices.Clone(w.Tables), func(t catalog.Table) bool { return !tables[t.Name] })
	return &some
}

// set makes sure that tables are watched, and returns what the watch shows.
func (w *Words) set(ctx context.Context, conn *pgx.Conn, tables []catalog.Table) (map[uint32]string, error) {
	if err := (Watch{Name: w.Flow, Tables: tables}).Set(ctx, conn); err != nil {
		return nil, err
	}
	return Marks(ctx, conn, w.Flow, oidsOf(tables))
}

func oidsOf(tables []catalog.Table) []uint32 {
	oids := make([]uint32, len(tables))
	for i := range tables {
		oids[i] = tables[i].OID
	}
	return oids
}

// Broken returns the tables that were updated or deleted from since their rows were read, or whose
// watch was tampered with, or that never had one.
func (w *Words) Broken(ctx context.Context) (broken []catalog.Table, err error) {
	if len(w.Tables) == 0 {
		return nil, nil
	}
	owned := func(catalog.Name) bool { return true }
	if w.Owned != nil {
		if owned, err = w.Owned(ctx); err != nil {
			return nil, err
		}
	}
	kept, _, err := w.kept(ctx)
	if err != nil {
		return nil, err
	}
	var marks map[uint32]string
	err = w.From.Do(ctx, func(conn *pgx.Conn) (err error) {
		marks, err = Marks(ctx, conn, w.Flow, oidsOf(w.Tables))
		return err
	})
	if err != nil {
		return nil, err
	}
	for _, t := range w.Tables {
		if mark := marks[t.OID]; owned(t.Name) && (mark == "" || mark != kept[t.Name]) {
			broken = append(broken, t)
		}
	}
	return broken, nil
}

// kept returns the marks that are kept, and the tables that were copied again.
func (w *Words) kept(ctx context.Context) (kept map[catalog.Name]string, again []string, err error) {
	kept = map[catalog.Name]string{}
	err = w.To.Do(ctx, func(conn *pgx.Conn) error {
		again = nil
		if there, err := w.Store.Has(ctx, conn, "word"); err != nil || !there {
			return err // a migration that an older version began has none
		}
		rows, err := conn.Query(ctx, `select schema_name, table_name, mark, copied from walferry.word where migration = $1 order by 1, 2`, w.Flow)
		if err != nil {
			return err
		}
		var key catalog.Name
		var mark string
		var copied int
		_, err = pgx.ForEachRow(rows, []any{&key.Schema, &key.Name, &mark, &copied}, func() error {
			kept[key] = mark
			if copied > 0 {
				again = append(again, key.String())
			}
			return nil
		})
		return err
	})
	if err != nil {
		return nil, nil, fmt.Errorf("read what was noted of --insert-only tables: %w", err)
	}
	return kept, again, nil
}

// hold is Running.WordsHold.
func (w *Words) hold(ctx context.Context) error {
	broken, err := w.Broken(ctx)
	if err != nil || len(broken) == 0 {
		return err
	}
	return &fail.Error{
		Kind:    fail.Gate,
		Problem: "updated or deleted from despite --insert-only since they were copied: " + catalog.List(slices.Sorted(slices.Values(tableNames(broken)))),
		Advice:  "ask again: they are copied again before the next fence; if that happens all the time the table needs a key or REPLICA IDENTITY FULL, and a migration without --insert-only for it",
	}
}

func tableNames(tables []catalog.Table) (names []string) {
	for i := range tables {
		names = append(names, tables[i].String())
	}
	return names
}
