package e2e

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walferry/walferry/internal/cutover"
	"github.com/walferry/walferry/internal/migration"
	"github.com/walferry/walferry/internal/pgtest"
)

// twoWays has what goes over and back: keys that are drawn, a table that is only inserted into, partitions, one that is truncated.
const twoWays = `
create table public.t (id serial primary key, v text not null unique);
create table public.journal (v text not null);
create table public.part (id int8 generated always as identity, k int, v text, primary key (id, k)) partition by range (k);
create table public.part_0 partition of part for values from (0) to (50);
create table public.part_1 partition of part for values from (50) to (100);
create table public.trunc (id int primary key);
create sequence public.drawn;
insert into t (v) select 'old ' || i from generate_series(1, 20) i;
`

// twoWaysActing acts on each row of twoWays: what acts on the other server as well leaves a row too many, or takes one away.
const twoWaysActing = `
create table public.kin (t int primary key constraint of_t references t on update cascade on delete cascade);
create table public.log (id bigserial primary key, what text not null);
create function public.begets() returns trigger language plpgsql as $$ begin insert into public.kin values (new.id); insert into public.log (what) values (new.v); return new; end $$;
insert into kin select id from t;
create trigger begets after insert on t for each row execute procedure begets();
create rule noted as on insert to part do also insert into log (what) values ('part');
alter table kin add constraint again foreign key (t) references t deferrable initially deferred;
analyze;
`

// actedOnce expects of what acts on rows that it has done so where they were written, and nowhere else.
func (w *wanderers) actedOnce() {
	w.t.Helper()
	for side, dsn := range w.sides {
		got := one[string](w.t, dsn, `select (select count(*) from kin k join t on t.id = k.t) || ' of ' || (select count(*) from t) || ' have kin, ' || (select count(*) from kin) || ' kin, ' || (select count(*) from log) || ' in log'`)
		n := len(w.acked)
		if want := fmt.Sprintf("%[1]d of %[1]d have kin, %[1]d kin, %[2]d in log", n+20, 2*n); got != want {
			w.t.Errorf("server %d: %s; want %s", side, got, want)
		}
	}
}

// wanderers write where the database is: refused by one server, they go to the other one.
type wanderers struct {
	t     *testing.T
	sides [2]string   // the old server's and the new one's
	there atomic.Bool // the new one has been the database: it is fenced from then on when it is not
	halt  chan struct{}
	wait  sync.WaitGroup

	mu    sync.Mutex
	acked map[string]int // by the server that has committed it
}

func startWanderers(t *testing.T, old, young string) *wanderers {
	w := &wanderers{t: t, sides: [2]string{old, young}, halt: make(chan struct{}), acked: map[string]int{}}
	for n := range 2 {
		w.wait.Go(func() { w.write(n) })
	}
	w.wait.Go(w.probe)
	t.Cleanup(w.stop)
	return w
}

func (w *wanderers) stop() {
	select {
	case <-w.halt:
	default:
		close(w.halt)
	}
	w.wait.Wait()
}

// number is how many transactions were acknowledged.
func (w *wanderers) number() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.acked)
}

func refusal(err error) bool {
	var p *pgconn.PgError
	return errors.As(err, &p) && p.Code == cutover.SQLState
}

func (w *wanderers) connect() (conns [2]*pgx.Conn) {
	for i, dsn := range w.sides {
		conn, err := pgx.Connect(context.Background(), dsn)
		if err != nil {
			w.t.Error(err)
			return conns
		}
		conns[i] = conn
	}
	return conns
}

