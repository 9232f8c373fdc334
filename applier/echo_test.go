package applier

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/decoder"
	"github.com/walferry/walferry/internal/pgtest"
	"github.com/walferry/walferry/slot"
)

// written is a server that appliers write to, and whose WAL is read for the other direction.
type written struct {
	t       *testing.T
	url     string
	conn    *pgx.Conn // of a superuser
	config  *pgx.ConnConfig
	major   int
	slot    string
	decoder decoder.Decoder
}

const echoTables = `
create schema own;
create table own.t (id int primary key, v text);
create table own.parent (id int primary key);
create table own.unpublished (id int);
`

// newWritten makes tables, which belong to a role without any privilege if it is to be plain, a
// publication of them, the table of positions in it, and a slot.
func newWritten(t *testing.T, major int, plain bool) *written {
	t.Helper()
	w := &written{t: t, url: pgtest.Shared(t, major).Database(t)}
	var err error
	if w.conn, err = pgx.Connect(t.Context(), w.url); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.conn.Close(context.Background()) })
	w.config = w.conn.Config()
	w.major, _ = strconv.Atoi(w.value(`select current_setting('server_version_num')::int / 10000`))
	w.slot = w.value(`select current_database()`)
	w.exec(echoTables)
	if plain {
		role := plainRole(t, w.url)
		w.exec(`alter schema own owner to ` + role + `; alter table own.t owner to ` + role + `; alter table own.parent owner to ` + role + `; alter table own.unpublished owner to ` + role)
		w.config.User = role
	}
	w.applier("back")
	tables := []pgx.Identifier{{"own", "t"}, {"own", "parent"}, {"walferry", "progress"}}
	if w.major == 10 {
		conn, err := pgx.ConnectConfig(t.Context(), w.config)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close(context.Background())
		if err := slot.CreateTruncationTriggers(t.Context(), conn, tables[:2]); err != nil {
			t.Fatal(err)
		}
		tables = append(tables, pgx.Identifier{"walferry", "truncation"})
		w.decoder.Truncations = slot.TruncationTable
	}
	if _, err := slot.CreatePublication(t.Context(), w.conn, "both", tables, ""); err != nil {
		t.Fatal(err)
	}
	w.exec(`select pg_create_logical_replication_slot('` + w.slot + `', 'pgoutput')`)
	t.Cleanup(func() { w.exec(`select pg_drop_replication_slot('` + w.slot + `')`) })
	return w
}

func (w *written) exec(sql string) {
	w.t.Helper()
	if _, err := w.conn.PgConn().Exec(context.Background(), sql).ReadAll(); err != nil {
		w.t.Fatalf("%v\nin: %s", err, sql)
	}
}

func (w *written) value(sql string) string {
	w.t.Helper()
	return pgtest.Query(w.t, w.url, sql)[0][0]
}

// applier is one of a stream that comes here.
func (w *written) applier(name string) *target {
	w.t.Helper()
	conn, err := pgx.ConnectConfig(w.t.Context(), w.config)
	if err != nil {
		w.t.Fatal(err)
	}
	a, err := New(w.t.Context(), conn, Config{Name: name})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { a.Close(context.Background()) })
	return &target{Applier: a, t: w.t, url: w.url}
}

// read decodes everything since the slot was made, in pieces of so many bytes, and returns what
// passes the filter of a stream.
func (w *written) read(stream string, pieceBytes int) (passed []*decoder.Tx, filter *Filter) {
	w.t.Helper()
	if w.major >= 13 {
		w.exec(`set logical_decoding_work_mem = '64kB'`)
	}
	results := w.conn.PgConn().ExecParams(w.t.Context(), `
select data from pg_logical_slot_peek_binary_changes($1, null, null, 'proto_version', '1', 'publication_names', 'both')`,
		[][]byte{[]byte(w.slot)}, nil, nil, []int16{1}).Read()
	if results.Err != nil {
		w.t.Fatal(results.Err)
	}
	d := w.decoder
	d.PieceBytes = pieceBytes
	f := &filtered{feed: newFeed(), t: w.t}
	f.Filter = NewFilter(f.feed, FilterConfig{Stream: stream, Interval: 1}) // every position that is due comes
	for _, r := range results.Rows {
		tx, err := d.Decode(r[0])
		if err != nil {
			w.t.Fatal(err)
		}
		if tx != nil {
			f.put(tx)
		}
	}
	return f.rest(), f.Filter
}

// ids are those of the rows of own.t that have passed, by the end of their transaction. They also
// make sure that no position came between two pieces.
func (w *written) ids(txs []*decoder.Tx) (ids []string) {
	w.t.Helper()
	open := false
	for _, tx := range txs {
		if open == tx.First {
			w.t.Errorf("transaction %d: first %t, and one is open: %t", tx.XID, tx.First, open)
		}
		open = !tx.Last
		for _, c := range tx.Changes {
			switch {
			case c.Op == decoder.Truncate:
				ids = append(ids, "truncate")
			case c.Relation.Name == "t":
				ids = append(ids, string(c.New[0].Data))
			}
		}
	}
	return ids
}

