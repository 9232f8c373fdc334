package plan

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/session"
)

// index is one of a table, on the source.
type index struct {
	bytes  int64
	method string
	keys   []string // columns; empty: it cannot be built on a sample
}

const indexesSQL = `
select x.indrelid, pg_relation_size(x.indexrelid), m.amname,
       case when bool_and(x.indpred is null and x.indexprs is null and a.atttypid < 16384) then array_agg(a.attname::text order by k.place) else '{}' end
  from pg_index x join pg_class c on c.oid = x.indexrelid join pg_am m on m.oid = c.relam
       cross join lateral unnest(x.indkey::int2[]) with ordinality k(number, place)
       left join pg_attribute a on a.attrelid = x.indrelid and a.attnum = k.number
 where c.relkind = 'i' and x.indisvalid
 group by x.indrelid, x.indexrelid, m.amname`

func loadIndexes(ctx context.Context, conn *pgx.Conn) (map[uint32][]index, error) {
	rows, err := conn.Query(ctx, indexesSQL)
	if err != nil {
		return nil, fmt.Errorf("read the source's indexes: %w", err)
	}
	of := map[uint32][]index{}
	var table uint32
	var x index
	_, err = pgx.ForEachRow(rows, []any{&table, &x.bytes, &x.method, &x.keys}, func() error {
		of[table] = append(of[table], x)
		x.keys = nil
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the source's indexes: %w", err)
	}
	return of, nil
}

// watchWAL begins to watch how much WAL the source writes; the returned function ends that, after least at the earliest.
func watchWAL(ctx context.Context, conn *pgx.Conn) (end func(least time.Duration) (perSecond, seconds float64, err error), err error) {
	var first, last string
	began := time.Now()
	if err := conn.QueryRow(ctx, `select pg_current_wal_lsn()::text`).Scan(&first); err != nil {
		return nil, fmt.Errorf("ask the source for the end of its WAL: %w", err)
	}
	return func(least time.Duration) (perSecond, seconds float64, err error) {
		select {
		case <-time.After(least - time.Since(began)):
		case <-ctx.Done():
			return 0, 0, context.Cause(ctx)
		}
		var bytes float64
		seconds = time.Since(began).Seconds()
		if err := conn.QueryRow(ctx, `select l::text, pg_wal_lsn_diff(l, $1::text::pg_lsn)::float8 from pg_current_wal_lsn() l`, first).Scan(&last, &bytes); err != nil {
			return 0, 0, fmt.Errorf("ask the source for the end of its WAL: %w", err)
		}
		return bytes / seconds, seconds, nil
	}, nil
}

// pieceBytes is how much of a table is copied at a time.
const pieceBytes = 16 << 20

// piece is a part of a table's pages, chosen at random.
type piece struct {
	s    *Sample
	part float64 // of the table
	seed int
}

// pieces divides what may be copied among the samples.
func (c *Config) pieces(p *Plan) (queue []piece) {
	var all int64
	for i := range p.Samples {
		all += p.Samples[i].Bytes
	}
	for i := range p.Samples {
		s := &p.Samples[i]
		share := min(s.Bytes, max(pieceBytes/2, int64(float64(c.SampleBytes)*float64(s.Bytes)/float64(all))))
		n := (share + pieceBytes - 1) / pieceBytes
		for seed := range n {
			queue = append(queue, piece{s, float64(share) / float64(n) / float64(s.Bytes), int(seed)})
		}
	}
	return queue
}

// sample copies pieces of the samples' tables with as many sessions as the copy will have.
func (c *Config) sample(ctx context.Context, p *Plan) error {
	queue := c.pieces(p)
	tasks := make(chan piece, len(queue))
	for _, t := range queue {
		tasks <- t
	}
	close(tasks)
	began := time.Now()
	var mu sync.Mutex // guards the samples
	group, ctx := errgroup.WithContext(ctx)
	for range min(c.Jobs, len(queue)) {
		group.Go(func() error {
			from, err := session.Open(ctx, session.Config{DSN: c.Source, Application: "plan"})
			if err != nil {
				return err
			}
			defer from.Close(context.WithoutCancel(ctx))
			to, err := session.Open(ctx, session.Config{DSN: c.Target, Application: "plan"})
			if err != nil {
				return err
			}
			defer to.Close(context.WithoutCancel(ctx))
			for t := range tasks {
				mu.Lock()
				late := t.s.Skipped != "" || time.Since(began) > c.SampleTime && t.s.Copied > 0
				mu.Unlock()
				if late {
					continue
				}
				m, err := t.measure(ctx, from, to)
				if ctx.Err() != nil || from.IsClosed() || to.IsClosed() {
					return cmp.Or(err, context.Cause(ctx))
				}
				mu.Lock()
				t.s.add(m, err)
				mu.Unlock()
			}
			return nil
		})
	}
	return group.Wait()
}

// measured is what a piece took.
type measured struct {
	bytes, setup, seconds, building, indexes float64
	size, built, rows                        int64
}

// add adds a piece to a sample.
func (s *Sample) add(m measured, err error) {
	if err != nil {
		s.Skipped = err.Error()
		if state := catalog.State(err); strings.HasPrefix(state, "22") { // such a message has the value in it
			s.Skipped = "a value does not fit on the target (SQLSTATE " + state + ")"
		}
		return
	}
	s.pieces++
	s.setup += m.setup
	s.Copied, s.Seconds, s.TargetBytes, s.rows = s.Copied+m.bytes, s.Seconds+m.seconds, s.TargetBytes+m.size, s.rows+m.rows
	s.IndexSeconds, s.measured, s.builtBytes = s.IndexSeconds+m.building, s.measured+m.indexes, s.builtBytes+m.built
	rate := m.bytes / m.seconds
	s.Fastest = max(s.Fastest, rate)
	if s.Slowest == 0 || rate < s.Slowest {
		s.Slowest = rate
	}
}

// measure copies a piece into a table of a transaction that is rolled back, and builds its indexes there.
func (t *piece) measure(ctx context.Context, from, to *pgx.Conn) (m measured, err error) {
	tx, err := to.Begin(ctx)
	if err != nil {
		return m, err
	}
	defer func() { err = errors.Join(err, tx.Rollback(context.WithoutCancel(ctx))) }()
	var names, columns []string
	format := " with (format binary)"
	for _, c := range t.s.of.Columns {
		if c.Generated != 0 {
			continue
		}
		kind := c.Type
		if c.TypeOID >= 16384 { // which the target may not have yet
			kind, format = "text", ""
		}
		names = append(names, catalog.Quote(c.Name))
		columns = append(columns, catalog.Quote(c.Name)+" "+kind)
	}
	began := time.Now()
	if _, err := tx.Exec(ctx, fmt.Sprintf("create schema walferry_plan_%d; create table walferry_plan_%[1]d.sample (%s)", to.PgConn().PID(), strings.Join(columns, ", "))); err != nil {
		return m, err
	}
	m.setup = time.Since(began).Seconds()
	sample := fmt.Sprintf("walferry_plan_%d.sample", to.PgConn().PID())
	out := fmt.Sprintf("copy (select %s from only %s tablesample system (%g) repeatable (%d)) to stdout%s", strings.Join(names, ", "), t.s.of.String(), 100*min(1, t.part), t.seed, format)
	if t.part >= 1 {
		out = fmt.Sprintf("copy (select %s from only %s) to stdout%s", strings.Join(names, ", "), t.s.of.String(), format)
	}
	began = time.Now()
	if m.rows, err = through(ctx, from, to, out, fmt.Sprintf("copy %s (%s) from stdin%s", sample, strings.Join(names, ", "), format)); err != nil {
		return m, err
	}
	m.seconds, m.bytes = time.Since(began).Seconds(), t.part*float64(t.s.Bytes)
	if err := tx.QueryRow(ctx, `select pg_table_size($1::text::regclass)`, sample).Scan(&m.size); err != nil {
		return m, err
	}
	began = time.Now()
	for _, x := range t.s.indexes {
		if len(x.keys) == 0 || x.method != "btree" {
			continue
		}
		var keys []string
		for _, k := range x.keys {
			keys = append(keys, catalog.Quote(k))
		}
		if _, err := tx.Exec(ctx, fmt.Sprintf("create index on %s (%s)", sample, strings.Join(keys, ", "))); err != nil {
			return m, err
		}
		m.indexes += t.part * float64(x.bytes)
	}
	m.building = time.Since(began).Seconds()
	return m, tx.QueryRow(ctx, `select pg_indexes_size($1::text::regclass)`, sample).Scan(&m.built)
}

// through copies from one server to the other.
func through(ctx context.Context, from, to *pgx.Conn, out, in string) (rows int64, err error) {
	r, w := io.Pipe()
	done := make(chan error, 1)
	go func() {
		_, err := from.PgConn().CopyTo(ctx, w, out)
		w.CloseWithError(err)
		done <- err
	}()
	tag, err := to.PgConn().CopyFrom(ctx, r, in)
	r.CloseWithError(cmp.Or(err, io.ErrClosedPipe))
	return tag.RowsAffected(), cmp.Or(<-done, err)
}