func (w *wanderers) write(writer int) {
	conns := w.connect()
	side := 0
	for i := 0; ; i++ {
		select {
		case <-w.halt:
			return
		case <-time.After(10 * time.Millisecond):
		}
		v := fmt.Sprintf("writer %d transaction %d", writer, i)
		sql := fmt.Sprintf(`begin; insert into t (v) values ('%[1]s'); insert into journal values ('%[1]s'); insert into part (k, v) values (%[2]d, '%[1]s');
update part set k = 99 - k where v = '%[1]s'; select nextval('drawn')`, v, i%100)
		if i%10 == 0 {
			sql += fmt.Sprintf(`; truncate trunc; insert into trunc values (%d)`, i)
		}
		_, err := conns[side].Exec(context.Background(), sql+"; commit", pgx.QueryExecModeSimpleProtocol)
		if err == nil {
			w.mu.Lock()
			w.acked[v] = side
			w.mu.Unlock()
			continue
		}
		conns[side].Exec(context.Background(), `rollback`) //nolint:errcheck // the next statement tells
		if !refusal(err) {
			w.t.Errorf("%s on server %d: %v", v, side, err)
			return
		}
		if side == 1 || w.there.Load() {
			side = 1 - side
		}
	}
}

// probe looks whether both servers are open: the one that is seen to be open before and after the other one was.
func (w *wanderers) probe() {
	conns := w.connect()
	open := func(side int) bool {
		_, err := conns[side].Exec(context.Background(), `begin; insert into trunc select -1 where false; rollback`, pgx.QueryExecModeSimpleProtocol)
		if err != nil {
			conns[side].Exec(context.Background(), `rollback`) //nolint:errcheck // the next statement tells
			if !refusal(err) {
				w.t.Errorf("probe of server %d: %v", side, err)
			}
		}
		return err == nil
	}
	for {
		select {
		case <-w.halt:
			return
		case <-time.After(5 * time.Millisecond):
		}
		if w.there.Load() && open(0) && open(1) && open(0) && open(1) {
			w.t.Error("both servers are open")
			return
		}
	}
}

// arrived waits until what was acknowledged is on both servers, once, and nothing else.
func (w *wanderers) arrived(m *moving) {
	w.t.Helper()
	const rows = `select (select md5(string_agg(v, ',' order by v)) from t) || (select md5(string_agg(v, ',' order by v)) from journal) ||
 (select md5(string_agg(part::text, ',' order by v)) from part) || (select coalesce(string_agg(id::text, ','), '') from trunc)`
	m.eventually("equal rows on both servers", func() bool { return one[string](w.t, w.sides[0], rows) == one[string](w.t, w.sides[1], rows) })
	for side, dsn := range w.sides {
		found := map[string]bool{}
		for _, row := range pgtest.Query(w.t, dsn, `select v from t where v like 'writer%'`) {
			found[row[0]] = true
		}
		for v, by := range w.acked {
			if !found[v] {
				w.t.Errorf("%s, committed on server %d, is not on server %d", v, by, side)
			}
		}
		if len(found) != len(w.acked) {
			w.t.Errorf("server %d has %d transactions, %d were acknowledged", side, len(found), len(w.acked))
		}
		if n := one[int](w.t, dsn, `select count(*) from journal`); n != len(w.acked) {
			w.t.Errorf("the journal of server %d has %d rows, want %d", side, n, len(w.acked))
		}
	}
}

// toAndFro is a migration that goes over, back and over again, by the real binary.
type toAndFro struct {
	*kept
	w     *wanderers
	round atomic.Int32 // how many switches are done

	before string // the old server's schema, where what acts on rows is put aside; otherwise empty
}

