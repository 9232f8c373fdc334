package e2e

import (
	"encoding/json"
	"fmt"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/walferry/walferry/internal/migration"
	"github.com/walferry/walferry/internal/pgtest"
)

// What one process tells is what every other one tells: migrate, whoever asked it for a
// cutover, whoever asks later, verify and status.

// asked is a process of the real binary whose output is kept.
type asked struct {
	t      *testing.T
	args   string
	cmd    *exec.Cmd
	stdout logged
	stderr logged
}

func runs(t *testing.T, c migration.Config, args ...string) *asked {
	t.Helper()
	a := &asked{t: t, args: strings.Join(args, " "), cmd: walferry(t, c, args...)}
	a.cmd.Stdout, a.cmd.Stderr = &a.stdout, &a.stderr
	if err := a.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if a.cmd.ProcessState == nil {
			a.cmd.Process.Kill() //nolint:errcheck // it may have ended
			a.cmd.Wait()         //nolint:errcheck // as above
		}
	})
	return a
}

// ends waits for the process's end: its exit code, and what its results and errors must say.
func (a *asked) ends(code int, says ...string) {
	a.t.Helper()
	a.cmd.Wait() //nolint:errcheck // the exit code tells
	out := a.stdout.String() + a.stderr.String()
	if got := a.cmd.ProcessState.ExitCode(); got != code {
		a.t.Errorf("walferry %s: exit code %d, want %d:\n%s", a.args, got, code, out)
	}
	for _, s := range says {
		if !strings.Contains(out, s) {
			a.t.Errorf("walferry %s does not say %q:\n%s", a.args, s, out)
		}
	}
}

// never makes sure that something was not said.
func (a *asked) never(says string) {
	a.t.Helper()
	if out := a.stdout.String() + a.stderr.String(); strings.Contains(out, says) {
		a.t.Errorf("walferry %s says %q:\n%s", a.args, says, out)
	}
}

// truth is a migration by the real binary.
type truth struct {
	interruption
	ran *asked // the migrate
}

func newTruth(t *testing.T, from, to int, schema string, options ...string) *truth {
	t.Helper()
	source, target := pgtest.Pair(t, from, to)
	pgtest.Exec(t, source, schema)
	tr := &truth{interruption: interruption{T: t, Config: migration.Config{Source: source, Target: target, Name: migrationName("truth")}}}
	tr.ran = runs(t, tr.Config, append([]string{"migrate"}, options...)...)
	follows(t, tr.Config, 0)
	return tr
}

func (tr *truth) run(args ...string) *asked {
	tr.Helper()
	if args[0] == "cutover" {
		args = append(args, "--timeout", "10m", "--max-lag", "3m")
	}
	return runs(tr.T, tr.Config, args...)
}

// status is the JSON of the cutover in status.
func (tr *truth) status() string {
	tr.Helper()
	text, err := json.Marshal(status(tr.T, tr.Config).Cutover)
	if err != nil {
		tr.Fatal(err)
	}
	return string(text)
}

// beforeFence starts something that cuts over, and returns when it stands before the
// fence; with release it goes on.
func (tr *truth) beforeFence(args ...string) (cutover *asked, release func()) {
	tr.Helper()
	old := hold(tr.T, tr.Source, `select txid_current()`)
	tr.wait("an old transaction", tr.Source, `select exists(select from pg_stat_activity where backend_xid is not null and datname = current_database()
  and xact_start < clock_timestamp() - interval '1 second' and query ~ 'select txid_current')`)
	cutover = tr.run(args...)
	tr.wait("a trigger on every table", tr.Source, `select exists(select from pg_trigger where tgname = 'walferry_fence')
  and not exists(select from pg_class c where relkind = 'r' and relnamespace = 'public'::regnamespace
    and not exists(select from pg_trigger where tgrelid = c.oid and tgname = 'walferry_fence' and tgenabled = 'A'))`)
	return cutover, old.rollback
}

// open waits until so many requests wait for an answer.
func (tr *truth) open(n int) {
	tr.Helper()
	tr.wait(fmt.Sprint(n, " open requests"), tr.Target, fmt.Sprintf(`select count(*) = %d from walferry.request where migration = '%s' and answered_at is null`, n, tr.Name))
}

const twoTables = `
create table public.s (id int primary key, v text);
create table public.t (id int primary key, v text);
insert into s select i, 'x' from generate_series(1, 10) i;
insert into t select i, 'x' from generate_series(1, 20) i`

