package pgtest

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5/pgconn"
)

// childVariable makes the test program start a server and wait to be killed.
const childVariable = "WALFERRY_PGTEST_CHILD"

func TestMain(m *testing.M) {
	if os.Getenv(childVariable) != "" {
		launchAndWait()
	}
	Main(m)
}

// Every major version starts, reports its version, decodes, and has its own identity.
func TestShared_EveryMajor(t *testing.T) {
	t.Setenv(insteadVariable, "")
	identities := map[string]int{}
	for major := Oldest; major <= Newest; major++ {
		t.Run(strconv.Itoa(major), func(t *testing.T) {
			begin := time.Now()
			s := Shared(t, major)
			t.Logf("started in %v", time.Since(begin))
			url := s.Database(t)
			want := [][]string{{strconv.Itoa(major), "UTF8", "logical"}}
			got := Query(t, url, `select current_setting('server_version_num')::int / 10000,
				current_setting('server_encoding'), current_setting('wal_level')`)
			if fmt.Sprint(got) != fmt.Sprint(want) {
				t.Errorf("got %v, want %v", got, want)
			}
			// The slot stays: dropping the database must drop it.
			Exec(t, url, `create table t (id int primary key)`)
			Exec(t, url, `select pg_create_logical_replication_slot('every_major', 'test_decoding')`)
			Exec(t, url, `insert into t values (1)`)
			if got := Query(t, url, `select data from pg_logical_slot_get_changes('every_major', null, null) where data like 'table%'`); len(got) != 1 {
				t.Errorf("got changes %v, want the insert", got)
			}
			identity := Query(t, url, `select system_identifier from pg_control_system()`)[0][0]
			if other, ok := identities[identity]; ok {
				t.Errorf("servers of %d and %d have the same system identifier", major, other)
			}
			identities[identity] = major
		})
		if t.Failed() {
			return
		}
	}
}

// A test that names a version runs on the one that is to stand in for it, which no other stands in
// for.
func TestInstead(t *testing.T) {
	t.Setenv(insteadVariable, "15=10,18=11,10=12")
	t.Setenv("WALFERRY_TEST_SOURCE_MAJOR", "")
	t.Setenv("WALFERRY_TEST_TARGET_MAJOR", "")
	if from, to := Default(); from != 10 || to != 11 {
		t.Errorf("the default is %d to %d, want 10 to 11", from, to)
	}
	for asked, want := range map[int]int{15: 10, 13: 13} {
		if got := Query(t, Shared(t, asked).Database(t), `show server_version_num`)[0][0]; got[:2] != strconv.Itoa(want) {
			t.Errorf("who asks for %d gets %s, want a %d", asked, got, want)
		}
	}
	if got := New(t, Options{Major: 18}).Major; got != 11 {
		t.Errorf("a server of 18 of the test's own is a %d, want 11", got)
	}
}

// Two servers of one version are copies of one template, but not one system.
func TestNew_Identity(t *testing.T) {
	const query = `select system_identifier from pg_control_system()`
	a, b := New(t, Options{}), New(t, Options{})
	if a, b := Query(t, a.URL("postgres"), query), Query(t, b.URL("postgres"), query); a[0][0] == b[0][0] {
		t.Errorf("both servers are system %v", a)
	}
}

// Committed data survives every way in which a server can end.
func TestServer_KeepsCommittedRows(t *testing.T) {
	source, _ := Default()
	s := New(t, Options{Major: source})
	url := s.Database(t)
	Exec(t, url, `create table t (how text)`)
	ctx := t.Context()
	ways := []struct {
		name string
		end  func() error
	}{
		{"smart", func() error { return s.Stop(ctx, "smart") }},
		{"fast", func() error { return s.Stop(ctx, "fast") }},
		{"immediate", func() error { return s.Stop(ctx, "immediate") }},
		{"kill", s.Kill},
	}
	for i, way := range ways {
		Exec(t, url, `insert into t values ('`+way.name+`')`)
		port, pid := s.Port, s.PID()
		if err := way.end(); err != nil {
			t.Fatalf("%s: %v", way.name, err)
		}
		if alive(pid) {
			t.Errorf("%s: process %d is still there", way.name, pid)
		}
		if _, err := run(ctx, url, `select`); err == nil {
			t.Errorf("%s: the server still answers", way.name)
		}
		if err := s.Start(ctx); err != nil {
			t.Fatalf("start after %s: %v", way.name, err)
		}
		if s.Port != port {
			t.Errorf("start after %s: port %d, want %d", way.name, s.Port, port)
		}
		if got := Query(t, url, `select count(*) from t`)[0][0]; got != strconv.Itoa(i+1) {
			t.Errorf("start after %s: got %s rows, want %d", way.name, got, i+1)
		}
	}
	if !strings.Contains(s.Log(), "redo done") && !strings.Contains(s.Log(), "redo is not required") {
		t.Errorf("the log tells of no recovery:\n%s", s.Log())
	}
}

