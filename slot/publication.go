package slot

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/online"
	"github.com/walferry/walferry/internal/session"
)

// PublicationIdentity is what must not change of a publication while a slot is read with it: a
// publication that was dropped and created again, or altered, has lost changes without an error.
type PublicationIdentity struct {
	OID     uint32
	Publish string   // "insert,update,delete,truncate" or fewer of them; with ",root" when published via partition roots, ",generated" with generated columns
	Tables  []string // "schema"."table", always quoted, sorted

	// Entries are the tables that were given to it by name; nil in what an older version
	// has recorded, of which only the fields above are compared.
	Entries []PublicationEntry
	Version string // of its row in the catalogue: another one after every ALTER PUBLICATION that concerns no table
	Beyond  string // what it has besides Entries: "all tables", "tables in schema s"
}

// PublicationEntry is a table of a publication: a row of pg_publication_rel.
type PublicationEntry struct {
	OID     uint32 // another one if the table was dropped from it and added again, or got another filter or column list
	Table   uint32 // oid of the table
	Name    string // "schema"."table", always quoted
	Filter  string `json:",omitempty"` // the row filter, from version 15 on
	Columns string `json:",omitempty"` // attnums of the column list, from version 15 on; empty: all columns
}

func (p PublicationIdentity) equal(other PublicationIdentity) bool {
	if p.OID != other.OID || p.Publish != other.Publish || !slices.Equal(p.Tables, other.Tables) {
		return false
	}
	return p.Entries == nil || p.Version == other.Version && p.Beyond == other.Beyond && slices.Equal(p.Entries, other.Entries)
}

// difference returns how got, which is not equal to p, differs from it.
func (p PublicationIdentity) difference(name string, got PublicationIdentity) *PublicationError {
	reason := ""
	switch {
	case p.OID != got.OID:
		reason = fmt.Sprintf("was dropped and created again (oid %d, was %d)", got.OID, p.OID)
	case p.Publish != got.Publish:
		reason = fmt.Sprintf("publishes %s now, before: %s", got.Publish, p.Publish)
	case p.Entries != nil && p.Beyond != got.Beyond:
		reason = fmt.Sprintf("holds %s now, before: %s", beside(got.Beyond), beside(p.Beyond))
	}
	if reason != "" {
		return &PublicationError{Name: name, Reason: reason}
	}
	if renamed, reason := p.entryDifference(got); reason != "" {
		return &PublicationError{Name: name, Reason: reason, Renamed: renamed}
	}
	for _, table := range p.Tables {
		if !slices.Contains(got.Tables, table) {
			return &PublicationError{Name: name, Reason: "has lost table " + table}
		}
	}
	for _, table := range got.Tables {
		if !slices.Contains(p.Tables, table) {
			return &PublicationError{Name: name, Reason: "has a new table " + table}
		}
	}
	return &PublicationError{Name: name, Reason: "was altered, and perhaps altered back: what was written in between may not have been published"}
}

func beside(what string) string {
	if what == "" {
		return "tables by name only"
	}
	return what
}

// entryDifference returns how the tables that were given by name differ; renamed reports that only
// a name does.
func (p PublicationIdentity) entryDifference(got PublicationIdentity) (renamed bool, reason string) {
	byOID, byTable, byName := map[uint32]PublicationEntry{}, map[uint32]bool{}, map[string]bool{}
	for _, e := range got.Entries {
		byOID[e.OID], byTable[e.Table], byName[e.Name] = e, true, true
	}
	var names string
	for _, was := range p.Entries {
		now, ok := byOID[was.OID]
		switch {
		case !ok && byTable[was.Table]:
			return false, "had table " + was.Name + " taken out, or restricted, and put back: what was written in between was not published"
		case !ok && byName[was.Name]:
			return false, "has another table of the name " + was.Name + ": the one that it had was dropped and made again, or taken out"
		case !ok:
			return false, "has lost table " + was.Name
		case now.Filter != was.Filter:
			return false, "publishes only rows of " + was.Name + " that its filter lets through: " + now.Filter
		case now.Columns != was.Columns:
			return false, "publishes other columns of " + was.Name + " than before"
		case now.Name != was.Name && names == "":
			names = "has table " + was.Name + " renamed: " + was.Name + " is called " + now.Name + " now"
		}
	}
	return names != "", names
}

// Publication reads a publication. The error is a *PublicationError if there is none of that name.
func Publication(ctx context.Context, conn *pgx.Conn, name string) (PublicationIdentity, error) {
	found, err := Publications(ctx, conn.PgConn(), []string{name})
	return found[name], err
}

// CheckPublications compares publications with what is expected of them, as Open and every
// reconnect do. The error is a *PublicationError if one is not what it was.
func CheckPublications(ctx context.Context, conn *pgx.Conn, expect map[string]PublicationIdentity) error {
	if len(expect) == 0 {
		return nil
	}
	found, err := Publications(ctx, conn.PgConn(), slices.Sorted(maps.Keys(expect)))
	if err != nil {
		return err
	}
	return ComparePublications(found, expect)
}

