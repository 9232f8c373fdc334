package migration

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/decoder"
	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/cutover"
	"github.com/walferry/walferry/internal/online"
	"github.com/walferry/walferry/internal/session"
	"github.com/walferry/walferry/slot"
	"github.com/walferry/walferry/snapshot"
)

// The word that is given by --insert-only is watched from before the slot on
// (cutover.Watch). What the watch shows is compared with what it showed before the rows
// of the table were read last: with the slot's snapshot, or by copyAgain. A table whose
// mark is another one since is copied again, outside of the fence; inside it the marks
// are compared once more, and that is all (decision 023).

// wordDDL is on the target: what the watch showed of a table before its rows were read.
const wordDDL = `
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
on conflict (migration, schema_name, table_name) do update set mark = excluded.mark, copied = w.copied + 1`

// insertOnly are the tables of --insert-only, as they were when the migration began.
func (r *runner) insertOnly() (tables []catalog.Table) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, t := range r.rec.Tables {
		if !t.InsertOnly {
			continue
		}
		oid := t.OID
		for i := range r.tables {
			if oid == 0 && r.tables[i].Name == t.Name {
				oid = r.tables[i].OID
			}
		}
		tables = append(tables, catalog.Table{OID: oid, Name: t.Name})
	}
	return tables
}

// watchWords begins to watch tables, and keeps what the watch shows. The slot is made later:
// it waits for every transaction that has changed a row by now, so that its snapshot has
// what they did, and what is changed later shows.
func (r *runner) watchWords(ctx context.Context, conn *pgx.Conn, tables []catalog.Table) error {
	if len(tables) == 0 {
		return nil
	}
	r.step("watch the --insert-only tables")
	marks, err := r.setWatch(ctx, conn, tables)
	if err != nil {
		return err
	}
	return r.target.Do(ctx, func(target *pgx.Conn) error {
		if err := catalog.Own(ctx, target, wordDDL); err != nil {
			return fmt.Errorf("create walferry.word on the target: %w", err)
		}
		if _, err := target.Exec(ctx, `delete from walferry.word where migration = $1`, r.c.Name); err != nil {
			return fmt.Errorf("forget earlier marks: %w", err)
		}
		for i := range tables {
			if _, err := target.Exec(ctx, setWord, r.c.Name, tables[i].Schema, tables[i].Name.Name, marks[tables[i].OID], 0); err != nil {
				return fmt.Errorf("keep the mark of %s: %w", &tables[i], err)
			}
		}
		return nil
	})
}

// setWatch makes sure that tables are watched, and returns what the watch shows.
func (r *runner) setWatch(ctx context.Context, conn *pgx.Conn, tables []catalog.Table) (map[uint32]string, error) {
	if err := (cutover.Watch{Name: r.c.Name, Tables: tables}).Set(ctx, conn); err != nil {
		return nil, err
	}
	return cutover.Marks(ctx, conn, r.c.Name, oidsOf(tables))
}

func oidsOf(tables []catalog.Table) []uint32 {
	oids := make([]uint32, len(tables))
	for i := range tables {
		oids[i] = tables[i].OID
	}
	return oids
}

// brokenWords are the --insert-only tables that were updated or deleted from since their
// rows were read, or whose watch was tampered with, or which never had one.
func (r *runner) brokenWords(ctx context.Context) (broken []catalog.Table, err error) {
	tables := r.insertOnly()
	if len(tables) == 0 {
		return nil, nil
	}
	kept, _, err := r.words(ctx)
	if err != nil {
		return nil, err
	}
	var marks map[uint32]string
	err = r.source.Do(ctx, func(conn *pgx.Conn) (err error) {
		marks, err = cutover.Marks(ctx, conn, r.c.Name, oidsOf(tables))
		return err
	})
	if err != nil {
		return nil, err
	}
	for _, t := range tables {
		if mark := marks[t.OID]; mark == "" || mark != kept[t.Name] {
			broken = append(broken, t)
		}
	}
	return broken, nil
}

