package decoder

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/session"
)

// PublicationIdentity is what must not change of a publication while a slot is
// read with it: a publication that was dropped and made again, or altered, has
// lost changes without an error.
type PublicationIdentity struct {
	OID     uint32
	Publish string   // "insert,update,delete,truncate" or fewer of them; with ",root" when published via partition roots
	Tables  []string // "schema"."table", always quoted, sorted
}

func (p PublicationIdentity) equal(other PublicationIdentity) bool {
	return p.OID == other.OID && p.Publish == other.Publish && slices.Equal(p.Tables, other.Tables)
}

// difference says in a clause how got differs from p.
func (p PublicationIdentity) difference(got PublicationIdentity) string {
	switch {
	case p.OID != got.OID:
		return fmt.Sprintf("was dropped and created again (oid %d, was %d)", got.OID, p.OID)
	case p.Publish != got.Publish:
		return fmt.Sprintf("publishes %s now, before: %s", got.Publish, p.Publish)
	}
	for _, table := range p.Tables {
		if !slices.Contains(got.Tables, table) {
			return "has lost table " + table
		}
	}
	for _, table := range got.Tables {
		if !slices.Contains(p.Tables, table) {
			return "has a new table " + table
		}
	}
	return "has changed"
}

// Publication reads a publication. The error is a *PublicationError when there is
// none of that name.
func Publication(ctx context.Context, conn *pgx.Conn, name string) (PublicationIdentity, error) {
	found, err := publications(ctx, conn.PgConn(), []string{name})
	return found[name], err
}

func publications(ctx context.Context, conn *pgconn.PgConn, names []string) (map[string]PublicationIdentity, error) {
	literals := make([]string, len(names))
	for i, name := range names {
		literals[i] = catalog.Literal(name)
	}
	in := " in (" + strings.Join(literals, ", ") + ")"
	truncate, root := "false", "false"
	if session.Major(conn) >= 11 {
		truncate = "pubtruncate"
	}
	if session.Major(conn) >= 13 {
		root = "pubviaroot"
	}
	rows, err := query(ctx, conn, `
select pubname, oid, concat_ws(',', case when pubinsert then 'insert' end, case when pubupdate then 'update' end,
       case when pubdelete then 'delete' end, case when `+truncate+` then 'truncate' end, case when `+root+` then 'root' end)
  from pg_catalog.pg_publication where pubname`+in)
	if err != nil {
		return nil, fmt.Errorf("read publications: %w", err)
	}
	found := make(map[string]PublicationIdentity, len(names))
	for _, row := range rows {
		oid, err := strconv.ParseUint(row[1], 10, 32)
		if err != nil {
			return nil, fmt.Errorf("read publications: %w", err)
		}
		found[row[0]] = PublicationIdentity{OID: uint32(oid), Publish: row[2]}
	}
	for _, name := range names {
		if _, ok := found[name]; !ok {
			return nil, &PublicationError{Name: name, Reason: "does not exist"}
		}
	}
	rows, err = query(ctx, conn, `select pubname, schemaname, tablename from pg_catalog.pg_publication_tables where pubname`+in)
	if err != nil {
		return nil, fmt.Errorf("read tables of publications: %w", err)
	}
	for _, row := range rows {
		p := found[row[0]]
		p.Tables = append(p.Tables, catalog.Name(row[1], row[2]))
		found[row[0]] = p
	}
	for _, p := range found {
		slices.Sort(p.Tables)
	}
	return found, nil
}

// CreatePublication creates a publication of exactly these tables, without their
// partitions and children, and returns its oid. publish is as in CREATE
// PUBLICATION; empty means every kind of change. Version 10 does not know
// truncate, which is left out there; see CreateTruncationTriggers.
//
// A slot must be created after the publication is committed: decoding looks the
// publication up as of the change. Nothing here ever alters one.
//
// The error is a *PublicationError with Exists when there is one of that name.
func CreatePublication(ctx context.Context, conn *pgx.Conn, name string, tables []pgx.Identifier, publish string) (uint32, error) {
	sql := createPublicationSQL(session.Major(conn.PgConn()), name, tables, publish)
	if _, err := conn.PgConn().Exec(ctx, sql).ReadAll(); err != nil {
		if sqlState(err) == "42710" {
			return 0, &PublicationError{Name: name, Reason: "exists already", Exists: true}
		}
		return 0, fmt.Errorf("create publication %q: %w", name, err)
	}
	p, err := Publication(ctx, conn, name)
	if err != nil {
		return 0, fmt.Errorf("create publication %q: %w", name, err)
	}
	return p.OID, nil
}

func createPublicationSQL(major int, name string, tables []pgx.Identifier, publish string) string {
	if publish == "" {
		publish = "insert,update,delete,truncate"
	}
	if major < 11 {
		kinds := slices.DeleteFunc(strings.Split(publish, ","), func(kind string) bool { return strings.TrimSpace(kind) == "truncate" })
		publish = strings.Join(kinds, ",")
	}
	sql := "create publication " + catalog.Quote(name)
	for i, table := range tables {
		if i == 0 {
			sql += " for table"
		} else {
			sql += ","
		}
		sql += " only " + table.Sanitize()
	}
	return sql + " with (publish = " + catalog.Literal(publish) + ")"
}

// DropPublication drops a publication; that there is none is fine. A slot that is
// read with it is of no use afterwards, also when a publication of the same name
// is created again.
func DropPublication(ctx context.Context, conn *pgx.Conn, name string) error {
	if _, err := conn.PgConn().Exec(ctx, "drop publication if exists "+catalog.Quote(name)).ReadAll(); err != nil {
		return fmt.Errorf("drop publication %q: %w", name, err)
	}
	return nil
}
