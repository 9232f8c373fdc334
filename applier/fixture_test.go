package applier

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walferry/walferry/decoder"
	"github.com/walferry/walferry/internal/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// relation makes a Relation of public; columns with a star are the key.
func relation(name string, identity byte, columns ...string) *decoder.Relation {
	r := &decoder.Relation{Namespace: "public", Name: name, ReplicaIdentity: identity}
	for _, c := range columns {
		key := strings.HasSuffix(c, "*")
		r.Columns = append(r.Columns, decoder.Column{
			Name: strings.TrimSuffix(c, "*"), Key: key || identity == decoder.IdentityFull,
		})
	}
	return r
}

// unchanged stands in a row for a value that was not sent.
var unchanged = new(int)

// row makes a row of texts, nil and unchanged.
func row(values ...any) []decoder.Value {
	row := make([]decoder.Value, len(values))
	for i, v := range values {
		switch v := v.(type) {
		case nil:
			row[i] = decoder.Value{Kind: decoder.Null}
		case string:
			row[i] = decoder.Value{Kind: decoder.Text, Data: []byte(v)}
		case *int:
			row[i] = decoder.Value{Kind: decoder.Unchanged}
		default:
			panic("a row holds texts, nil and unchanged")
		}
	}
	return row
}

func insert(r *decoder.Relation, values ...any) decoder.Change {
	return decoder.Change{Op: decoder.Insert, Relation: r, New: row(values...)}
}

// update is an UPDATE; old is nil, the old key or the old row.
func update(r *decoder.Relation, old, new []decoder.Value) decoder.Change {
	return decoder.Change{Op: decoder.Update, Relation: r, Old: old, OldFull: old != nil && r.ReplicaIdentity == decoder.IdentityFull, New: new}
}

func remove(r *decoder.Relation, old ...any) decoder.Change {
	return decoder.Change{Op: decoder.Delete, Relation: r, Old: row(old...), OldFull: r.ReplicaIdentity == decoder.IdentityFull}
}

// script numbers transactions as a source would.
type script struct {
	xid uint32
	lsn decoder.LSN
}

// tx is the next transaction.
func (s *script) tx(changes ...decoder.Change) *decoder.Tx {
	s.xid++
	s.lsn += 0x100
	return &decoder.Tx{
		XID: 700 + s.xid, CommitLSN: s.lsn, EndLSN: s.lsn + 0x30, CommitTime: time.Date(2024, 5, 1, 12, 0, int(s.xid), 0, time.UTC),
		First: true, Last: true, Changes: changes,
	}
}

// position is the next position without a transaction.
func (s *script) position() *decoder.Tx {
	s.lsn += 0x100
	return &decoder.Tx{CommitLSN: s.lsn, EndLSN: s.lsn, First: true, Last: true}
}

// target is a database with an applier.
type target struct {
	*Applier
	t     testing.TB
	url   string
	other *pgconn.PgConn // another session's connection to it
	script
}

// newTarget makes a fresh database from SQL, and an applier for it.
func newTarget(t testing.TB, schema string) *target {
	t.Helper()
	return newTargetSince(t, pgtest.Oldest, schema)
}

// newTargetSince is newTarget on a server that has what came with a major version.
func newTargetSince(t testing.TB, major int, schema string) *target {
	t.Helper()
	_, url := pgtest.Pair(t, sourceMajor(), max(targetMajor(), major))
	pgtest.Exec(t, url, schema)
	return openTarget(t, url, Config{Name: "test"})
}

func sourceMajor() int { major, _ := pgtest.Default(); return major }
func targetMajor() int { _, major := pgtest.Default(); return major }

// plainTarget is newTarget with an applier of a role that may not set session_replication_role and
// owns what it creates in the schema own.
func plainTarget(t testing.TB, schema string) (*target, string) {
	t.Helper()
	_, url := pgtest.Pair(t, sourceMajor(), targetMajor())
	role := plainRole(t, url)
	pgtest.Exec(t, url, `create schema own authorization `+role)
	config, err := pgx.ParseConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	config.User = role
	conn, err := pgx.ConnectConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Exec(t.Context(), schema); err != nil {
		t.Fatal(err)
	}
	a, err := New(t.Context(), conn, Config{Name: "test"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close(context.Background()) })
	return &target{Applier: a, t: t, url: url, other: otherConn(t, url)}, role
}

// plainRole makes a role that may create schemas in a database, and nothing else; it goes with all
// that it owns there.
func plainRole(t testing.TB, url string) string {
	t.Helper()
	role := "plain_" + strings.ReplaceAll(databaseOf(t, url), "-", "_")
	role = role[:min(len(role), 60)]
	pgtest.Exec(t, url, `create role `+role+` login; grant create on database `+pgx.Identifier{databaseOf(t, url)}.Sanitize()+` to `+role)
	t.Cleanup(func() {
		conn, err := pgconn.Connect(context.Background(), url)
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close(context.Background())
		if _, err := conn.Exec(context.Background(), `drop owned by `+role+` cascade; drop role `+role).ReadAll(); err != nil {
			t.Error(err)
		}
	})
	return role
}

func openTarget(t testing.TB, url string, c Config) *target {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	a, err := New(t.Context(), conn, c)
	if err != nil {
		conn.Close(context.Background())
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close(context.Background()) })
	return &target{Applier: a, t: t, url: url, other: otherConn(t, url)}
}

// exec runs SQL on the target in another session.
func (g *target) exec(sql string) [][][]byte {
	g.t.Helper()
	return g.result(sql).Rows
}

// result is what the last statement of an SQL has given.
func (g *target) result(sql string) *pgconn.Result {
	g.t.Helper()
	results, err := g.other.Exec(context.Background(), sql).ReadAll()
	if err != nil {
		g.t.Fatalf("%v\nin: %s", err, sql)
	}
	return results[len(results)-1]
}

// apply applies one transaction that must succeed.
func (g *target) apply(changes ...decoder.Change) {
	g.t.Helper()
	if err := g.Apply(g.t.Context(), g.tx(changes...)); err != nil {
		g.t.Fatal(err)
	}
}

// want compares a table's rows, of which the query makes lines, with lines. Positions are in them
// as LSN.String writes them, not as the server does: version 19 fills them up with zeros.
func (g *target) want(query string, lines ...string) {
	g.t.Helper()
	var got []string
	result := g.result(query)
	for _, row := range result.Rows {
		texts := make([]string, len(row))
		for i, value := range row {
			texts[i] = "NULL"
			if value == nil {
				continue
			}
			texts[i] = string(value)
			if result.FieldDescriptions[i].DataTypeOID == 3220 { // pg_lsn
				lsn, err := pglogrepl.ParseLSN(texts[i])
				if err != nil {
					g.t.Fatal(err)
				}
				texts[i] = lsn.String()
			}
		}
		got = append(got, strings.Join(texts, "|"))
	}
	if got, want := strings.Join(got, "\n"), strings.Join(lines, "\n"); got != want {
		g.t.Errorf("%s\ngot:\n%s\nwant:\n%s", query, got, want)
	}
}