// What an applier has written is known by its first change, on every version, by whatever role and
// in whatever way it was written; nothing else is.
func TestFilter_KnowsEchoes(t *testing.T) {
	t.Parallel()
	for major := pgtest.Oldest; major <= pgtest.Newest; major++ {
		for _, plain := range []bool{false, true} {
			t.Run(fmt.Sprintf("%d, plain role %t", major, plain), func(t *testing.T) {
				t.Parallel()
				testEchoes(t, newWritten(t, major, plain))
			})
		}
	}
}

func testEchoes(t *testing.T, w *written) {
	r := relation("t", 'd', "id*", "v")
	r.Namespace = "own"
	var want []string
	application := func(id int, sql string) {
		t.Helper()
		want = append(want, fmt.Sprint(id))
		w.exec(strings.ReplaceAll(sql, "ROW", fmt.Sprintf("insert into own.t values (%d)", id)))
	}
	const markSQL = `update walferry.progress set applied = applied where stream = 'back'`
	echo := func(sql string) { t.Helper(); w.exec(strings.ReplaceAll(sql, "MARK", markSQL)) }

	application(1, `ROW`)
	g := w.applier("back")
	g.apply(insert(r, "100", "x"))
	g.apply(update(r, nil, row("100", "y")))
	if err := g.Apply(t.Context(), g.position()); err != nil {
		t.Fatal(err)
	}
	application(2, `begin; ROW; `+markSQL+`; commit`) // the mark is not the first
	many := newFeed()
	for i := range 3000 { // in groups, folded or by COPY
		many.put(g.tx(insert(r, fmt.Sprint(1000+i), "x"), update(r, nil, row(fmt.Sprint(1000+i), "y"))))
	}
	g.run(many)
	g = w.applier("back")
	g.lsn = g.Applied()
	var rows []decoder.Change
	for i := range 2000 {
		rows = append(rows, insert(r, fmt.Sprint(10_000+i), strings.Repeat("x", 50)))
	}
	inPieces := newFeed()
	inPieces.put(cut(g.tx(rows...))...)
	g.run(inPieces)
	application(3, `begin; savepoint a; `+markSQL+`; rollback to a; ROW; commit`)
	echo(`begin; savepoint a; MARK; release a; savepoint b; insert into own.t values (20001); rollback to b; savepoint c; insert into own.t values (20002); commit`)
	echo(`begin; insert into own.unpublished values (1); MARK; insert into own.t values (20003); commit`)
	echo(`begin; MARK; insert into own.t select i, repeat('x', 200) from generate_series(30000, 38000) i; commit`) // it is spilled
	application(4, `begin; ROW; insert into own.parent select generate_series(1, 8000); commit`)
	echo(`begin; MARK; insert into own.t values (20004); prepare transaction '` + w.slot + `'`)
	application(5, `ROW`)
	w.exec(`commit prepared '` + w.slot + `'`)
	application(6, `begin; ROW; prepare transaction '`+w.slot+`'`)
	w.exec(`commit prepared '` + w.slot + `'`)

	g = w.applier("back")
	g.lsn = g.Applied()
	g.apply(decoder.Change{Op: decoder.Truncate, Truncated: []*decoder.Relation{r}}, insert(r, "20005", "x"))
	want = append(want, "truncate")
	w.exec(`truncate own.t`)
	beside(w, 20006)

	// What another stream has applied is passed on.
	other := w.applier("back2")
	other.apply(insert(r, "7", "x"))
	want = append(want, "7")

	for _, pieceBytes := range []int{0, 2000} {
		passed, filter := w.read("back", pieceBytes)
		if got := w.ids(passed); !slices.Equal(got, want) {
			t.Errorf("pieces of %d: passed: %q, want %q", pieceBytes, got, want)
		}
		if c := filter.Counts(); c.Echoes < 10 || c.Strays != 0 {
			t.Errorf("counted: %+v", c)
		}
	}
	if w.major >= 15 && w.value(`select spill_txns > 0 from pg_stat_replication_slots where slot_name = '`+w.slot+`'`) != "t" {
		t.Error("no transaction was spilled")
	}
	// For another stream all that is nothing special.
	passed, filter := w.read("back2", 0)
	if got := w.ids(passed); len(got) < 10_000 || slices.Contains(got, "7") || filter.Counts().Echoes != 2 { // its row was made, too
		t.Errorf("of stream back2: %d rows have passed, %d echoes", len(got), filter.Counts().Echoes)
	}
}

// beside writes a row with a mark, as those do who write beside the applier.
func beside(w *written, id int) {
	w.t.Helper()
	conn, err := pgx.ConnectConfig(w.t.Context(), w.config)
	if err != nil {
		w.t.Fatal(err)
	}
	defer conn.Close(context.Background())
	err = pgx.BeginFunc(w.t.Context(), conn, func(tx pgx.Tx) error {
		if err := Mark(w.t.Context(), conn, "back"); err != nil {
			return err
		}
		_, err := tx.Exec(w.t.Context(), `insert into own.t values ($1)`, id)
		return err
	})
	if err != nil {
		w.t.Fatal(err)
	}
	if got := w.value(`select string_agg(stream, ' ') from walferry.progress where stream like 'back%'`); got != "back" {
		w.t.Errorf("streams after a mark: %q", got)
	}
}