// ComparePublications compares publications, as they are, with what is expected of them.
func ComparePublications(found, expect map[string]PublicationIdentity) error {
	for name, want := range expect {
		got, ok := found[name]
		if !ok {
			return &PublicationError{Name: name, Reason: "is not one of those that the stream reads"}
		}
		if !want.equal(got) {
			return want.difference(name, got)
		}
	}
	return nil
}

// Publications reads publications by name; the connection may be a walsender's. The error is a
// *PublicationError if there is none of a name.
func Publications(ctx context.Context, conn *pgconn.PgConn, names []string) (map[string]PublicationIdentity, error) {
	literals := make([]string, len(names))
	for i, name := range names {
		literals[i] = catalog.Literal(name)
	}
	in := " in (" + strings.Join(literals, ", ") + ")"
	since := func(major int, sql, before string) string {
		if session.Major(conn) >= major {
			return sql
		}
		return before
	}
	rows, err := session.Simple(ctx, conn, `
select pubname, oid, concat_ws(',', case when pubinsert then 'insert' end, case when pubupdate then 'update' end, case when pubdelete then 'delete' end,
       case when `+since(11, "pubtruncate", "false")+` then 'truncate' end, case when `+since(13, "pubviaroot", "false")+` then 'root' end,
       case when `+since(18, "pubgencols <> 'n'", "false")+` then 'generated' end), xmin,
       concat_ws(', ', case when puballtables then 'all tables' end, `+since(15, `(select 'tables in schema ' || string_agg(pg_catalog.quote_ident(n.nspname), ', ' order by n.nspname)
         from pg_catalog.pg_publication_namespace s join pg_catalog.pg_namespace n on n.oid = s.pnnspid where s.pnpubid = p.oid)`, "null")+`)
  from pg_catalog.pg_publication p where pubname`+in)
	if err != nil {
		return nil, fmt.Errorf("read publications: %w", err)
	}
	found := make(map[string]PublicationIdentity, len(names))
	for _, row := range rows {
		oid, err := strconv.ParseUint(row[1], 10, 32)
		if err != nil {
			return nil, fmt.Errorf("read publications: %w", err)
		}
		found[row[0]] = PublicationIdentity{OID: uint32(oid), Publish: row[2], Version: row[3], Beyond: row[4], Entries: []PublicationEntry{}}
	}
	for _, name := range names {
		if _, ok := found[name]; !ok {
			return nil, &PublicationError{Name: name, Reason: "does not exist"}
		}
	}
	rows, err = session.Simple(ctx, conn, `select pubname, schemaname, tablename from pg_catalog.pg_publication_tables where pubname`+in)
	if err != nil {
		return nil, fmt.Errorf("read tables of publications: %w", err)
	}
	for _, row := range rows {
		p := found[row[0]]
		p.Tables = append(p.Tables, catalog.Name{Schema: row[1], Name: row[2]}.String())
		found[row[0]] = p
	}
	rows, err = session.Simple(ctx, conn, `
select p.pubname, r.oid, r.prrelid, n.nspname, c.relname,
       `+since(15, "coalesce(pg_catalog.pg_get_expr(r.prqual, r.prrelid), case when r.prqual is not null then '?' end, ''), coalesce(r.prattrs::text, '')", "'', ''")+`
  from pg_catalog.pg_publication p join pg_catalog.pg_publication_rel r on r.prpubid = p.oid
  join pg_catalog.pg_class c on c.oid = r.prrelid join pg_catalog.pg_namespace n on n.oid = c.relnamespace where p.pubname`+in)
	if err != nil {
		return nil, fmt.Errorf("read tables of publications: %w", err)
	}
	for _, row := range rows {
		oid, err1 := strconv.ParseUint(row[1], 10, 32)
		table, err2 := strconv.ParseUint(row[2], 10, 32)
		if err := errors.Join(err1, err2); err != nil {
			return nil, fmt.Errorf("read tables of publications: %w", err)
		}
		p := found[row[0]]
		p.Entries = append(p.Entries, PublicationEntry{uint32(oid), uint32(table), catalog.Name{Schema: row[3], Name: row[4]}.String(), row[5], row[6]})
		found[row[0]] = p
	}
	for _, p := range found {
		slices.Sort(p.Tables)
		slices.SortFunc(p.Entries, func(a, b PublicationEntry) int { return cmp.Compare(a.OID, b.OID) })
	}
	return found, nil
}

