package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/internal/cutover"
	"github.com/walferry/walferry/internal/migration"
	"github.com/walferry/walferry/internal/pgtest"
)

// switching is accounts with what the cutover has to do besides: a sequence, and a
// trigger that is held until the target opens. Nobody writes to held but the tests,
// which lock it to keep a cutover where it is.
const switching = accounts + `
create table public.held (id int primary key);
create function public.nothing() returns trigger language plpgsql as 'begin return new; end';
create trigger always before insert on held for each row execute procedure nothing();
alter table held enable always trigger always;
create sequence public.seq;
select setval('seq', 42);
`

// interruption is a cutover of the real binary that a test stops at a moment.
type interruption struct {
	*testing.T
	migration.Config
	clients *clients
	migrate *exec.Cmd
	asked   *exec.Cmd // the walferry cutover
	quiet   *held     // keeps the cutover from raising the fence that it has prepared
}

// newInterruption has a migrate follow while clients write.
func newInterruption(t *testing.T) *interruption {
	source, target := pgtest.Pair(t, 15, 18)
	pgtest.Exec(t, source, switching)
	i := &interruption{
		T: t, Config: migration.Config{Source: source, Target: target, Name: fmt.Sprintf("kill_%06x", rand.N(1<<24))},
		clients: startClients(t, source, 2, false),
	}
	i.start()
	follows(t, i.Config, 0)
	return i
}

func (i *interruption) start() {
	i.Helper()
	i.migrate = process(i.T, i.Config, "--insert-only", "public.journal")
}

// ask starts a cutover. Its deadline is further away than any test waits: that the
// source opens again is never the deadline's doing.
func (i *interruption) ask(args ...string) {
	i.Helper()
	i.asked = started(i.T, walferry(i.T, i.Config, append([]string{"cutover", "--timeout", "10m", "--max-lag", "3m"}, args...)...))
}

// prepare starts a cutover and keeps it where the fence is put up but open: it waits
// there until no transaction with an id is older than a second.
func (i *interruption) prepare(args ...string) {
	i.Helper()
	i.quiet = hold(i.T, i.Source, `select txid_current()`)
	i.wait("an old transaction", i.Source, `select exists(select from pg_stat_activity where backend_xid is not null and datname = current_database()
  and xact_start < clock_timestamp() - interval '1 second' and query ~ 'select txid_current')`)
	i.ask(args...)
	i.wait("a trigger on every table", i.Source, `select (select count(*) from pg_trigger where tgname = 'walferry_fence' and tgenabled = 'A') = 4`)
}

// wait waits for a query that gives true.
func (i *interruption) wait(what, dsn, sql string) {
	i.Helper()
	conn, err := pgx.Connect(context.Background(), dsn)
	if err != nil {
		i.Fatal(err)
	}
	defer conn.Close(context.Background())
	eventually(i.T, what, func() (yes bool, state string) {
		if err := conn.QueryRow(context.Background(), sql).Scan(&yes); err != nil {
			i.Fatalf("%v\nin: %s", err, sql)
		}
		return yes, ""
	})
}

func (i *interruption) waitPhase(phase migration.Phase) {
	i.Helper()
	i.wait("phase "+string(phase), i.Target, fmt.Sprintf(`select phase = '%s' from walferry.migration where name = '%s'`, phase, i.Name))
}

// waitBlocked waits until a statement of walferry waits for a lock of ours.
func (i *interruption) waitBlocked(dsn, statement string) {
	i.Helper()
	i.wait("a statement that waits: "+statement, dsn, fmt.Sprintf(`select exists(select from pg_stat_activity
 where application_name ~ '^walferry %s' and wait_event_type = 'Lock' and query ~* '%s')`, i.Name, statement))
}

// waitStep waits for a step that the cutover has reported.
func (i *interruption) waitStep(step string) {
	i.Helper()
	i.wait("the step "+step, i.Target, fmt.Sprintf(`select exists(select from walferry.request, unnest(steps) s where s like '%s%%' and answered_at is null)`, step))
}

// holdFunction keeps the fence's function from being replaced. The lock of a table
// gives no transaction id, so that the cutover does not wait for it before the fence.
func (i *interruption) holdFunction() *held {
	i.Helper()
	return hold(i.T, i.Source, `lock table pg_proc in share mode`)
}

