package status

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/session"
	"github.com/walferry/walferry/internal/state"
	"github.com/walferry/walferry/snapshot"
)

// Table is how far a table's copy is.
type Table struct {
	Schema string           `json:"schema"`
	Name   string           `json:"name"`
	State  state.TableState `json:"state"`

	Rows       int64 `json:"rows"`
	Bytes      int64 `json:"bytes"`
	BytesTotal int64 `json:"bytes_total"` // its size on the source when the copy began; 0: not known yet

	CopiedAt   *time.Time `json:"copied_at"`   // when its last row had come; nil: it has not
	Pieces     int        `json:"pieces"`      // in which it is copied
	CopyMS     *int64     `json:"copy_ms"`     // from its first piece's beginning to its last one's end; nil: not known
	IndexMS    *int64     `json:"index_ms"`    // that its indexes took, all sessions together; nil: not known, as of a run that was killed
	AnalyzeMS  *int64     `json:"analyze_ms"`  // that its statistics took; nil: not known, or they were gathered later with others
	ETASeconds *float64   `json:"eta_seconds"` // until then; nil: not known, or it has come
}

// Key is what the table is known by.
func (t *Table) Key() catalog.Name { return catalog.Name{Schema: t.Schema, Name: t.Name} }

// mostTablesNow is how many tables a running migrate shows one by one.
const mostTablesNow = 200

// tablesNow are the tables that a running migrate works on.
func tablesNow(copying []snapshot.TableProgress, indexing []catalog.Name) (now []state.TableNow) {
	for _, t := range copying {
		now = append(now, state.TableNow{Schema: t.Table.Schema, Name: t.Table.Name, State: state.TableCopying, Rows: t.Rows, Bytes: t.Bytes})
	}
	for _, t := range indexing {
		now = append(now, state.TableNow{Schema: t.Schema, Name: t.Name, State: state.TableIndexing})
	}
	return now[:min(len(now), mostTablesNow)]
}

// tablesSQL has what is planned and durable of each table's copy.
const tablesSQL = `
select p.schema_name, p.table_name, p.bytes, count(s.piece) = cardinality(p.bounds),
       (case when count(s.piece) = cardinality(p.bounds) then p.bytes else p.bytes / cardinality(p.bounds) * count(s.piece) end)::int8,
       coalesce(sum(s.rows), 0)::int8, max(s.finished_at), cardinality(p.bounds),
       (extract(epoch from max(s.finished_at) - min((to_jsonb(s) ->> 'began_at')::timestamptz)) * 1000)::int8,
       (to_jsonb(p) ->> 'indexes_ms')::int8, (to_jsonb(p) ->> 'analyze_ms')::int8
  from walferry.copy_plan p left join walferry.copy_state s using (migration, schema_name, table_name)
 where p.migration = $1 group by p.migration, p.schema_name, p.table_name`

// Tables asks the target how far the copy of each table is. There are none before the migration knows its tables.
func Tables(ctx context.Context, target session.Config, name string) ([]Table, error) {
	to, err := session.OpenLink(ctx, target, nil)
	if err != nil {
		return nil, err
	}
	defer to.Close()
	s := state.At(to, name)
	var r *state.Record
	planned := map[catalog.Name]Table{}
	err = s.Read(ctx, func() error {
		if r, err = s.Load(ctx); err != nil || r == nil {
			return err
		}
		return to.Do(ctx, func(conn *pgx.Conn) error {
			if there, err := s.Has(ctx, conn, "copy_plan"); err != nil || !there {
				return err
			}
			rows, err := conn.Query(ctx, tablesSQL, name)
			if err != nil {
				return err
			}
			var t Table
			var done bool
			var last *time.Time
			_, err = pgx.ForEachRow(rows, []any{&t.Schema, &t.Name, &t.BytesTotal, &done, &t.Bytes, &t.Rows, &last, &t.Pieces, &t.CopyMS, &t.IndexMS, &t.AnalyzeMS}, func() error {
				if t.CopiedAt, t.State = last, state.TableDone; !done {
					t.CopiedAt, t.CopyMS, t.State = nil, nil, state.TableWaiting
				}
				planned[t.Key()] = t
				return nil
			})
			return err
		})
	})
	if err != nil {
		return nil, fmt.Errorf("read how far each table is: %w", err)
	}
	if r == nil {
		return nil, nil
	}
	return tables(r, planned), nil
}

// tables puts together what is recorded of a migration's tables, what is durable of their copy, and what the running migrate shows.
func tables(r *state.Record, planned map[catalog.Name]Table) []Table {
	list := []Table{}
	now := map[catalog.Name]state.TableNow{}
	if r.Alive {
		for _, t := range r.Live.Tables {
			now[catalog.Name{Schema: t.Schema, Name: t.Name}] = t
		}
	}
	over := r.Phase != state.New && r.Phase != state.Prepared && r.Phase != state.Copying && r.Phase != state.Indexing && r.Phase != state.Aborted
	for _, known := range r.Tables {
		if known.Kind != "r" {
			continue
		}
		t, ok := planned[known.Name]
		if !ok {
			t = Table{Schema: known.Schema, Name: known.Name.Name, State: state.TableWaiting}
		}
		switch doing, busy := now[known.Name]; {
		case over:
			t.State = state.TableDone
		case busy && doing.State == state.TableCopying && t.State != state.TableDone:
			t.State, t.Rows, t.Bytes = doing.State, max(t.Rows, doing.Rows), max(t.Bytes, doing.Bytes)
		case busy && doing.State == state.TableIndexing:
			t.State = doing.State
		}
		list = append(list, t)
	}
	slices.SortFunc(list, func(a, b Table) int {
		return cmp.Or(cmp.Compare(b.BytesTotal-b.Bytes, a.BytesTotal-a.Bytes), cmp.Compare(b.BytesTotal, a.BytesTotal), cmp.Compare(a.Schema, b.Schema), cmp.Compare(a.Name, b.Name))
	})
	return list
}