// A password is asked for, with every character that a URL minds.
func TestNew_Password(t *testing.T) {
	const password = `p@ss:w/o?r#d %41'"\ é`
	for _, major := range []int{Oldest, newest()} {
		s := New(t, Options{Major: major, Password: password, Settings: map[string]string{"work_mem": "7MB"}})
		if got := Query(t, s.URL("postgres"), `show work_mem`)[0][0]; got != "7MB" {
			t.Errorf("PostgreSQL %d: work_mem is %s, want 7MB", major, got)
		}
		s.Password = ""
		if _, err := run(t.Context(), s.URL("postgres"), `select`); err == nil {
			t.Errorf("PostgreSQL %d: connected without a password", major)
		}
	}
}

// A folder of the caller's keeps its data for the next server.
func TestLaunch_Dir(t *testing.T) {
	a, err := serverAccount()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := a.tempDir(true) // tb.TempDir lets no other user in
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	first := New(t, Options{Dir: dir})
	Exec(t, first.URL("postgres"), `create table kept ()`)
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	second := New(t, Options{Dir: dir})
	Exec(t, second.URL("postgres"), `table kept`)
}

// Nothing in a database keeps it from being dropped: a slot in use, a prepared transaction, a
// session.
func TestDatabase_DropsWhatIsInUse(t *testing.T) {
	for _, major := range []int{Oldest, newest()} {
		s := Shared(t, major)
		var name string
		t.Run("database", func(t *testing.T) {
			url := s.Database(t)
			name = Query(t, url, `select current_database()`)[0][0]
			Exec(t, url, `create table t (id int)`)
			Exec(t, url, `select pg_create_logical_replication_slot('in_use', 'test_decoding')`)
			Exec(t, url, `begin; insert into t values (1); prepare transaction 'it''s left'`)
			streamFrom(t, url, "in_use")
		})
		if got := Query(t, s.URL("postgres"), `select from pg_database where datname = '`+name+`'`); len(got) != 0 {
			t.Errorf("PostgreSQL %d: %s is still there", major, name)
		}
		if got := Query(t, s.URL("postgres"), `select from pg_replication_slots where slot_name = 'in_use'`); len(got) != 0 {
			t.Errorf("PostgreSQL %d: its slot is still there", major)
		}
	}
}

// streamFrom starts to stream from a slot and leaves the connection to itself.
func streamFrom(t *testing.T, url, slot string) {
	conn, err := pgconn.Connect(t.Context(), url+"?replication=database")
	if err != nil {
		t.Fatal(err)
	}
	if err := pglogrepl.StartReplication(t.Context(), conn, slot, 0, pglogrepl.StartReplicationOptions{}); err != nil {
		t.Fatal(err)
	}
}

// Running servers that are named in the environment come first.
func TestPair_Environment(t *testing.T) {
	const password = "p@ss word%"
	major, _ := Default()
	s := New(t, Options{Major: major, Password: password})
	t.Setenv("WALFERRY_TEST_SOURCE", s.URL("postgres"))
	t.Setenv("WALFERRY_TEST_TARGET", fmt.Sprintf("host=127.0.0.1 port=%d user=postgres password='%s' dbname=postgres", s.Port, password))
	source, target := Pair(t, Oldest, Newest)
	for _, url := range []string{source, target} {
		if got := Query(t, url, `show port`)[0][0]; got != strconv.Itoa(s.Port) {
			t.Errorf("a database on the server of port %s, want %d", got, s.Port)
		}
	}
}

func TestWithDatabase(t *testing.T) {
	for _, c := range []struct{ address, want string }{
		{"postgres://u:p%40@h:1/a", "postgres://u:p%40@h:1/b"},
		{"postgresql://h?sslmode=disable", "postgresql://h/b?sslmode=disable"},
		{"host=h dbname=a password='x y'", "host=h dbname=a password='x y' dbname=b"},
	} {
		if got := withDatabase(c.address, "b"); got != c.want {
			t.Errorf("withDatabase(%q): got %q, want %q", c.address, got, c.want)
		}
	}
}

// A test run that is killed leaves neither a server nor its files behind.
func TestLaunch_EndsWithItsProcess(t *testing.T) {
	child := exec.Command(os.Args[0])
	child.Env = append(os.Environ(), childVariable+"=1")
	child.Stderr = os.Stderr
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("read the child's report: %v", err)
	}
	var pid int
	var dir string
	if _, err := fmt.Sscan(line, &pid, &dir); err != nil {
		t.Fatalf("read the child's report %q: %v", line, err)
	}
	if !alive(pid) {
		t.Fatalf("the server %d does not run", pid)
	}
	if err := child.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	child.Wait()
	for deadline := time.Now().Add(15 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		_, err := os.Stat(dir)
		if !alive(pid) && os.IsNotExist(err) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("15 seconds later: server alive %v, its folder %v", alive(pid), err)
		}
	}
}

// launchAndWait is the child of TestLaunch_EndsWithItsProcess.
func launchAndWait() {
	s, err := Launch(context.Background(), Options{})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println(s.PID(), s.SocketDir)
	select {}
}

// alive reports whether there is a process with that id. A zombie counts as gone: reaping it is up
// to its parent.
func alive(pid int) bool {
	if errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
		return false
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err != nil || !strings.Contains(string(stat), ") Z ")
}