// die kills the migrate. What a session of it does on a server goes on there until it
// needs its client.
func (i *interruption) die() {
	i.Helper()
	i.migrate.Process.Kill() //nolint:errcheck // Wait tells
	i.migrate.Wait()         //nolint:errcheck // killed
}

// kill kills the migrate, lets its sessions go that wait for the test, and waits
// until none is left.
func (i *interruption) kill(let ...func()) {
	i.Helper()
	i.die()
	for _, f := range let {
		f()
	}
	for _, dsn := range []string{i.Source, i.Target} {
		i.wait("the end of the sessions that were killed", dsn, fmt.Sprintf(`select not exists(select from pg_stat_activity
 where application_name ~ '^walferry %s' and application_name !~ ' (cutover|status)$')`, i.Name))
	}
}

// sealed tells whether there is no way back.
func (i *interruption) sealed() bool {
	i.Helper()
	conn, err := pgx.Connect(context.Background(), i.Source)
	if err != nil {
		i.Fatal(err)
	}
	defer conn.Close(context.Background())
	state, err := cutover.Look(context.Background(), conn, i.Name)
	if err != nil {
		i.Fatal(err)
	}
	return state.Sealed
}

// moments are those at which a cutover is killed. Each function brings it there,
// kills it, lets go of what it has held, and starts the next run; it returns how many
// rows of held were committed.
var moments = []struct {
	name   string
	sealed bool // there is only the way forward
	kill   func(i *interruption) (rows int)
}{
	{"triggers are put up", false, func(i *interruption) int {
		i.quiet = hold(i.T, i.Source, `lock table held in row exclusive mode`)
		i.ask()
		i.waitBlocked(i.Source, `create trigger .*"held"`)
		i.kill(i.quiet.rollback)
		i.start()
		return 0
	}},
	{"the fence is up but open", false, func(i *interruption) int {
		i.prepare()
		i.kill()
		i.quiet.commit()
		i.start()
		return 0
	}},
	{"the fence is being closed", false, func(i *interruption) int {
		i.prepare()
		function := i.holdFunction()
		i.quiet.commit()
		i.waitPhase(migration.Fenced)
		i.waitBlocked(i.Source, `raise exception`)
		i.kill(function.rollback)
		i.clients.areRefused() // by what was under way on the server
		i.start()
		return 0
	}},
	{"the fence is being closed while the next run begins", false, func(i *interruption) int {
		i.prepare()
		function := i.holdFunction()
		i.quiet.commit()
		i.waitPhase(migration.Fenced)
		i.waitBlocked(i.Source, `raise exception`)
		// The dead and the next run shall meet at the function's row.
		row := hold(i.T, i.Source, fmt.Sprintf(`select 1 from pg_proc where proname = 'fence_%s' for update`, i.Name))
		function.rollback()
		i.wait("a session that waits for the row", i.Source, `select exists(select from pg_locks where not granted and locktype = 'transactionid'
  and pid in (select pid from pg_stat_activity where datname = current_database() and query ~ 'raise exception'))`)
		i.die()
		i.wait("the end of the lock", i.Target, `select not exists(select from pg_locks where locktype = 'advisory' and database = (select oid from pg_database where datname = current_database()))`)
		i.start()
		i.waitBlocked(i.Source, `begin if tg_level = `)
		row.rollback()
		return 0
	}},
	{"the fence waits for a writer", false, func(i *interruption) int {
		i.prepare()
		writer := i.raiseAround(1)
		i.kill()
		writer.commit()
		i.start()
		return 1
	}},
	{"fenced, not drained", false, func(i *interruption) int {
		i.prepare()
		applier := hold(i.T, i.Target, `lock table held in share mode`)
		i.raiseAround(1).commit()
		i.waitStep("fenced 4 tables")
		i.waitBlocked(i.Target, `held`)
		i.kill(applier.rollback)
		i.start()
		return 1
	}},
	{"drained, sequences not set", false, func(i *interruption) int {
		i.prepare()
		sequence := hold(i.T, i.Target, `alter sequence seq cache 7`)
		i.quiet.commit()
		i.waitPhase(migration.Drained)
		i.waitBlocked(i.Target, `setval`)
		i.kill(sequence.rollback)
		i.start()
		return 0
	}},
	{"a table is being copied again", false, func(i *interruption) int {
		i.clients.goOn(1)
		pgtest.Exec(i.T, i.Target, `create unique index on journal (n)`)
		first := pgtest.Query(i.T, i.Source, `update journal set n = -1 where n = (select min(n) from journal) returning (select min(n) from journal)`)[0][0]
		row := hold(i.T, i.Target, `insert into journal values (-1)`)
		i.ask()
		i.waitBlocked(i.Target, `copy .*journal`)
		i.kill(row.rollback)
		pgtest.Exec(i.T, i.Source, `update journal set n = `+first+` where n = -1`)
		i.start()
		return 0
	}},
	{"a word is broken while the fence is raised", false, func(i *interruption) int {
		i.clients.goOn(1)
		i.prepare()
		writer := i.raiseAround(1, `update journal set n = n where n = (select min(n) from journal)`)
		writer.commit()
		if err := i.asked.Wait(); i.asked.ProcessState.ExitCode() != 4 {
			i.Errorf("the cutover ended with %v, want exit code 4", err)
		}
		i.waitPhase(migration.Following)
		i.ask("--dry-run") // copies it again, outside of the fence
		if err := i.asked.Wait(); err != nil {
			i.Errorf("the rehearsal after it: %v", err)
		}
		i.kill()
		i.start()
		return 1
	}},
	{"the seal is under way", false, func(i *interruption) int {
		i.prepare()
		sequence := hold(i.T, i.Target, `alter sequence seq cache 7`)
		i.quiet.commit()
		i.waitPhase(migration.Drained)
		function := i.holdFunction()
		sequence.rollback()
		i.waitBlocked(i.Source, `raise exception`)
		i.kill(function.rollback)
		i.start()
		return 0
	}},
	{"the opening is prepared", false, func(i *interruption) int {
		i.prepare()
		trigger := hold(i.T, i.Target, `lock table held in row exclusive mode`)
		i.quiet.commit()
		i.waitBlocked(i.Target, `alter table .*held.* enable`)
		if i.sealed() {
			i.Error("the fence is sealed, but a lock that the opening needs is not to be had")
		}
		i.kill(trigger.rollback)
		i.start()
		return 0
	}},
	{"sealed, not open", true, func(i *interruption) int {
		i.stopBeforeOpening()
		i.start()
		return 0
	}},
	{"a rehearsal's fence is up", false, func(i *interruption) int {
		i.prepare("--dry-run")
		function := i.holdFunction()
		i.quiet.commit()
		i.waitBlocked(i.Source, `raise exception`)
		writer := hold(i.T, i.Source, `lock table held in row exclusive mode`)
		function.rollback()
		i.clients.areRefused()
		i.kill()
		writer.commit()
		i.start()
		return 0
	}},
}