// A cutover whose comparison finds a difference is no success, for nobody.
func TestTruth_Different(t *testing.T) {
	t.Parallel()
	tr := newTruth(t, 15, 18, twoTables, "--verify")
	pgtest.Exec(t, tr.Target, `update s set v = 'y' where id = 3`)
	const differed = "source and target DIFFERED at that moment"
	cutover := tr.run("cutover")
	cutover.ends(5, "cut over: writes were refused", differed, "the cutover is done, but source and target differed")
	cutover.never("were equal")
	tr.ran.ends(5, "cut over: writes were refused", differed, "keep it until the differences are dealt with")
	tr.run("cutover").ends(5, "the cutover is done already", differed)
	tr.run("cutover", "--json").ends(5, `"equal": false`, `"compared": 2`, `"not_compared": 0`)
	tr.run("migrate").ends(5, "finished already", differed)
	tr.run("verify").ends(5, "2 tables, 30 rows: NOT equal as of the cutover", "id=3 (v)")
	tr.run("status").ends(0, differed)
	if got := tr.status(); !strings.Contains(got, `"equal":false`) {
		t.Errorf("status --json: %s", got)
	}
}

// Equal is said with what was compared, and the same by everybody.
func TestTruth_Equal(t *testing.T) {
	t.Parallel()
	tr := newTruth(t, 15, 15, twoTables, "--verify", "--cutover", "auto")
	const equal = "both sides were equal at that moment: 2 tables, 30 rows"
	tr.ran.ends(0, equal)
	tr.run("cutover").ends(0, "the cutover is done already", equal)
	tr.run("migrate").ends(0, "finished already", equal)
	tr.run("verify").ends(0, "2 tables, 30 rows: equal as of the cutover")
	tr.run("status", "--json").ends(0, `"equal": true`, `"compared": 2`)
}

// Whoever asks for a cutover while another one is under way gets what that one has come to;
// what else was asked for is told that it came too late.
func TestTruth_AskedTogether(t *testing.T) {
	t.Parallel()
	tr := newTruth(t, 15, 18, twoTables, "--verify")
	first, release := tr.beforeFence("cutover")
	second, third, rehearsal := tr.run("cutover"), tr.run("cutover", "--json"), tr.run("cutover", "--dry-run")
	tr.open(4)
	release()
	const equal = "both sides were equal at that moment: 2 tables, 30 rows"
	first.ends(0, "cut over: ", equal)
	second.ends(0, "the cutover is done already", equal)
	third.ends(0, `"already": true`, `"equal": true`, `"tables": 2`)
	rehearsal.ends(4, "the cutover is done already")
	tr.ran.ends(0, equal)
}

// A migrate that is stopped takes a cutover back that is not sealed, and everybody who has
// asked is told that everything is as before. An abort after that is carried out.
func TestTruth_Stopped(t *testing.T) {
	t.Parallel()
	tr := newTruth(t, 15, 18, twoTables)
	first, release := tr.beforeFence("cutover")
	second := tr.run("cutover")
	tr.open(2)
	tr.ran.cmd.Process.Signal(syscall.SIGTERM) //nolint:errcheck // its end tells
	first.ends(4, "the running migrate is ending", "everything is as before")
	second.ends(4, "nothing was changed")
	tr.ran.ends(6)
	tr.run("abort").ends(0, "aborted") // one that is asked meanwhile takes the cutover back: TestCutover_Unwanted
	release()
	if got := one[string](t, tr.Target, phaseOf(tr.Config)); got != string(migration.Aborted) {
		t.Errorf("phase %s, want aborted", got)
	}
	pgtest.Exec(t, tr.Source, `insert into s values (100)`)
}

// A comparison that comes to no end proves nothing: the cutover is done, and every process
// says both.
func TestTruth_ComparisonFails(t *testing.T) {
	for _, how := range []string{"terminated", "killed"} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			tr := newTruth(t, 15, 18, twoTables+`; create table public.large (id int primary key, v text);
insert into large select i, repeat(md5(i::text), 10) from generate_series(1, 6000) i`, "--verify")
			first, release := tr.beforeFence("cutover")
			lock := hold(t, tr.Target, `lock table large in access exclusive mode`)
			release()
			tr.wait("a comparison that waits", tr.Target, `select exists(select from pg_stat_activity where application_name = 'walferry verify' and wait_event_type = 'Lock' and datname = current_database())
  and exists(select from walferry.migration where phase = 'finished' and name = '`+tr.Name+`')`)
			why := "terminating connection"
			if how == "killed" {
				why = "migrate ended before the comparison did"
				tr.ran.cmd.Process.Kill() //nolint:errcheck // its end tells
				tr.ran.cmd.Wait()         //nolint:errcheck // as above
			} else {
				pgtest.Exec(t, tr.Target, `select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'walferry verify' and datname = current_database()`)
				tr.ran.ends(1, "cut over: ", "NOT compared", why)
			}
			first.ends(1, "cut over", "NOT compared", why)
			lock.rollback()
			tr.run("cutover").ends(1, "the cutover is done already", "NOT compared", why)
			tr.run("cutover", "--json").ends(1, `"equal": null`, `"comparison_error": "`)
			tr.run("status").ends(0, "NOT compared", why)
		})
	}
}