// CreatePublication creates a publication of exactly these tables, without their
// partitions and children, and returns its oid. publish is as in CREATE
// PUBLICATION; empty means every kind of change. Version 10 does not know
// truncate, which is left out there; see CreateTruncationTriggers.
//
// Each table is locked (SHARE UPDATE EXCLUSIVE) for a moment, and only a few at the same time: no
// transaction of an application waits for one of them while another is waited for. A table whose
// lock cannot be had is tried until ctx ends.
//
// A slot must be created after the publication is committed: decoding looks the publication up as
// of the change. Nothing alters a publication that was returned from here.
//
// The error is a *PublicationError with Exists if there is one of that name. After any other error
// there is none.
func CreatePublication(ctx context.Context, conn *pgx.Conn, name string, tables []pgx.Identifier, publish string) (uint32, error) {
	sql := createPublicationSQL(session.Major(conn.PgConn()), name, publish)
	if err := online.Run(ctx, conn, "", sql); err != nil {
		if catalog.State(err) == catalog.DuplicateObject {
			return 0, &PublicationError{Name: name, Reason: "exists already", Exists: true}
		}
		return 0, fmt.Errorf("create publication %q: %w", name, err)
	}
	var err error
	for chunk := range slices.Chunk(tables, publishedAtOnce) {
		if err = addTables(ctx, conn, name, chunk); err != nil {
			break
		}
	}
	var p PublicationIdentity
	if err == nil {
		p, err = Publication(ctx, conn, name)
	}
	if err != nil {
		err = fmt.Errorf("create publication %q: %w", name, err)
		clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer cancel()
		if left := DropPublication(clean, conn, name); left != nil && !conn.IsClosed() {
			err = errors.Join(err, left)
		}
		return 0, err
	}
	return p.OID, nil
}

// Publish creates a migration's publications instead of existing ones: of all changes of some
// tables and, if there are any, of inserts and truncates of others. It returns their identities. On
// version 10 the first includes [TruncationTable], which must exist.
func Publish(ctx context.Context, conn *pgx.Conn, names Names, tables, inserts []pgx.Identifier) (map[string]PublicationIdentity, error) {
	const truncate = ", truncate"
	all, some := "insert, update, delete"+truncate, "insert"+truncate
	if session.Major(conn.PgConn()) == 10 {
		tables = append(slices.Clone(tables), strings.SplitN(TruncationTable, ".", 2))
		all, some = strings.TrimSuffix(all, truncate), strings.TrimSuffix(some, truncate)
	}
	publications := map[string]PublicationIdentity{}
	for _, p := range []struct {
		name, publish string
		tables        []pgx.Identifier
	}{{names.Publication, all, tables}, {names.Inserts, some, inserts}} {
		if err := DropPublication(ctx, conn, p.name); err != nil {
			return nil, err
		}
		if len(p.tables) == 0 && p.name != names.Publication { // a stream needs one even without tables
			continue
		}
		if _, err := CreatePublication(ctx, conn, p.name, p.tables, p.publish); err != nil {
			return nil, err
		}
		id, err := Publication(ctx, conn, p.name)
		if err != nil {
			return nil, err
		}
		publications[p.name] = id
	}
	return publications, nil
}

// publishedAtOnce is how many tables one transaction adds at most: as many as it can in a fraction
// of the time for which it may hold their locks.
const publishedAtOnce = 64

// addTables adds tables in one transaction or, if that does not get all locks within a moment, each
// half of them on its own.
func addTables(ctx context.Context, conn *pgx.Conn, publication string, tables []pgx.Identifier) error {
	names := make([]string, len(tables))
	for i, table := range tables {
		names[i] = "only " + table.Sanitize()
	}
	sql := "alter publication " + catalog.Quote(publication) + " add table " + strings.Join(names, ", ")
	if len(tables) == 1 {
		if err := online.Run(ctx, conn, tables[0].Sanitize(), sql); err != nil {
			return fmt.Errorf("add %s: %w", tables[0].Sanitize(), err)
		}
		return nil
	}
	err := online.TryMany(ctx, conn, sql)
	if err == nil || ctx.Err() != nil || !online.Busy(err) {
		return err
	}
	if err := addTables(ctx, conn, publication, tables[:len(tables)/2]); err != nil {
		return err
	}
	return addTables(ctx, conn, publication, tables[len(tables)/2:])
}

func createPublicationSQL(major int, name, publish string) string {
	if publish == "" {
		publish = "insert,update,delete,truncate"
	}
	if major < 11 {
		kinds := slices.DeleteFunc(strings.Split(publish, ","), func(kind string) bool { return strings.TrimSpace(kind) == "truncate" })
		publish = strings.Join(kinds, ",")
	}
	return "create publication " + catalog.Quote(name) + " with (publish = " + catalog.Literal(publish) + ")"
}

// DropPublication drops a publication; it is not an error if there is none. A slot that is read
// with it is of no use afterwards, even if a publication of the same name is created again.
func DropPublication(ctx context.Context, conn *pgx.Conn, name string) error {
	if err := online.Exec(ctx, conn, "drop publication if exists "+catalog.Quote(name)); err != nil {
		return fmt.Errorf("drop publication %q: %w", name, err)
	}
	return nil
}