// raiseAround lets a prepared cutover close its fence around a transaction that has
// written to held and is open.
func (i *interruption) raiseAround(id int, more ...string) *held {
	i.Helper()
	function := i.holdFunction()
	i.quiet.commit()
	i.waitPhase(migration.Fenced)
	i.waitBlocked(i.Source, `raise exception`)
	// Only now: with an old one about the fence is not closed.
	writer := hold(i.T, i.Source, `lock table held in row exclusive mode`)
	writer.do(fmt.Sprintf(`insert into held values (%d)`, id))
	for _, sql := range more {
		writer.do(sql)
	}
	function.rollback()
	i.clients.areRefused()
	return writer
}

// Walferry is killed in the middle of a cutover and the same command is run again.
// Before the seal the source accepts writes again and the migration follows, and a
// second cutover succeeds; after it the run finishes the cutover. Every transaction
// that a client was told of is on the target, once.
func TestKilledInCutover(t *testing.T) {
	for _, m := range moments {
		t.Run(m.name, func(t *testing.T) {
			t.Parallel()
			i := newInterruption(t)
			rows := m.kill(i)
			if err := i.asked.Wait(); err == nil {
				t.Error("the cutover that was interrupted said that it is done")
			}
			if !m.sealed {
				follows(t, i.Config, 0)
				i.clients.goOn(10)
				pgtest.Exec(t, i.Source, `insert into held values (100)`)
				rows++
				i.ask()
				if err := i.asked.Wait(); err != nil {
					t.Fatalf("the second cutover: %v", err)
				}
			}
			i.finished(rows)
		})
	}
}