// What was truncated before it could be read is not known to be equal: of some tables that
// is said, and of all it is no proof.
func TestTruth_NotCompared(t *testing.T) {
	for _, all := range []bool{false, true} {
		t.Run(fmt.Sprintf("all=%t", all), func(t *testing.T) {
			t.Parallel()
			tr := newTruth(t, 15, 18, twoTables, "--verify")
			pgtest.Exec(t, tr.Target, `update s set v = 'y' where id = 3`)
			tables, code, says := "s", 0, "NOT all was compared: 1 table, 20 rows, were equal at that moment; of 1 table nothing is known"
			if all {
				tables, code, says = "s, t", 1, "NOTHING was compared"
			}
			first, release := tr.beforeFence("cutover")
			lock := hold(t, tr.Target, `lock table `+tables+` in access exclusive mode`)
			release()
			tr.wait("a comparison that waits", tr.Target, `select exists(select from pg_stat_activity where application_name = 'walferry verify' and wait_event_type = 'Lock' and datname = current_database())`)
			lock.do(`truncate ` + tables)
			lock.commit()
			first.ends(code, "cut over: ", says)
			first.never("both sides were equal")
			tr.ran.ends(code, says)
			tr.run("cutover").ends(code, says)
			tr.run("cutover", "--json").ends(code, `"equal": null`, `"not_compared": `)
			tr.run("status").ends(0, says)
			if all {
				tr.run("verify").ends(1, "NOTHING was compared as of the cutover")
			} else {
				tr.run("verify").ends(1, "1 tables, 20 rows: equal as of the cutover; 1 more tables were NOT compared")
			}
			tr.run("verify", "--json").ends(1, `"equal": null`)
		})
	}
}

// A migrated table that a side has no more is a difference, with --table too, and so is another
// one of its name.
func TestTruth_GoneTables(t *testing.T) {
	t.Parallel()
	tr := newTruth(t, 15, 18, twoTables+`; create table public.u (id int primary key); create table public.w (id int primary key);
create table public.p (id int primary key) partition by range (id); create table public.p1 partition of p for values from (0) to (10)`)
	tr.run("verify").ends(0, "5 tables, 30 rows: equal at")
	tr.run("cutover").ends(0)
	tr.ran.ends(0)
	pgtest.Exec(t, tr.Source, `drop table s; drop table u; create table u (id int primary key); alter table p detach partition p1; drop table p`)
	pgtest.Exec(t, tr.Target, `drop table w`)
	verify := tr.run("verify")
	verify.ends(5, "public.s: the source has no such table any more", "public.u: the source has another table of this name", "public.w: the target has no such table",
		"public.p: the source has no such table any more", "6 tables, 20 rows: NOT equal", "4 tables differ")
	tr.run("verify", "--table", "public.s").ends(5, "public.s: the source has no such table any more", "1 tables, 0 rows: NOT equal")
	tr.run("verify", "--table", "w", "--json").ends(5, `"gone": "the target has no such table"`, `"equal": false`)
	tr.run("verify", "--table", "public.t").ends(0, "1 tables, 20 rows: equal")
	tr.run("verify", "--table", "public.never").ends(2)
}

// A record that an older version has made is taken further; of a cutover that it has made what is
// known is told, and no more.
func TestTruth_OlderRecord(t *testing.T) {
	t.Parallel()
	tr := newTruth(t, 15, 18, twoTables, "--verify")
	tr.ran.cmd.Process.Signal(syscall.SIGTERM) //nolint:errcheck // its end tells
	tr.ran.ends(6)
	pgtest.Exec(t, tr.Target, `alter table walferry.migration drop column cutover`)
	tr.run("status").ends(0, "following")
	tr.ran = tr.run("migrate", "--verify")
	follows(t, tr.Config, 0)
	const equal = "both sides were equal at that moment: 2 tables, 30 rows"
	tr.run("cutover").ends(0, "cut over: ", equal)
	tr.ran.ends(0, equal)
	tr.run("cutover").ends(0, "the cutover is done already", equal)

	pgtest.Exec(t, tr.Target, `alter table walferry.migration drop column cutover;
update walferry.migration set proof = '{"equal": true, "rows": 0, "as_of_cutover": true, "tables": [{"schema": "public", "name": "s", "equal": false, "error": "it was truncated", "rewritten": true}]}'`)
	tr.run("cutover").ends(4, "the new server is the database")
	tr.run("migrate").ends(0, "finished already")
	tr.run("status").ends(0, "finished")
	verify := tr.run("verify")
	verify.ends(1, "public.s: not compared: it was truncated", "NOTHING was compared as of the cutover")
	verify.never("rows: equal")
}

