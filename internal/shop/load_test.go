package shop

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/walferry/walferry/internal/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// The database has about the size asked for, what the version can do, and the same data on every
// version. WALFERRY_TEST_SHOP_MB loads more, to see how long it takes.
func TestLoad(t *testing.T) {
	size := 5
	if text := os.Getenv("WALFERRY_TEST_SHOP_MB"); text != "" {
		var err error
		if size, err = strconv.Atoi(text); err != nil {
			t.Fatal(err)
		}
	}
	sums := map[string]string{}
	for _, major := range []int{10, 13, 15, 18} {
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			dsn := pgtest.Shared(t, major).Database(t)
			start := time.Now()
			if err := Load(t.Context(), dsn, Options{Size: size}); err != nil {
				t.Fatal(err)
			}
			took := time.Since(start)

			kb := number(t, dsn, `select (sum(pg_total_relation_size(c.oid)) / 1024)::int from pg_class c where relkind in ('r', 'm') and relnamespace in ('shop'::regnamespace, 'billing'::regnamespace)`)
			t.Logf("%d kB in %v", kb, took)
			if want := size * 1024; kb < want*3/4 || kb > want*5/4 {
				t.Errorf("got %d kB, want %d within a quarter", kb, want)
			}
			generated := 0
			if major >= 12 {
				generated = 2
			}
			if got := number(t, dsn, `select count(*) from information_schema.columns where is_generated = 'ALWAYS' and table_schema in ('shop', 'billing')`); got != generated {
				t.Errorf("got %d generated columns, want %d", got, generated)
			}
			if got := number(t, dsn, `select count(*) from shop.documents where length(body) < 10000 or length(body) > 210000`); got != 0 {
				t.Errorf("%d documents are shorter than 10 kB or longer than 200", got)
			}
			heap := number(t, dsn, `select pg_relation_size('shop.documents')`)
			if long := number(t, dsn, `select sum(length(body)) from shop.documents`); heap > long/10 {
				t.Errorf("the heap of documents has %d bytes of %d: they are not out of line", heap, long)
			}
			for _, table := range []string{"shop.orders", "shop.customers", "shop.documents", "shop.basket_items", "billing.payments"} {
				sum := pgtest.Query(t, dsn, `set timezone = 'UTC'; select md5(string_agg(md5(t::text), '' order by md5(t::text))) from `+table+` t`)[0][0]
				if first, ok := sums[table]; ok && sum != first {
					t.Errorf("%s has other rows than on version 10", table)
				}
				sums[table] = sum
			}
			if err := Check(t.Context(), dsn); err != nil {
				t.Error(err)
			}
		})
	}
}

// Load can make what an older version would have on a newer server.
func TestLoad_OlderFeatures(t *testing.T) {
	dsn := pgtest.Shared(t, 15).Database(t)
	if err := Load(t.Context(), dsn, Options{Size: 3, Major: 10}); err != nil {
		t.Fatal(err)
	}
	if got := number(t, dsn, `select count(*) from pg_index where indrelid = 'shop.shipments'::regclass`); got != 0 {
		t.Errorf("got %d indexes on a partitioned table, want none as on 10", got)
	}
}

func TestStepFiles(t *testing.T) {
	for major, want := range map[int][]string{
		10: {"schema.sql", "schema.until10.sql"},
		11: {"schema.sql", "schema.from11.sql"},
		18: {"schema.sql", "schema.from11.sql", "schema.from12.sql"},
	} {
		got, err := stepFiles("schema", major)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(got, want) {
			t.Errorf("%d: got %v, want %v", major, got, want)
		}
	}
}

func number(t *testing.T, dsn, sql string) int {
	t.Helper()
	n, err := strconv.Atoi(pgtest.Query(t, dsn, sql)[0][0])
	if err != nil {
		t.Fatal(err)
	}
	return n
}
