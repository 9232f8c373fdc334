package state

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/internal/catalog"
)

// Value is something that the record keeps for another package, as JSON: what it means
// is known there.
type Value struct {
	column string
	read   string // what a select of it has between select and where
	what   string // for errors
}

// The values.
var (
	// Tables are those of Record.
	Tables = Value{"tables", "tables::text from walferry.migration", "what is known of the tables"}
	// Publications are what the migration's publications were.
	Publications = Value{"publications", "publications::text from walferry.migration", "the publications' identity"}
	// Sequences are the source's as they were defined when the migration began.
	Sequences = Value{"sequences", "coalesce(sequences, '[]')::text from walferry.migration", "the source's sequences as they were"}
	// Refused are objects of the source's schema that the target does not take. A record of an
	// older version has none.
	Refused = Value{"refused", "coalesce(to_jsonb(m) ->> 'refused', '[]') from walferry.migration m", "what the target refuses"}
	// Comparison is what verify has found last.
	Comparison = Value{"comparison", "to_jsonb(m) ->> 'comparison' from walferry.migration m", "the last comparison"}
	// Proof is the comparison of both sides as of the cutover.
	Proof = Value{"proof", "proof::text from walferry.migration", "the comparison as of the cutover"}
	// Result is what a cutover that is done has measured.
	Result = Value{"cutover", "cutover::text from walferry.migration", "what the cutover has measured"}
	// Seen is which tables the stream has shown to be written together.
	Seen = Value{"seen", "to_jsonb(m) ->> 'seen' from walferry.migration m", "which tables are written together"}
	// Groups are the groups of tables that were handed over; null: there are none.
	Groups = Value{"groups", "to_jsonb(m) ->> 'groups' from walferry.migration m", "the groups of tables"}
	// Arming is an Armed. Only a flow that was armed beside the one in the other direction has it.
	Arming = Value{"armed", "armed::text from walferry.migration", "what the flow was armed with"}
	// Aside are the foreign keys that are put aside until the server opens again.
	Aside = Value{"aside", "aside::text from walferry.migration", "the foreign keys that are put aside"}
	// Clients are who is held, and where they are led.
	Clients = Value{"clients", "to_jsonb(m) ->> 'clients' from walferry.migration m", "which clients are held"}
)

// Armed is what is kept of a flow that was armed.
type Armed struct {
	// Begins is the position from which on it brings what is committed; before it, nobody was to write. Zero: it has not begun.
	Begins pglogrepl.LSN `json:"begins"`
	Pass   string        `json:"pass"`             // lets its applier through the fence of the server that it goes to
	Stands bool          `json:"stands,omitempty"` // a fence on the server that it comes from, of an earlier switch in its direction
	// Beside are the tables of the server that it comes from that it does not bring. What is there later beside them is new.
	Beside []catalog.Name `json:"beside,omitempty"`
}

// Values are what is kept beside the record: each Value, and the dump of the source's schema.
type Values struct{ store *Store }

// Values returns what is kept beside the record.
func (s *Store) Values() Values { return Values{s} }

// Get reads a value, and reports whether there is one. If not, into stays as it is.
func (k Values) Get(ctx context.Context, v Value, into any) (found bool, err error) {
	err = k.store.home.Do(ctx, func(conn *pgx.Conn) error {
		if v == Result || v == Arming || v == Aside { // a record of an older version has no place for it
			if there, err := hasColumn(ctx, conn, v.column); err != nil || !there {
				return err
			}
		}
		var text *string
		err := conn.QueryRow(ctx, `select `+v.read+` where name = $1`, k.store.name).Scan(&text)
		if err != nil || text == nil {
			return none(err)
		}
		found = true
		return json.Unmarshal([]byte(*text), into)
	})
	if err != nil {
		return false, fmt.Errorf("read %s: %w", v.what, err)
	}
	return found, nil
}

// Put keeps a value, instead of the one before.
func (k Values) Put(ctx context.Context, v Value, what any) error {
	return k.store.home.Do(ctx, func(conn *pgx.Conn) error { return k.PutIn(ctx, conn, v, what) })
}