// newToAndFro has it follow. look is asked about each statement that migrate sends from then on. With plain the roles may not set
// session_replication_role on either server.
func newToAndFro(t *testing.T, from, to int, plain bool, look func(tf *toAndFro, step string) pgtest.Fault) *toAndFro {
	t.Helper()
	old, young := pgtest.Pair(t, from, to)
	roles := []string{old, young}
	if plain {
		roles = plainRole(t, old, young)
	}
	pgtest.Exec(t, roles[0], twoWays)
	if plain {
		pgtest.Exec(t, roles[0], twoWaysActing)
	}
	m := newMoving(t, "to_and_fro", roles[0], roles[1])
	m.FallBack, m.InsertOnly = migration.FallBackRequire, []string{"public.journal"}
	tf := &toAndFro{}
	r := m.start()
	r.waitFor(migration.Following)
	r.cancel()
	if _, err := r.end(); err != nil {
		t.Fatal(err)
	}
	if plain {
		tf.before = schemaOf(t, old)
	}
	tf.w = startWanderers(t, old, young)
	through := m.Config
	for _, side := range []struct {
		name string
		to   *string
	}{{"old", &through.Source}, {"new", &through.Target}} {
		p := pgtest.ProxyFor(t, *side.to)
		p.Watch(func(s pgtest.Step) pgtest.Fault {
			if strings.HasSuffix(s.Application, " apply") && strings.Contains(s.Statement, `"public".`) || strings.Contains(s.Statement, "set live") {
				return pgtest.Fault{}
			}
			return look(tf, fmt.Sprintf("%s | %s | %s", side.name, s.Application, s.Statement))
		})
		*side.to = p.Through(*side.to)
	}
	tf.kept = m.keep(through, 20)
	return tf
}

// kept is a migration whose migrate, the real binary, is started again whenever it ends.
type kept struct {
	*moving
	most int // runs after which it is an error

	mu      sync.Mutex
	migrate *exec.Cmd
	over    bool // it is not started again
	done    chan struct{}
}

// keep begins it, until the test ends.
func (m *moving) keep(c migration.Config, most int) *kept {
	k := &kept{moving: m, most: most, done: make(chan struct{})}
	go k.keepRunning(c)
	m.t.Cleanup(k.end)
	return k
}

func (k *kept) keepRunning(c migration.Config) {
	defer close(k.done)
	for n := 0; ; n++ {
		cmd := walferry(k.t, c, "migrate")
		var out logged
		cmd.Stdout, cmd.Stderr = &out, &out
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		k.mu.Lock()
		over := k.over
		var err error
		if !over {
			err = cmd.Start()
			k.migrate = cmd
		}
		k.mu.Unlock()
		if over || err != nil {
			return
		}
		err = cmd.Wait()
		k.t.Logf("migrate %d ended with %v:\n%s", n+1, err, tail(out.String()))
		if n > k.most {
			k.t.Error("migrate does not come to stay")
			return
		}
	}
}

func (k *kept) kill() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.migrate != nil {
		k.migrate.Process.Kill() //nolint:errcheck // it may have ended
	}
}

func (k *kept) end() {
	k.mu.Lock()
	k.over = true
	k.mu.Unlock()
	k.kill()
	<-k.done
}

func (k *kept) phase() string {
	return one[string](k.t, k.Target, `select phase from walferry.migration where name = '`+k.Name+`'`)
}

// ask asks for the switch that ends in a phase, as often as it takes.
func (k *kept) ask(phase migration.Phase) {
	k.t.Helper()
	ask := migration.Cutover
	if phase == migration.Following {
		ask = migration.Fallback
	}
	c := k.Config
	c.Cut.MaxLag, c.Cut.Timeout = patience, patience
	eventually(k.t, "phase "+string(phase), func() (bool, string) {
		if k.phase() == string(phase) {
			return true, ""
		}
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		_, err := ask(ctx, c, nil)
		return k.phase() == string(phase), fmt.Sprint(err)
	}, k.describe)
}

// switchTo asks for a switch, as often as it takes, and waits for writes after it.
func (tf *toAndFro) switchTo(phase migration.Phase) {
	tf.t.Helper()
	tf.ask(phase)
	tf.w.there.Store(true)
	before := tf.w.number()
	tf.eventually("writes after the switch", func() bool { return tf.w.number() > before+5 })
	tf.round.Add(1)
}

