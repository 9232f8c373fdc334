package e2e

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walferry/walferry/internal/pgtest"
)

// sameRows compares every ordinary table of the source with the target's of the
// same name: every column of the source, as text, rows in the order of that text.
func sameRows(t *testing.T, source, target string) {
	t.Helper()
	tables := tablesOf(t, source)
	for table := range tablesOf(t, target) {
		if _, ok := tables[table]; !ok {
			t.Errorf("the target has table %s, the source has not", table)
		}
	}
	from, to := reader(t, source), reader(t, target)
	defer from.Close(context.Background())
	defer to.Close(context.Background())
	for table, columns := range tables {
		query := "copy (select from only " + table + ") to stdout"
		if len(columns) > 0 {
			var values, order []string
			for i, c := range columns {
				// The output function, not a cast, says what a client sees: the blanks of
				// char(n) are there, and the encoding that an xml document declares is not.
				values = append(values, fmt.Sprintf("%s as c%d", c, i+1))
				order = append(order, fmt.Sprintf("c%d::text collate \"C\"", i+1))
			}
			query = fmt.Sprintf("copy (select * from (select %s from only %s) rows order by %s) to stdout", strings.Join(values, ", "), table, strings.Join(order, ", "))
		}
		want, err := dump(from, query)
		if err != nil {
			t.Errorf("read %s on the source: %v", table, err)
			continue
		}
		got, err := dump(to, query)
		if err != nil {
			t.Errorf("read %s on the target: %v", table, err)
			continue
		}
		if !bytes.Equal(got, want) {
			t.Errorf("table %s differs: %s", table, firstDifference(got, want))
		}
	}
}

// tablesOf lists the ordinary tables, quoted, with an expression for each of their
// columns that has the same text on all versions.
func tablesOf(t *testing.T, dsn string) map[string][]string {
	t.Helper()
	tables := map[string][]string{}
	for _, row := range pgtest.Query(t, dsn, `
select quote_ident(n.nspname) || '.' || quote_ident(c.relname),
       -- versions before 12 write the same float in another way, and those before 19 a position: their bits are compared
       case when a.atttypid = any ('{float4,float8,point,lseg,path,box,polygon,line,circle,pg_lsn}'::regtype[])
              or exists (select from pg_range g where g.rngtypid = a.atttypid and g.rngsubtype = 'float8'::regtype)
            then (select format('pg_catalog.%s(%I)', p.proname, a.attname) from pg_type t join pg_proc p on p.oid = t.typsend where t.oid = a.atttypid)
            else coalesce(quote_ident(a.attname), '') end
  from pg_class c join pg_namespace n on n.oid = c.relnamespace
  left join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
 where c.relkind = 'r' and c.relpersistence = 'p' and n.nspname not in ('pg_catalog', 'information_schema', 'walferry') and n.nspname !~ '^pg_'
   and not exists (select from pg_depend d where d.classid = 'pg_class'::regclass and d.objid = c.oid and d.deptype = 'e')
 order by 1, a.attname::text collate "C"`) {
		if row[1] == "" {
			tables[row[0]] = nil
		} else {
			tables[row[0]] = append(tables[row[0]], row[1])
		}
	}
	return tables
}

// reader is a connection with the settings that decide on the text of values.
func reader(t *testing.T, dsn string) *pgconn.PgConn {
	t.Helper()
	ctx := context.Background()
	conn, err := pgconn.Connect(ctx, dsn)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Exec(ctx, `set datestyle = 'ISO, YMD'; set intervalstyle = postgres; set timezone = 'UTC'; set extra_float_digits = 3;
set bytea_output = hex; set xmloption = content; set row_security = off; set search_path = ''; set client_encoding = 'UTF8'; set work_mem = '64MB'`).ReadAll(); err != nil {
		t.Fatal(err)
	}
	return conn
}

// dump returns what COPY TO STDOUT gives.
func dump(conn *pgconn.PgConn, query string) ([]byte, error) {
	var rows bytes.Buffer
	_, err := conn.CopyTo(context.Background(), &rows, query)
	return rows.Bytes(), err
}