// PutOwn is Put, if the record is still this process's.
func (k Values) PutOwn(ctx context.Context, v Value, what any) error {
	text, err := json.Marshal(what)
	if err == nil {
		err = k.store.own(ctx, `update walferry.migration set `+v.column+` = $3::text::jsonb where name = $1 and run = $2 returning name`, string(text))
	}
	if err != nil {
		return fmt.Errorf("record %s: %w", v.what, err)
	}
	return nil
}

// PutIn is Put in a transaction of the home.
func (k Values) PutIn(ctx context.Context, q catalog.Querier, v Value, what any) error {
	text, err := json.Marshal(what)
	if err == nil {
		_, err = q.Exec(ctx, `update walferry.migration set `+v.column+` = $2::text::jsonb where name = $1`, k.store.name, string(text))
	}
	if err != nil {
		return fmt.Errorf("record %s: %w", v.what, err)
	}
	return nil
}

// HasSequences reports whether Sequences were recorded.
func (k Values) HasSequences(ctx context.Context) (yes bool, err error) {
	if err := k.store.home.Row(ctx, `select sequences is not null from walferry.migration where name = $1`, []any{k.store.name}, &yes); err != nil {
		return false, fmt.Errorf("look for %s: %w", Sequences.what, err)
	}
	return yes, nil
}

// PutPublished records the tables and the publications that were made of them, in one statement.
func (k Values) PutPublished(ctx context.Context, tables []Table, publications any) error {
	tablesText, err := json.Marshal(tables)
	if err != nil {
		return err
	}
	publicationsText, err := json.Marshal(publications)
	if err != nil {
		return err
	}
	return k.store.home.Exec(ctx, `update walferry.migration set tables = $2::text::jsonb, publications = $3::text::jsonb where name = $1`,
		k.store.name, string(tablesText), string(publicationsText))
}

// Arm records a flow that was armed: what it comes from, its tables and publications. It takes over the record that there is.
func (s *Store) Arm(ctx context.Context, r *Record, publications any, a Armed) error {
	err := s.arm(ctx, r, publications, a)
	if err != nil {
		return fmt.Errorf("record the flow %s: %w", s.name, err)
	}
	return nil
}

func (s *Store) arm(ctx context.Context, r *Record, publications any, a Armed) error {
	there, err := s.Load(ctx)
	if err == nil && there == nil {
		s.run = "" // of the record that was there before
		err = s.Begin(ctx, r)
	}
	if err == nil && s.run == "" {
		err = s.Take(ctx)
	}
	var texts [3]string
	for i, what := range []any{r.Tables, publications, a} {
		text, unwritten := json.Marshal(what)
		texts[i], err = string(text), cmp.Or(err, unwritten)
	}
	if err != nil {
		return err
	}
	return s.own(ctx, `
update walferry.migration set system_id = $3, timeline = $4, database = $5, slot = $6, consistent_point = $7::text::pg_lsn, error = '',
       tables = $8::text::jsonb, publications = $9::text::jsonb, armed = $10::text::jsonb,
       fenced_at = $11, drained_at = $12, finished_at = $13, sequences = null, comparison = null, seen_at = clock_timestamp()
 where name = $1 and run = $2 returning name`, r.SystemID, r.Timeline, r.Database, r.Slot, r.ConsistentPoint.String(), texts[0], texts[1], texts[2], r.FencedAt, r.DrainedAt, r.FinishedAt)
}

// PutArmed keeps what a flow was armed with, if it is still this process's.
func (s *Store) PutArmed(ctx context.Context, a Armed) error {
	return s.Values().PutOwn(ctx, Arming, a)
}

// PutAside keeps which foreign keys are put aside, if the record is still this process's.
func (s *Store) PutAside(ctx context.Context, keys any) error {
	text, err := json.Marshal(keys)
	if err == nil {
		err = s.own(ctx, `update walferry.migration set aside = $3::text::jsonb where name = $1 and run = $2 returning name`, string(text))
	}
	if err != nil {
		return fmt.Errorf("record %s: %w", Aside.what, err)
	}
	return nil
}