// finished waits for the migrate's end and expects a cutover that has been done.
func (i *interruption) finished(rows int) {
	i.Helper()
	if err := i.migrate.Wait(); err != nil {
		i.Fatalf("the last migrate: %v", err)
	}
	if st := status(i.T, i.Config); st.Phase != migration.Finished || st.Error != "" {
		i.Errorf("status %+v, want phase finished", st)
	}
	if !i.sealed() {
		i.Error("the source is not sealed after the cutover")
	}
	i.clients.areRefused()
	i.clients.check(i.Target)
	i.clients.check(i.Source)
	want := fmt.Sprintf("%d 43 A", rows)
	got := pgtest.Query(i.T, i.Target, `select (select count(*) from held), nextval('seq'), (select tgenabled from pg_trigger where tgname = 'always')`)[0]
	if strings.Join(got, " ") != want {
		i.Errorf("rows of held, next value of the sequence, state of the trigger: %v, want %s", got, want)
	}
}

// The process that asks for a cutover is killed while the fence is closed and the
// cutover waits for a writer: the migrate that it has asked goes on to the end.
func TestAskerKilledInCutover(t *testing.T) {
	t.Parallel()
	i := newInterruption(t)
	i.prepare()
	writer := i.raiseAround(1)
	i.asked.Process.Kill() //nolint:errcheck // Wait tells
	i.asked.Wait()         //nolint:errcheck // killed
	writer.commit()
	i.finished(1)
}

// A migrate stands still inside the fence, as with its host, until its sessions are gone, another
// one has taken over and has cut over. When it wakes up it knows of nothing of that, and takes its
// cutover back: nothing of it comes to the source, which is sealed, or to the record.
func TestFrozenInCutover(t *testing.T) {
	t.Parallel()
	i := newInterruption(t)
	i.prepare()
	trigger := hold(t, i.Target, `lock table held in row exclusive mode`)
	i.quiet.commit()
	i.waitBlocked(i.Target, `alter table .*held.* enable`)
	frozen := i.migrate
	frozen.Process.Signal(syscall.SIGSTOP) //nolint:errcheck // what follows tells
	i.asked.Process.Kill()                 //nolint:errcheck // Wait tells
	i.asked.Wait()                         //nolint:errcheck // killed
	for _, dsn := range []string{i.Source, i.Target} {
		pgtest.Exec(t, dsn, fmt.Sprintf(`select pg_terminate_backend(pid) from pg_stat_activity where application_name ~ '^walferry %s'`, i.Name))
	}
	trigger.rollback()
	i.start()
	follows(t, i.Config, 0)
	i.clients.goOn(10)
	i.ask()
	if err := i.asked.Wait(); err != nil {
		t.Fatalf("the cutover of the one that has taken over: %v", err)
	}
	frozen.Process.Signal(syscall.SIGCONT) //nolint:errcheck // Wait tells
	// It finds out by its cutover that another one has taken over, or by its applier that the progress has moved.
	if frozen.Wait(); frozen.ProcessState.ExitCode() != 4 && frozen.ProcessState.ExitCode() != 1 {
		t.Errorf("the one that stood still ended with %v, want exit code 4 or 1", frozen.ProcessState)
	}
	i.finished(0)
}

// The source cannot be reached when a cutover is taken back: it is un-fenced as soon as it can.
func TestUnfenceLate(t *testing.T) {
	t.Parallel()
	source, target := pgtest.Pair(t, 15, 18)
	pgtest.Exec(t, source, switching)
	proxy := pgtest.ProxyFor(t, source)
	i := &interruption{
		T: t, Config: migration.Config{Source: proxy.Through(source), Target: target, Name: fmt.Sprintf("late_%06x", rand.N(1<<24))},
		clients: startClients(t, source, 2, false),
	}
	i.start()
	follows(t, i.Config, 0)
	i.prepare()
	trigger := hold(t, i.Target, `lock table held in row exclusive mode`)
	i.quiet.commit()
	i.waitBlocked(i.Target, `alter table .*held.* enable`)
	i.clients.areRefused()
	proxy.Set(pgtest.Network{Down: true})
	proxy.Reset()
	i.asked.Process.Signal(os.Interrupt) //nolint:errcheck // Wait tells
	i.waitStep("un-fencing failed, trying again")
	proxy.Set(pgtest.Network{})
	if err := i.asked.Wait(); i.asked.ProcessState.ExitCode() != 4 {
		t.Errorf("the cutover ended with %v, want exit code 4", err)
	}
	i.clients.goOn(1)
	trigger.rollback()
	i.ask()
	if err := i.asked.Wait(); err != nil {
		t.Fatalf("the second cutover: %v", err)
	}
	i.finished(0)
}