// words are the marks that are kept, and the tables that were copied again.
func (r *runner) words(ctx context.Context) (kept map[catalog.Name]string, again []string, err error) {
	kept = map[catalog.Name]string{}
	err = r.target.Do(ctx, func(conn *pgx.Conn) error {
		again = nil
		if there, err := r.store.Has(ctx, conn, "word"); err != nil || !there {
			return err // a migration that an older version began has none
		}
		rows, err := conn.Query(ctx, `select schema_name, table_name, mark, copied from walferry.word where migration = $1 order by 1, 2`, r.c.Name)
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

// wordInterval is how many heartbeats lie between two looks at the words.
const wordInterval = 12

// wordsTurn is a cutover that wants the words to hold. Until done is closed nothing is
// copied again: that would hold the applier.
type wordsTurn struct {
	held chan error
	done <-chan struct{}
}

// keepWords looks at the words now and then, and for a cutover at once, and copies again
// what was updated.
func (f *following) keepWords(ctx context.Context, _ context.CancelCauseFunc) {
	if len(f.r.insertOnly()) == 0 {
		return
	}
	next := map[uint32]time.Time{} // a large table is not copied again all the time
	for {
		if err := f.mendWords(ctx, next); err != nil && ctx.Err() == nil {
			f.r.c.Logger.Warn("an --insert-only table could not be copied again", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wordInterval * f.r.c.Heartbeat):
		case turn := <-f.turns:
			turn.held <- f.mendWords(ctx, nil)
			select {
			case <-ctx.Done():
				return
			case <-turn.done:
			}
		}
	}
}

// mendWords copies again each table whose word is broken. A table that is in next waits
// until then; it is put there for ten times as long as its copy took.
func (f *following) mendWords(ctx context.Context, next map[uint32]time.Time) error {
	broken, err := f.r.brokenWords(ctx)
	for _, t := range broken {
		if time.Now().Before(next[t.OID]) {
			continue
		}
		began := time.Now()
		f.r.c.Logger.Warn("updated or deleted from in spite of --insert-only: copying it again", "table", t.String())
		rows, copyErr := f.copyAgain(ctx, t)
		f.mu.Lock()
		f.again = nil
		f.mu.Unlock()
		if copyErr != nil {
			err = errors.Join(err, fmt.Errorf("copy %s again: %w", &t, copyErr))
			continue
		}
		f.r.c.Logger.Info("copied again", "table", t.String(), "rows", rows, "took", time.Since(began).Round(time.Millisecond))
		if next != nil {
			next[t.OID] = time.Now().Add(10 * time.Since(began))
		}
	}
	return err
}

// copyAgain gives a table of the target the rows that the source has. The applier stands
// still at the snapshot's position while both sides' transactions are opened, and goes on
// while the rows are copied: what it inserts meanwhile comes on top of them.
func (f *following) copyAgain(ctx context.Context, t catalog.Table) (rows int64, err error) {
	r := f.r
	source, err := session.Open(ctx, session.Config{DSN: r.c.Source, Application: r.c.Name + " copy again"})
	if err != nil {
		return 0, err
	}
	defer func() { source.Close(context.WithoutCancel(ctx)) }()
	target, err := online.Open(ctx, session.Config{DSN: r.c.Target, Application: r.c.Name + " copy again"})
	if err != nil {
		return 0, err
	}
	defer func() { target.Close(context.WithoutCancel(ctx)) }()
	if err := catalog.Own(ctx, target, wordDDL); err != nil {
		return 0, fmt.Errorf("create walferry.word on the target: %w", err)
	}
	if _, err := target.Exec(ctx, `set session_replication_role = replica`); err != nil && target.IsClosed() {
		return 0, err
	}
	// Before the snapshot: what is changed from now on shows, and what was changed before is in it.
	marks, err := r.setWatch(ctx, source, []catalog.Table{t})
	if err != nil {
		return 0, err
	}
	var before uint32
	if err := source.QueryRow(ctx, `select coalesce(pg_relation_filenode($1::oid), 0)`, t.OID).Scan(&before); err != nil {
		return 0, err
	}
	replacement, err := f.openAgain(ctx, source, target, t)
	if err != nil {
		return 0, err
	}
	after, err := replacement.Filenode(ctx)
	if err != nil {
		return 0, err
	}
	if before != after {
		return 0, errors.New("the source has rewritten or truncated it meanwhile: it is tried again")
	}
	f.mu.Lock()
	f.again = &copyingAgain{t.String(), replacement}
	f.mu.Unlock()
	if rows, err = replacement.Run(ctx); err != nil {
		return 0, err
	}
	if _, err := target.Exec(ctx, setWord, r.c.Name, t.Schema, t.Name.Name, marks[t.OID], 1); err != nil {
		return 0, fmt.Errorf("keep the mark: %w", err)
	}
	if _, err := target.Exec(ctx, `commit`); err != nil {
		return 0, err
	}
	return rows, nil
}

// copyingAgain is a table on its way, for status.
type copyingAgain struct {
	table string
	*snapshot.Replacement
}

// openAgain brings both sides' transactions to one position, while the applier stands there.
func (f *following) openAgain(ctx context.Context, source, target *pgx.Conn, t catalog.Table) (*snapshot.Replacement, error) {
	r := f.r
	if err := r.clearWay(ctx, time.Minute, func(text string) { r.c.Logger.Warn(text) }); err != nil {
		return nil, err
	}
	select {
	case f.holding <- struct{}{}: // verify has let go
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	defer func() { f.applier.Resume(); <-f.holding }()
	ctx, cancel := context.WithTimeout(ctx, holdLimit)
	defer cancel()
	if _, err := f.applier.Pause(ctx, 0); err != nil {
		return nil, fmt.Errorf("hold the applier: %w", err)
	}
	exported, err := slot.ExportTemporary(ctx, r.c.Source, "again", slot.ExportConfig{Wait: 30 * time.Second, Logger: r.c.Logger})
	if err != nil {
		return nil, err
	}
	defer exported.Close(context.WithoutCancel(ctx)) //nolint:errcheck // the temporary slot ends with it either way
	if err := enterAt(ctx, source, exported.Name); err != nil {
		return nil, err
	}
	if err := f.advanceTo(ctx, exported.ConsistentPoint); err != nil {
		return nil, err
	}
	if _, err := target.PgConn().Exec(ctx, `begin isolation level repeatable read; set local lock_timeout = '20s'`).ReadAll(); err != nil {
		return nil, fmt.Errorf("begin on the target: %w", err)
	}
	replacement, err := snapshot.NewReplacement(ctx, source, target, snapshot.Table{Schema: t.Schema, Name: t.Name.Name})
	if err != nil {
		return nil, err
	}
	_, err = target.Exec(ctx, `set local lock_timeout = 0`)
	return replacement, err
}

// enterAt opens a transaction that has a snapshot.
func enterAt(ctx context.Context, conn *pgx.Conn, name string) error {
	_, err := conn.PgConn().Exec(ctx, `begin isolation level repeatable read read only; set transaction snapshot `+catalog.Literal(name)).ReadAll()
	if err != nil {
		return fmt.Errorf("import the snapshot: %w", err)
	}
	return nil
}

// advanceTo lets a held applier go on until it has applied exactly what committed before lsn.
func (f *following) advanceTo(ctx context.Context, lsn decoder.LSN) error {
	if _, err := f.pause(ctx, lsn); err != nil {
		return fmt.Errorf("hold the applier at %s: %w", lsn, err)
	}
	return nil
}

// settleWords is for a cutover: it returns when every word holds, and keeps it so that none is
// mended, until done is closed. What does not hold is copied again, also when ctx ends
// before that is done.
func (f *following) settleWords(ctx context.Context, done <-chan struct{}, step func(string)) error {
	if len(f.r.insertOnly()) == 0 {
		return nil
	}
	broken, err := f.r.brokenWords(ctx)
	if err != nil {
		return err
	}
	if len(broken) > 0 {
		step("copying again, before anything is fenced, as they were updated in spite of --insert-only: " + list(tableNames(broken)))
	}
	late := &GateError{Problem: "--insert-only tables that were updated are being copied again: " + list(tableNames(broken)), Advice: "ask again when `walferry status` does not name them any more, or give a longer --timeout"}

	turn := wordsTurn{make(chan error, 1), done}
	select {
	case f.turns <- turn:
	case <-ctx.Done():
		return late
	}
	select {
	case err = <-turn.held:
	case <-ctx.Done():
		return late
	}
	if err != nil {
		var hint interface{ Hint() string }
		advice := "mend it and ask again; nothing was changed"
		if errors.As(err, &hint) {
			advice = hint.Hint()
		}
		return &GateError{Problem: err.Error(), Advice: advice}
	}
	return nil
}

func tableNames(tables []catalog.Table) (names []string) {
	for i := range tables {
		names = append(names, tables[i].String())
	}
	return names
}

// wordsHold is asked inside the fence, when the last writer has ended.
func (r *runner) wordsHold(ctx context.Context) error {
	broken, err := r.brokenWords(ctx)
	if err != nil || len(broken) == 0 {
		return err
	}
	return &GateError{Problem: "updated or deleted from in spite of --insert-only since they were copied: " + list(slices.Sorted(slices.Values(tableNames(broken)))), Advice: "ask again: they are copied again before the next fence; where that happens all the time the table needs a key or REPLICA IDENTITY FULL, and a migration without --insert-only for it"}
}
