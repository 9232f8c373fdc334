package flow

import (
	"context"
	"fmt"
	"math/rand/v2"
	"regexp"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/pgtest"
	"github.com/walferry/walferry/slot"
)

const ownersTables = `
create table own.olds (id int primary key, v text);
create table own.olds2 (id int primary key references own.olds on delete cascade, n int);
create table own.news (id int primary key, v text);
create table own.news2 (id int primary key references own.news on delete cascade, n int)`

var ownersReferences = regexp.MustCompile(` references own\.\w+ on delete cascade`)

// Both flows run, each with all tables, and each table is written on one side. What a flow applies is left out by the other one: each
// applies just as many transactions as somebody has made, whatever they are like, and when nobody writes nothing moves.
func TestOwners(t *testing.T) {
	t.Parallel()
	for _, pair := range [][2]int{{10, 18}, {13, 17}} {
		for _, plain := range []bool{false, true} {
			t.Run(fmt.Sprintf("%d and %d, plain roles %t", pair[0], pair[1], plain), func(t *testing.T) {
				t.Parallel()
				seed := rand.Uint64()
				t.Logf("seed %d", seed)
				b := newBoth(t, pair[0], pair[1], plain)
				tables := []string{"olds", "olds2", "news", "news2"}
				for _, f := range []*Flow{b.forth, b.back} {
					sql := ownersTables
					if plain { // foreign keys would act on what is applied, too
						sql = ownersReferences.ReplaceAllString(sql, "")
					}
					pgtest.Exec(t, f.From.DSN, sql)
				}
				for _, name := range tables {
					b.published.Tables = append(b.published.Tables, catalog.Name{Schema: "own", Name: name})
				}
				b.follow()
				a, err := b.back.Arm(t.Context(), b.published, slot.ExportConfig{})
				if err != nil {
					t.Fatal(err)
				}
				b.start(b.back, a.Identity, 0)

				const transactions = 150
				var group errgroup.Group
				for side, f := range []*Flow{b.forth, b.back} {
					group.Go(func() error {
						return writeOwned(t.Context(), f.From.DSN, []string{"olds", "news"}[side], transactions, rand.New(rand.NewPCG(seed, uint64(side))))
					})
				}
				if err := group.Wait(); err != nil {
					t.Fatal(err)
				}
				b.through(b.forth)
				b.through(b.back)
				for _, name := range tables {
					query := `select count(*), coalesce(md5(string_agg(x::text, ',' order by id)), '') from own.` + name + ` x`
					old, young := pgtest.Query(t, b.old, query)[0], pgtest.Query(t, b.young, query)[0]
					if old[0] != young[0] || old[1] != young[1] || old[0] == "0" {
						t.Errorf("%s differs: %s and %s rows", name, old[0], young[0])
					}
				}
				for _, f := range []*Flow{b.forth, b.back} {
					var applied int
					if err := f.To.Link.Row(t.Context(), `select transactions from walferry.progress where stream = $1`, []any{f.Name.String()}, &applied); err != nil {
						t.Fatal(err)
					}
					if applied != transactions {
						t.Errorf("%s has applied %d transactions; %d were made", f.Name, applied, transactions)
					}
					if c := b.running[f].LeftOut(); c.Strays != 0 || c.Echoes == 0 {
						t.Errorf("%s has left out %+v", f.Name, c)
					}
				}
				b.quiet()
				b.still(25 * time.Second)
			})
		}
	}
}

// writeOwned makes transactions on two tables: small ones, some that are rolled back in part, and one that comes in pieces.
func writeOwned(ctx context.Context, dsn, table string, n int, random *rand.Rand) error {
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	for i := range n {
		sql := fmt.Sprintf(`begin; insert into own.%[1]s values (%[2]d, 'v'); insert into own.%[1]s2 values (%[2]d, 0); `, table, i)
		switch random.IntN(5) {
		case 0:
			sql += fmt.Sprintf(`update own.%[1]s set v = v || '.' where id %% 7 = %[2]d %% 7; `, table, i)
		case 1:
			sql += fmt.Sprintf(`savepoint a; delete from own.%[1]s2; rollback to a; update own.%[1]s2 set n = n + 1 where id < 10; `, table)
		case 2:
			sql += fmt.Sprintf(`delete from own.%[1]s2 where id = %[2]d; delete from own.%[1]s where id = %[2]d; `, table, random.IntN(i+1))
		}
		switch i {
		case n / 3:
			sql += fmt.Sprintf(`insert into own.%[1]s select 100000 + i, repeat('x', 200) from generate_series(1, 12000) i; `, table)
		case n / 2:
			sql += fmt.Sprintf(`truncate own.%[1]s, own.%[1]s2; insert into own.%[1]s values (0, 'again'); insert into own.%[1]s2 values (0, 1); `, table)
		}
		if _, err := conn.PgConn().Exec(ctx, sql+"commit").ReadAll(); err != nil {
			return fmt.Errorf("transaction %d: %w", i, err)
		}
	}
	return nil
}

// still makes sure that next to no positions are stored while nobody writes: each is an echo for the other flow, whose position is one again.
func (b *both) still(long time.Duration) {
	b.t.Helper()
	flows := []*Flow{b.forth, b.back}
	last := map[*Flow]string{}
	moved := map[*Flow]int{}
	began := time.Now()
	for time.Since(began) < long {
		for _, f := range flows {
			at, err := f.Applied(b.t.Context())
			if err != nil {
				b.t.Fatal(err)
			}
			if last[f] != at.String() {
				last[f] = at.String()
				moved[f]++
			}
		}
		time.Sleep(100 * time.Millisecond)
	}
	for _, f := range flows { // one is where it stood
		if most := 2 + int(time.Since(began)/(10*time.Second)); moved[f] > most {
			b.t.Errorf("%s has stored %d positions within %s of quiet, want %d at most", f.Name, moved[f]-1, time.Since(began).Round(time.Second), most-1)
		}
	}
}
