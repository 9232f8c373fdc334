package pgtest

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// Bouncer is a PgBouncer that a test has started: pooling by transaction, at 127.0.0.1.
type Bouncer struct {
	Port int
	File string // its pgbouncer.ini
	Dir  string // of its unix socket
	Log  string

	account account
}

// BouncerPrograms returns the programs to be tested, by names for tests: Debian's, and the one that
// WALFERRY_TEST_PGBOUNCER names, which ought to be a newer one.
func BouncerPrograms() map[string]string {
	programs := map[string]string{}
	for _, path := range []string{"/usr/sbin/pgbouncer", os.Getenv("WALFERRY_TEST_PGBOUNCER")} {
		if path == "" {
			continue
		}
		out, err := exec.Command(path, "--version").Output()
		if err != nil {
			continue
		}
		name, _, _ := strings.Cut(strings.TrimPrefix(string(out), "PgBouncer "), "\n")
		programs[name] = path
	}
	return programs
}

// EachBouncer runs a test for each program. Where there is none it is skipped.
func EachBouncer(t *testing.T, test func(t *testing.T, program string)) {
	t.Helper()
	programs := BouncerPrograms()
	if len(programs) == 0 {
		t.Skip("PgBouncer is not installed: apt-get install pgbouncer, or name one in WALFERRY_TEST_PGBOUNCER")
	}
	for _, name := range slices.Sorted(maps.Keys(programs)) {
		t.Run(name, func(t *testing.T) { test(t, programs[name]) })
	}
}

// bouncerScript ends the program when its stdin does: with the test, however that ends.
const bouncerScript = `"$0" "$1" >> "$2" 2>&1 & p=$!; read -r end; kill -INT $p; wait $p`

// NewBouncer starts one. databases are the lines of its section [databases], settings are added to
// its own or replace them. Its user is postgres, who is its admin, too.
func NewBouncer(t testing.TB, program string, databases []string, settings map[string]string) *Bouncer {
	t.Helper()
	fatal := func(err error) {
		if err != nil {
			t.Helper()
			t.Fatalf("start PgBouncer: %v", err)
		}
	}
	a, err := serverAccount()
	fatal(err)
	dir, err := a.tempDir(false)
	fatal(err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	port, err := freePort()
	fatal(err)
	b := &Bouncer{Port: port, File: filepath.Join(dir, "pgbouncer.ini"), Dir: dir, Log: filepath.Join(dir, "log"), account: a}
	all := map[string]string{
		"listen_addr": "127.0.0.1", "listen_port": strconv.Itoa(port), "unix_socket_dir": dir,
		"auth_type": "trust", "auth_file": filepath.Join(dir, "users"), "admin_users": superuser,
		"pool_mode": "transaction", "max_client_conn": "300", "default_pool_size": "30", "ignore_startup_parameters": "extra_float_digits",
	}
	maps.Copy(all, settings)
	var text strings.Builder
	fmt.Fprintf(&text, ";; for a test\n[databases]\n%s\n\n[pgbouncer]\n", strings.Join(databases, "\n"))
	for _, name := range slices.Sorted(maps.Keys(all)) {
		fmt.Fprintf(&text, "%s = %s\n", name, all[name])
	}
	fatal(os.WriteFile(b.File, []byte(text.String()), 0o640))
	fatal(os.WriteFile(filepath.Join(dir, "users"), []byte(`"postgres" ""`+"\n"+`"other" ""`+"\n"), 0o600))
	fatal(os.WriteFile(b.Log, nil, 0o600))
	for _, name := range []string{"pgbouncer.ini", "users", "log"} {
		fatal(a.own(filepath.Join(dir, name)))
	}
	cmd := exec.Command("/bin/sh", "-c", bouncerScript, program, b.File, b.Log)
	a.run(cmd)
	stdin, err := cmd.StdinPipe()
	fatal(err)
	fatal(cmd.Start())
	t.Cleanup(func() {
		stdin.Close()
		cmd.Wait() //nolint:errcheck // it was ended by a signal
		if t.Failed() {
			text, _ := os.ReadFile(b.Log)
			t.Logf("PgBouncer's log:\n%s", text)
		}
	})
	for n := 0; ; n++ {
		conn, err := net.Dial("tcp4", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		if err == nil {
			conn.Close()
			return b
		}
		if n == 1000 {
			text, _ := os.ReadFile(b.Log)
			t.Fatalf("PgBouncer does not answer: %v\n%s", err, text)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// Line returns the line of a database that leads to a server's.
func Line(name, address string) string {
	u, err := url.Parse(address)
	if err != nil {
		panic(err) // it is one of ours
	}
	line := fmt.Sprintf("%s = host=%s port=%s dbname=%s user=%s", name, u.Hostname(), u.Port(), strings.TrimPrefix(u.Path, "/"), u.User.Username())
	if password, given := u.User.Password(); given {
		line += " password=" + password
	}
	return line
}

// URL returns the address of one of its databases, or of its admin console, pgbouncer.
func (b *Bouncer) URL(database string) string {
	return fmt.Sprintf("postgres://%s@127.0.0.1:%d/%s?sslmode=disable", superuser, b.Port, database)
}

// Rewrite replaces its file, which it does not read by itself.
func (b *Bouncer) Rewrite(t testing.TB, change func(string) string) {
	t.Helper()
	text, err := os.ReadFile(b.File)
	if err == nil {
		err = os.WriteFile(b.File, []byte(change(string(text))), 0o640)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// Ask runs a command of the admin console and returns its rows.
func (b *Bouncer) Ask(t testing.TB, command string) [][]string {
	t.Helper()
	rows, err := run(context.Background(), b.URL("pgbouncer"), command)
	if err != nil {
		t.Fatal(err)
	}
	return rows
}

// Logged returns what it has logged.
func (b *Bouncer) Logged() string {
	f, err := os.Open(b.Log)
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	text, _ := io.ReadAll(f)
	return string(text)
}