// MineSQL is a statement that fails if the record is another process's by now, and keeps it this one's until the end of the
// transaction.
func (s *Store) MineSQL() string {
	return fmt.Sprintf(`select 1 / count(*) from (select from walferry.migration where name = %s and run = %s for update) mine`, catalog.Literal(s.name), catalog.Literal(s.run))
}

// own runs an update of the record that returns its name. The first parameters are the name and the run; of
// another run it has no row.
func (s *Store) own(ctx context.Context, sql string, args ...any) error {
	var name string
	err := s.home.Row(ctx, sql, append([]any{s.name, s.run}, args...), &name)
	if errors.Is(err, pgx.ErrNoRows) {
		return ErrOvertaken
	}
	return err
}

// HasDump reports whether the dump of the source's schema is kept.
func (k Values) HasDump(ctx context.Context) (yes bool, err error) {
	if err := k.store.home.Row(ctx, `select schema_dump is not null from walferry.migration where name = $1`, []any{k.store.name}, &yes); err != nil {
		return false, fmt.Errorf("look for the schema dump on the target: %w", err)
	}
	return yes, nil
}

// Dump reads the dump of the source's schema.
func (k Values) Dump(ctx context.Context) (archive []byte, err error) {
	if err := k.store.home.Row(ctx, `select schema_dump from walferry.migration where name = $1`, []any{k.store.name}, &archive); err != nil {
		return nil, fmt.Errorf("read the schema dump from the target: %w", err)
	}
	if archive == nil {
		return nil, fmt.Errorf("the target holds no schema dump of migration %q", k.store.name)
	}
	return archive, nil
}

// PutDumpIn keeps the dump of the source's schema, in the transaction of the home that creates the
// tables from it.
func (k Values) PutDumpIn(ctx context.Context, q catalog.Querier, archive []byte) error {
	if _, err := q.Exec(ctx, `update walferry.migration set schema_dump = $2 where name = $1`, k.store.name, archive); err != nil {
		return fmt.Errorf("keep the schema dump on the target: %w", err)
	}
	return nil
}

// FinishSQL returns the statement that records the end: when that was, how long writes were
// refused, what is still held, and what is known of the cutover by then. It is run in the
// transaction that opens the target. If another process has taken over it fails, and the opening
// with it.
func (s *Store) FinishSQL(phase Phase, at time.Time, pauseMS int64, onOpen []string, result any) (string, error) {
	text, err := json.Marshal(result)
	if err != nil {
		return "", err
	}
	literals := make([]string, len(onOpen))
	for i := range onOpen {
		literals[i] = catalog.Literal(onOpen[i])
	}
	return fmt.Sprintf(`with mine as (
  update walferry.migration set phase = %s, error = '', finished_at = %s, pause_ms = %d, on_open = array[%s]::text[], aside = null, cutover = %s::jsonb where name = %s and run = %s returning 1)
select 1 / count(*) from mine`,
		catalog.Literal(string(phase)), catalog.Literal(at.UTC().Format(time.RFC3339Nano)), pauseMS, strings.Join(literals, ", "), catalog.Literal(string(text)), catalog.Literal(s.name), catalog.Literal(s.run)), nil
}

// OnOpen reads what the opening of the target runs there, in the form in which it was recorded.
func OnOpen(ctx context.Context, q catalog.Querier, migration string) (elements []string, err error) {
	if err := q.QueryRow(ctx, `select on_open from walferry.migration where name = $1`, migration).Scan(&elements); err != nil {
		return nil, fmt.Errorf("read what is held until the opening: %w", err)
	}
	return elements, nil
}

// PutOnOpen records it, instead of what was there.
func PutOnOpen(ctx context.Context, q catalog.Querier, migration string, elements []string) error {
	if _, err := q.Exec(ctx, `update walferry.migration set on_open = $2::text[] where name = $1`, migration, elements); err != nil {
		return fmt.Errorf("record what is held until the opening: %w", err)
	}
	return nil
}