// goes there, back and there again.
func (tf *toAndFro) goes() {
	tf.t.Helper()
	for _, phase := range []migration.Phase{migration.Switched, migration.Following, migration.Switched} {
		tf.switchTo(phase)
		if tf.before != "" && phase == migration.Following { // foreign keys are validated by the run that has switched, or the next one
			tf.eventually("the old server's schema as it was", func() bool { return schemaOf(tf.t, tf.w.sides[0]) == tf.before })
		}
	}
	tf.w.stop()
	tf.w.arrived(tf.moving)
	if tf.before != "" {
		tf.w.actedOnce()
	}
	refuses(tf.t, tf.Source, "old server", true)
	if n := one[int](tf.t, tf.Target, `select count(*) from pg_trigger where tgname like 'walferry_fence%'`); n != 0 {
		tf.t.Errorf("the new server still has %d triggers of a fence", n)
	}
	if _, err := migration.Finish(context.Background(), tf.Config); err != nil {
		tf.t.Errorf("finish: %v", err)
	}
	tf.eventually("phase finished", func() bool { return tf.phase() == string(migration.Finished) })
	tf.end()
	tf.cleanup()
	if tf.before != "" {
		sameSchema(tf.t, "the old server at the end", tf.w.sides[0], tf.before)
	}
}

// TestFallBackSteps makes the steps of a cutover, a fallback and a second cutover fail, as TestSteps does with a migration: a
// few of them, always the same ones. WALFERRY_TEST_STEPS=SEED takes others, WALFERRY_TEST_STEPS=all takes all. Never are both servers open; the next run goes forward,
// or has everything as before; and what was acknowledged is on both.
func TestFallBackSteps(t *testing.T) {
	t.Parallel()
	fallBackSteps(t, false, regexp.MustCompile(``), 6)
}

// TestFallBackSteps_Roles is that of roles that may not set session_replication_role, with the steps by which triggers and foreign keys are
// put aside, and put back.
func TestFallBackSteps_Roles(t *testing.T) {
	t.Parallel()
	fallBackSteps(t, true, regexp.MustCompile(`(?i)constraint|on_open|aside|validation|(en|dis)able.* trigger`), 6)
}

// fallBackSteps makes some of the steps fail that match.
func fallBackSteps(t *testing.T, plain bool, match *regexp.Regexp, most int) {
	type step struct {
		round int32
		name  string
	}
	var mu sync.Mutex
	var steps []step
	seen := map[step]bool{}
	newToAndFro(t, 15, 18, plain, func(tf *toAndFro, name string) pgtest.Fault {
		s := step{tf.round.Load(), name}
		mu.Lock()
		defer mu.Unlock()
		if !seen[s] && match.MatchString(name) {
			seen[s] = true
			steps = append(steps, s)
		}
		return pgtest.Fault{}
	}).goes()
	type choice struct {
		step
		mode string
	}
	var all []choice
	for _, s := range steps {
		for _, mode := range []string{"cut", "cut-after", "kill", "kill-after"} {
			all = append(all, choice{s, mode})
		}
	}
	t.Logf("%d steps", len(steps))
	if os.Getenv("WALFERRY_TEST_STEPS") != "all" {
		seed := uint64(1)
		if n := os.Getenv("WALFERRY_TEST_STEPS"); n != "" {
			fmt.Sscan(n, &seed) //nolint:errcheck // then it is the usual one
		}
		random := rand.New(rand.NewPCG(seed, 3))
		random.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
		all = all[:min(len(all), most)]
	}
	for _, c := range all {
		t.Run(fmt.Sprintf("%s in switch %d %s", c.mode, c.round+1, c.name), func(t *testing.T) {
			t.Parallel()
			var once sync.Once
			newToAndFro(t, 15, 18, plain, func(tf *toAndFro, name string) (f pgtest.Fault) {
				if name != c.name || tf.round.Load() != c.round {
					return f
				}
				once.Do(func() {
					f.Cut = c.mode == "cut" || c.mode == "kill"
					switch c.mode {
					case "cut-after":
						f.After = func() {}
					case "kill":
						tf.kill()
					case "kill-after":
						f.After = tf.kill
					}
				})
				return f
			}).goes()
		})
	}
}