func firstDifference(got, want []byte) string {
	g, w := bytes.Split(got, []byte("\n")), bytes.Split(want, []byte("\n"))
	for i := range max(len(g), len(w)) {
		var a, b string
		if i < len(g) {
			a = string(g[i])
		}
		if i < len(w) {
			b = string(w[i])
		}
		if a != b {
			return fmt.Sprintf("%d rows on the target, %d on the source; the first different one is\ngot  %.300s\nwant %.300s", len(g)-1, len(w)-1, a, b)
		}
	}
	return "not in its lines"
}

// shape is everything of the schema that every version tells in the same words.
const shape = `
select 'index', i.indexrelid::regclass::text, x.relname, i.indisunique::text || i.indisvalid::text || i.indisreplident::text
  from pg_index i join pg_class x on x.oid = i.indrelid join pg_namespace n on n.oid = x.relnamespace
 where n.nspname !~ '^(pg_|information_schema$|walferry$)'
union all
select 'constraint', k.conrelid::regclass::text, k.conname, k.contype::text || k.condeferrable::text || k.condeferred::text || k.convalidated::text
  from pg_constraint k join pg_namespace n on n.oid = k.connamespace
 where k.contype in ('c', 'f', 'p', 'u', 'x') and k.conrelid <> 0 and k.conparentid_is_zero and n.nspname !~ '^(pg_|information_schema$|walferry$)'
union all
select 'trigger', g.tgrelid::regclass::text, g.tgname, g.tgenabled::text
  from pg_trigger g where not g.tgisinternal and g.tgname !~ '^walferry_'
union all
select 'default', d.adrelid::regclass::text, a.attname, a.attidentity::text
  from pg_attrdef d join pg_attribute a on a.attrelid = d.adrelid and a.attnum = d.adnum join pg_class c on c.oid = d.adrelid join pg_namespace n on n.oid = c.relnamespace
 where n.nspname <> 'walferry'
union all
select 'rule', w.ev_class::regclass::text, w.rulename, w.ev_enabled::text
  from pg_rewrite w join pg_class c on c.oid = w.ev_class join pg_namespace n on n.oid = c.relnamespace where n.nspname !~ '^(pg_|information_schema$|walferry$)'
union all
select 'policy', p.polrelid::regclass::text, p.polname, p.polcmd::text from pg_policy p
union all
select 'comment', c.objoid::regclass::text, c.objsubid::text, c.description from pg_description c join pg_class k on k.oid = c.objoid and c.classoid = 'pg_class'::regclass
  join pg_namespace n on n.oid = k.relnamespace where n.nspname !~ '^(pg_|information_schema$|walferry$)'
union all
select 'owner and privileges', c.oid::regclass::text, pg_get_userbyid(c.relowner), (select string_agg(a.grantee::regrole || ':' || a.privilege_type, ',' order by a.grantee::regrole::text, a.privilege_type)
    from aclexplode(c.relacl) a where a.privilege_type <> 'MAINTAIN')
  from pg_class c join pg_namespace n on n.oid = c.relnamespace where c.relkind in ('r', 'v', 'm', 'S', 'p') and n.nspname !~ '^(pg_|information_schema$|walferry$)'
order by 1, 2, 3, 4`

// sameShape compares what surrounds the rows.
func sameShape(t *testing.T, source, target string) {
	t.Helper()
	in := func(dsn string) string {
		parent := "true"
		if one[int](t, dsn, `select current_setting('server_version_num')::int`) >= 110000 {
			parent = "(k.conparentid = 0)"
		}
		var lines []string
		for _, row := range pgtest.Query(t, dsn, strings.Replace(shape, "k.conparentid_is_zero", parent, 1)) {
			lines = append(lines, strings.Join(row, " | "))
		}
		return strings.Join(lines, "\n")
	}
	got, want := in(target), in(source)
	if got != want {
		t.Errorf("the schemas differ: %s", firstDifference([]byte(got), []byte(want)))
	}
}

// sameSequences compares where all sequences stand.
func sameSequences(t *testing.T, source, target string) {
	t.Helper()
	for _, row := range pgtest.Query(t, source, `select quote_ident(n.nspname) || '.' || quote_ident(c.relname) from pg_class c join pg_namespace n on n.oid = c.relnamespace
 where c.relkind = 'S' and n.nspname <> 'walferry' order by 1`) {
		where := `select last_value || ' ' || is_called from ` + row[0]
		if got, want := one[string](t, target, where), one[string](t, source, where); got != want {
			t.Errorf("sequence %s stands at %s, want %s", row[0], got, want)
		}
	}
}