// verifyHeld is a verify that stands where its applier has advanced and its snapshots of the target
// are not open yet.
func (tr *truth) verifyHeld(application, statement string) (verify *asked, release func()) {
	tr.Helper()
	reached, released := make(chan struct{}), make(chan struct{})
	var once sync.Once
	p := pgtest.ProxyFor(tr.T, tr.Target)
	p.Watch(func(s pgtest.Step) (f pgtest.Fault) {
		if s.Application == application && strings.HasPrefix(s.Statement, statement) {
			once.Do(func() { close(reached); <-released })
		}
		return f
	})
	c := tr.Config
	c.Target = p.Through(tr.Target)
	verify = runs(tr.T, c, "verify")
	var letGo sync.Once
	release = func() { letGo.Do(func() { close(released) }) }
	tr.Cleanup(release)
	eventually(tr.T, "the verify to stand", func() (bool, string) {
		select {
		case <-reached:
			return true, ""
		default:
			return false, verify.stderr.String()
		}
	})
	return verify, release
}

// Two comparisons at once do not disturb each other: the second one waits while the first has
// the applier, and both are of one position, whatever is written meanwhile. So does a cutover.
func TestTruth_TwoVerifies(t *testing.T) {
	t.Parallel()
	tr := newTruth(t, 15, 18, twoTables)
	first, release := tr.verifyHeld("walferry verify", "begin isolation level")
	pgtest.Exec(t, tr.Source, `insert into s select i, 'new' from generate_series(100, 200) i; update t set v = 'new'; delete from s where id = 1`)
	second := tr.run("verify")
	eventually(t, "the second to wait", func() (bool, string) {
		out := second.stderr.String()
		return strings.Contains(out, "holds the applier: waiting for it"), out
	})
	cutover := tr.run("cutover")
	tr.wait("the cutover to be asked for", tr.Target, `select exists(select from walferry.request where kind = 'cutover' and answered_at is null)`)
	eventually(t, "status to say who holds the applier", func() (bool, string) {
		note := status(t, tr.Config).Note
		return strings.Contains(note, "held for a verify on "), note
	})
	release()
	first.ends(0, "2 tables, 30 rows: equal at")
	second.cmd.Wait() //nolint:errcheck // the exit code tells
	// The cutover may come before the second one's turn.
	if code := second.cmd.ProcessState.ExitCode(); code != 0 && code != 4 {
		t.Errorf("the second verify: exit code %d:\n%s%s", code, second.stdout.String(), second.stderr.String())
	}
	cutover.ends(0)
	tr.ran.ends(0)
}

// Whatever moves the target between the position that a comparison is of and the opening of
// its snapshots: nothing is said of that. An abort takes effect at once, and what the snapshots
// show still holds.
func TestTruth_Moved(t *testing.T) {
	t.Parallel()
	tr := newTruth(t, 15, 18, twoTables)
	verify, release := tr.verifyHeld("walferry verify", "begin isolation level")
	pgtest.Exec(t, tr.Target, `update walferry.progress set transactions = transactions + 1`)
	release()
	verify.ends(4, "the target has moved on")
	verify.never("equal")

	verify, release = tr.verifyHeld("walferry verify", "begin isolation level")
	tr.run("abort").ends(0)
	tr.ran.ends(1, "aborted")
	release()
	verify.ends(0, "2 tables, 30 rows: equal at")
}

// Values are compared as the types themselves write them, whatever somebody's cast to text says
// of them.
func TestTruth_Cast(t *testing.T) {
	t.Parallel()
	tr := newTruth(t, 15, 18, `
create type public.money_t as (amount numeric, cur text);
create function public.money_text(money_t) returns text language sql immutable as $$ select round($1.amount)::text $$;
create cast (public.money_t as text) with function public.money_text(public.money_t) as assignment;
create table public.paid (id int primary key, m money_t); insert into paid values (1, row(1, 'EUR'))`)
	tr.run("verify").ends(0, "1 tables, 1 rows: equal")
	pgtest.Exec(t, tr.Target, `update paid set m = row(1.4, 'USD')`)
	tr.run("verify").ends(5, "1 tables, 1 rows: NOT equal", "id=1 (m)")
}
