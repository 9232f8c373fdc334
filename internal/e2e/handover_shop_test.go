package e2e

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/internal/migration"
	"github.com/walferry/walferry/internal/pgtest"
	"github.com/walferry/walferry/internal/schema"
	"github.com/walferry/walferry/internal/shop"
)

// TestHandOver_Shop hands groups of tables over and back in a random order, and now and then everything, while migrate is killed at random moments. One group is
// all of shop, whose four writers and readers on both servers know what must hold; two are services of their own; and somebody writes to these two in
// one transaction, on either server, which must be refused whole wherever they are not the same server's.
//
//	WALFERRY_TEST_HANDOVERS       how many switches; 3 unless given
//	WALFERRY_TEST_HANDOVERS_SEED  a run's choices again; what they meet differs
//	WALFERRY_TEST_HANDOVERS_PAIR  of versions, as 13-17; a random one unless given
func TestHandOver_Shop(t *testing.T) {
	t.Parallel()
	wanted, seed := 3, uint64(time.Now().UnixNano())%1e9
	if n, err := strconv.Atoi(os.Getenv("WALFERRY_TEST_HANDOVERS")); err == nil {
		wanted = n
	}
	if n, err := strconv.ParseUint(os.Getenv("WALFERRY_TEST_HANDOVERS_SEED"), 10, 64); err == nil {
		seed = n
	}
	random := rand.New(rand.NewPCG(seed, 5))
	pair := [][2]int{{10, 18}, {13, 17}, {15, 18}, {18, 18}}[random.IntN(4)]
	if text := os.Getenv("WALFERRY_TEST_HANDOVERS_PAIR"); text != "" {
		if _, err := fmt.Sscanf(text, "%d-%d", &pair[0], &pair[1]); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("again: WALFERRY_TEST_HANDOVERS=%d WALFERRY_TEST_HANDOVERS_SEED=%d WALFERRY_TEST_HANDOVERS_PAIR=%d-%d", wanted, seed, pair[0], pair[1])
	s := newStreet(t, pair[0], pair[1], random)
	for range wanted {
		s.step()
	}
	s.end()
}

// street is shop and two services beside it, and who owns them.
type street struct {
	*kept
	random   *rand.Rand
	sides    [2]string
	owners   map[string]int // of each group
	shop     *shop.Writers
	readers  [2]*shop.Reader
	services map[string]*service
	couriers *couriers
	quit     func() // those who read and carry
}

// fencedTables are one of each group.
var fencedTables = map[string]string{"shop": "billing.books", "orders": "orders.part", "stock": "stock.part"}

func newStreet(t *testing.T, from, to int, random *rand.Rand) *street {
	old, young := pgtest.Pair(t, from, to)
	if err := shop.Load(t.Context(), old, shop.Options{Size: 1}); err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(threeServices, "create schema orders;")
	tables := strings.Replace("create schema orders;"+rest, "insert into billing.total values (1, 0);", "", 1) +
		`create table orders.carried (v text primary key); create table stock.carried (v text primary key); alter table shop.events replica identity full`
	pgtest.Exec(t, old, tables)
	m := newMoving(t, fmt.Sprintf("street_%d_%d", from, to), old, young)
	m.FallBack, m.MaxRetainedWALTarget = migration.FallBackRequire, 1<<40
	if _, err := schema.Find(t.Context(), from, to); err != nil {
		bringShop(t, m, 1)
		pgtest.Exec(t, young, tables+`; truncate orders.total, stock.total`)
	}
	r := m.start()
	r.waitFor(migration.Following)
	r.cancel()
	if _, err := r.end(); err != nil {
		t.Fatal(err)
	}
	s := &street{
		kept: m.keep(m.Config, 1000), random: random, sides: [2]string{old, young}, owners: map[string]int{"shop": 0, "orders": 0, "stock": 0},
		readers: [2]*shop.Reader{{DSN: old}, {DSN: young}}, services: map[string]*service{},
	}
	ctx, cancel := context.WithCancel(context.Background())
	var beside sync.WaitGroup
	s.quit = func() { cancel(); beside.Wait() }
	t.Cleanup(s.quit)
	for side, reader := range s.readers {
		beside.Go(func() {
			if err := reader.Run(ctx); err != nil {
				t.Errorf("reader of server %d: %v", side, err)
			}
		})
	}
	s.couriers = &couriers{t: t, sides: s.sides, acked: map[string]bool{}}
	beside.Go(func() { s.couriers.carry(ctx) })
	beside.Go(func() { s.couriers.look(ctx) })
	for _, name := range []string{"orders", "stock"} {
		one := startService(t, name, old, young)
		s.services[name] = one
		one.wait.Go(func() { one.probe(&s.couriers.there) })
	}
	var err error
	s.shop, err = shop.Start(t.Context(), shop.Config{
		Source: old, Target: young, ToAndFro: true, Clients: 4, TPS: 15, Seed: random.Uint64(), Ready: s.shopIsNew,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.shop.Stop() })
	s.writes("shop")
	return s
}

// shopIsNew reports whether the new server owns shop.
func (s *street) shopIsNew(ctx context.Context) (yes bool, err error) {
	conn, err := pgx.Connect(ctx, s.Target)
	if err != nil {
		return false, err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	err = conn.QueryRow(ctx, `
select exists(select from walferry.migration m where m.name = $1 and (m.phase in ('switched', 'finished') or exists(
    select from jsonb_array_elements(case when jsonb_typeof(m.groups) = 'object' then m.groups -> 'groups' else '[]' end) g
      join walferry.migration r on r.name = m.name || '.g' || (g ->> 'number') and r.phase = 'switched'
     where g -> 'tables' @> '[{"schema": "shop", "name": "ledger"}]')))`, s.Name).Scan(&yes)
	return yes, err
}

// step switches one group, or everything, while migrate may be killed.
func (s *street) step() {
	s.t.Helper()
	name := []string{"shop", "orders", "stock"}[s.random.IntN(3)]
	var killing sync.WaitGroup
	kills, pauses := s.random.IntN(3), [2]int{s.random.IntN(1500), s.random.IntN(1500)}
	killing.Go(func() {
		for n := range kills {
			time.Sleep(time.Duration(pauses[n]) * time.Millisecond)
			s.kill()
		}
	})
	if s.random.IntN(8) == 0 && s.couriers.there.Load() { // until then nothing keeps who was refused from writing to the new server
		s.t.Log("everything to the new server, and all or a part of it back")
		s.ask(migration.Switched)
		s.owns(1)
		if s.random.IntN(2) == 0 {
			s.hand(name)
		} else {
			s.ask(migration.Following)
			s.owns(0)
		}
	} else {
		s.hand(name)
	}
	killing.Wait()
	s.couriers.there.Store(true)
	for name := range s.owners {
		s.writes(name)
		s.refused(name)
	}
	s.shown()
	if s.random.IntN(3) == 0 {
		s.verified()
	}
}

func (s *street) owns(side int) {
	for name := range s.owners {
		s.owners[name] = side
	}
}

// hand switches a group to the server that does not own it, asking as often as it takes.
func (s *street) hand(name string) {
	s.t.Helper()
	side := 1 - s.owners[name]
	c := s.Config
	c.Cut.MaxLag, c.Cut.Timeout, c.Cut.Tables, c.Cut.Loose = patience, patience, []string{name + ".*"}, []string{"orders.carried", "stock.carried"}
	if name == "shop" {
		c.Cut.Tables = append(c.Cut.Tables, "billing.*")
	}
	ask, there := migration.Cutover, "is the new server's already"
	if side == 0 {
		ask, there = migration.Fallback, "old server's|the old server owns all"
	}
	s.t.Logf("%s to server %d", name, side)
	eventually(s.t, fmt.Sprintf("%s on server %d", name, side), func() (bool, string) {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		_, err := ask(ctx, c, nil)
		if err == nil {
			return true, ""
		}
		for _, text := range strings.Split(there, "|") {
			if strings.Contains(err.Error(), text) {
				return true, ""
			}
		}
		return false, err.Error()
	}, s.describe)
	s.owners[name] = side
}

// writes waits until a group is written to where it is owned.
func (s *street) writes(name string) {
	s.t.Helper()
	if name != "shop" {
		s.services[name].goesTo(s.owners[name])
		return
	}
	on := func() int64 { r := s.shop.Report(); return [2]int64{r.Source, r.Target}[s.owners["shop"]] }
	before := on()
	s.eventually(fmt.Sprintf("writes of shop on server %d", s.owners["shop"]), func() bool { return on() > before+10 })
}

// refused expects that a group is written to nowhere else.
func (s *street) refused(name string) {
	s.t.Helper()
	conn, err := pgx.Connect(s.t.Context(), s.sides[1-s.owners[name]])
	if err != nil {
		s.t.Fatal(err)
	}
	defer conn.Close(context.Background())
	if _, err := conn.Exec(s.t.Context(), `delete from `+fencedTables[name]+` where false`); !refusal(err) {
		s.t.Errorf("a write to %s on the server that does not own it: %v", fencedTables[name], err)
	}
}

// shown expects that status says who owns what.
func (s *street) shown() {
	s.t.Helper()
	away := 0
	for _, side := range s.owners {
		away += side
	}
	s.eventually("status that says who owns what", func() bool {
		st, err := migration.ReadStatus(context.Background(), s.Config)
		if err != nil || st.Owner == nil {
			return false
		}
		if *st.Owner == "new" { // it was so before, and is again
			return away == len(s.owners) && len(st.Groups) == 0
		}
		var handed []string
		for _, g := range st.Groups {
			handed = append(handed, g.Tables...)
		}
		for name, side := range s.owners {
			if slices.Contains(handed, fencedTables[name]) != (side == 1) {
				return false
			}
		}
		return (*st.Owner == "mixed") == (away > 0)
	})
}

// verified expects that each table is as its owner has it.
func (s *street) verified() {
	s.t.Helper()
	eventually(s.t, "a comparison", func() (bool, string) {
		v, err := migration.Verify(context.Background(), s.Config, migration.VerifyOptions{})
		if err == nil && !v.AllEqual() {
			s.t.Fatalf("verify finds differences: %+v", v.Report)
		}
		return err == nil, fmt.Sprint(err)
	}, s.describe)
}

// end switches everything to the new server, and looks whether both have what was acknowledged, once.
func (s *street) end() {
	s.t.Helper()
	s.ask(migration.Switched)
	s.owns(1)
	for name := range s.owners {
		s.writes(name)
	}
	report := s.shop.Stop()
	for class, n := range report.Errors {
		if strings.HasPrefix(class, string(shop.Other)) {
			s.t.Errorf("clients got %d errors that no application expects: %s", n, class)
		}
	}
	for _, service := range s.services {
		service.arrived()
	}
	count := `select (select count(*) from shop.ledger) + (select count(*) from orders.carried)`
	s.eventually("the last rows", func() bool { return one[int](s.t, s.sides[0], count) == one[int](s.t, s.sides[1], count) })
	s.quit()
	s.eventually("the last rows", func() bool { return one[int](s.t, s.sides[0], count) == one[int](s.t, s.sides[1], count) })
	for side, dsn := range s.sides {
		if err := s.shop.Check(s.t.Context(), dsn); err != nil {
			s.t.Errorf("check of server %d: %v", side, err)
		}
		s.couriers.check(side)
		if s.readers[side].Snapshots() == 0 {
			s.t.Errorf("nobody has read server %d", side)
		}
	}
	sameRows(s.t, s.sides[1], s.sides[0])
	s.t.Logf("%d transactions of shop, %d refused; %d carried, %d refused whole; %d and %d snapshots read", report.Committed(), report.Refused,
		len(s.couriers.acked), s.couriers.refused, s.readers[0].Snapshots(), s.readers[1].Snapshots())
	if _, err := migration.Finish(context.Background(), s.Config); err != nil {
		s.t.Fatal(err)
	}
	s.eventually("phase finished", func() bool { return s.phase() == string(migration.Finished) })
	s.kept.end()
	s.cleanup()
}

// couriers write to two services in one transaction, on either server.
type couriers struct {
	t     *testing.T
	sides [2]string
	there atomic.Bool // the new server refuses what it does not own

	// Of carry, until it has ended.
	acked   map[string]bool
	refused int
}

func (c *couriers) carry(ctx context.Context) {
	for n := 0; ctx.Err() == nil; n++ {
		side := n % 2
		if side == 1 && !c.there.Load() {
			continue
		}
		err := c.once(side, fmt.Sprint(n))
		switch {
		case err == nil:
			c.acked[fmt.Sprint(n)] = true
		case refusal(err):
			c.refused++
		case !errors.Is(err, context.Canceled):
			c.t.Errorf("carry on server %d: %v", side, err)
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func (c *couriers) once(side int, v string) error {
	conn, err := pgx.Connect(context.Background(), c.sides[side])
	if err != nil {
		return err
	}
	defer conn.Close(context.Background())
	_, err = conn.Exec(context.Background(), fmt.Sprintf(`begin; insert into orders.carried values ('%s'); insert into stock.carried values ('%[1]s'); commit`, v), pgx.QueryExecModeSimpleProtocol)
	return err
}

const torn = `select count(*) from orders.carried a full join stock.carried b using (v) where a.v is null or b.v is null`

// look expects that nobody who reads sees a part of what was carried.
func (c *couriers) look(ctx context.Context) {
	var conns [2]*pgx.Conn
	for side := range conns {
		conn, err := pgx.Connect(context.Background(), c.sides[side])
		if err != nil {
			c.t.Error(err)
			return
		}
		defer conn.Close(context.Background())
		conns[side] = conn
	}
	for ctx.Err() == nil {
		for side, conn := range conns {
			var n int
			if err := conn.QueryRow(context.Background(), torn).Scan(&n); err != nil || n > 0 {
				c.t.Errorf("server %d has a part of %d transactions: %v", side, n, err)
				return
			}
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// check expects what was acknowledged, once, and nothing else.
func (c *couriers) check(side int) {
	c.t.Helper()
	found := map[string]bool{}
	for _, row := range pgtest.Query(c.t, c.sides[side], `select v from orders.carried`) {
		found[row[0]] = true
	}
	for v := range c.acked {
		if !found[v] {
			c.t.Errorf("%s was acknowledged and is not on server %d", v, side)
		}
	}
	if len(found) != len(c.acked) {
		c.t.Errorf("server %d has %d transactions, %d were acknowledged", side, len(found), len(c.acked))
	}
	if n := one[int](c.t, c.sides[side], torn); n != 0 {
		c.t.Errorf("server %d has a part of %d transactions", side, n)
	}
}
