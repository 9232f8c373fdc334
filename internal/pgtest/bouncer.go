package pgtest

import (
	"context"
	"errors"
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
	"syscall"
	"testing"
	"time"
)

// Bouncer is a PgBouncer that a test has started: pooling by transaction, at 127.0.0.1.
type Bouncer struct {
	Port int
	File string // its pgbouncer.ini
	Dir  string // of its unix socket
	Log  string

	program string
	account account
	cmd     *exec.Cmd // nil: not started
	stdin   io.Closer // whose end ends it
}

// BouncerPrograms returns the programs to be tested, by their versions: the one that is installed, those that make
// servers has got, and the one that WALFERRY_TEST_PGBOUNCER names.
func BouncerPrograms() map[string]string {
	programs := map[string]string{}
	for _, path := range bouncerPaths() {
		if version, err := BouncerVersion(path); err == nil {
			programs[version] = path
		}
	}
	return programs
}

// AnyBouncer returns a program: the installed one, or the newest.
func AnyBouncer() (string, error) {
	programs := BouncerPrograms()
	if len(programs) == 0 {
		return "", errors.New("there is no PgBouncer here: apt-get install pgbouncer, or make servers, which gets one into a cache")
	}
	for _, path := range programs {
		if path == systemBouncer {
			return path, nil
		}
	}
	return programs[slices.Max(slices.Collect(maps.Keys(programs)))], nil
}

// EachBouncer runs a test for each program. What ought to have been tested and is not there is a skipped test of its own.
func EachBouncer(t *testing.T, test func(t *testing.T, program string)) {
	t.Helper()
	programs := BouncerPrograms()
	var old, newest bool
	for _, name := range slices.Sorted(maps.Keys(programs)) {
		old = old || !BouncerKnows(name, oldBouncer+1)
		newest = newest || BouncerKnows(name, newBouncer)
		t.Run(name, func(t *testing.T) { test(t, programs[name]) })
	}
	for name, there := range map[string]bool{fmt.Sprintf("1.%d", oldBouncer): old, fmt.Sprintf("1.%d or newer", newBouncer): newest} {
		if !there {
			t.Run(name, func(t *testing.T) {
				t.Skip("there is none: make servers gets it or says why it cannot; WALFERRY_TEST_PGBOUNCER names one")
			})
		}
	}
}

// bouncerScript ends the program when its stdin does: with the test, however that ends.
const bouncerScript = `"$0" "$1" >> "$2" 2>&1 & p=$!; read -r end; kill -INT $p; wait $p`

// NewBouncer starts one for a test; see [LaunchBouncer].
func NewBouncer(t testing.TB, program string, databases []string, settings map[string]string) *Bouncer {
	t.Helper()
	b, err := LaunchBouncer(program, databases, settings)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		text := b.Logged()
		b.Close()
		if t.Failed() {
			t.Logf("PgBouncer's log:\n%s", text)
		}
	})
	return b
}

// LaunchBouncer starts one. databases are the lines of its section [databases], settings are added to
// its own or replace them. Its user is postgres, who is its admin, too. It ends with Close, and at the latest with this process.
func LaunchBouncer(program string, databases []string, settings map[string]string) (*Bouncer, error) {
	b, err := launchBouncer(program, databases, settings)
	if err != nil {
		return nil, fmt.Errorf("start PgBouncer: %w", err)
	}
	return b, nil
}

func launchBouncer(program string, databases []string, settings map[string]string) (_ *Bouncer, err error) {
	a, err := serverAccount()
	if err != nil {
		return nil, err
	}
	dir, err := a.tempDir(false)
	if err != nil {
		return nil, err
	}
	b := &Bouncer{File: filepath.Join(dir, "pgbouncer.ini"), Dir: dir, Log: filepath.Join(dir, "log"), program: program, account: a}
	defer func() {
		if err != nil {
			b.Close()
		}
	}()
	if b.Port, err = freePort(); err != nil {
		return nil, err
	}
	all := map[string]string{
		"listen_addr": "127.0.0.1", "listen_port": strconv.Itoa(b.Port), "unix_socket_dir": dir, "pidfile": b.pidFile(),
		"auth_type": "trust", "auth_file": filepath.Join(dir, "users"), "admin_users": superuser,
		"pool_mode": "transaction", "max_client_conn": "300", "default_pool_size": "30", "ignore_startup_parameters": "extra_float_digits",
	}
	maps.Copy(all, settings)
	var text strings.Builder
	fmt.Fprintf(&text, ";; for a test\n[databases]\n%s\n\n[pgbouncer]\n", strings.Join(databases, "\n"))
	for _, name := range slices.Sorted(maps.Keys(all)) {
		fmt.Fprintf(&text, "%s = %s\n", name, all[name])
	}
	files := map[string]string{b.File: text.String(), filepath.Join(dir, "users"): `"postgres" ""` + "\n" + `"other" ""` + "\n", b.Log: ""}
	for name, text := range files {
		mode := os.FileMode(0o600)
		if name == b.File {
			mode = 0o640
		}
		if err := errors.Join(os.WriteFile(name, []byte(text), mode), a.own(name)); err != nil {
			return nil, err
		}
	}
	return b, b.start()
}

func (b *Bouncer) pidFile() string { return filepath.Join(b.Dir, "pid") }

// start starts the program and waits until it answers.
func (b *Bouncer) start() (err error) {
	cmd := exec.Command("/bin/sh", "-c", bouncerScript, b.program, b.File, b.Log)
	b.account.run(cmd)
	if b.stdin, err = cmd.StdinPipe(); err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	b.cmd = cmd
	for n := 0; ; n++ {
		conn, err := net.Dial("tcp4", net.JoinHostPort("127.0.0.1", strconv.Itoa(b.Port)))
		if err == nil {
			return conn.Close()
		}
		if n == 1000 {
			return fmt.Errorf("it does not answer: %w\n%s", err, b.Logged())
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// Signal sends it a signal. After SIGKILL it is gone until Restart.
func (b *Bouncer) Signal(t testing.TB, signal syscall.Signal) {
	t.Helper()
	text, err := os.ReadFile(b.pidFile())
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err == nil {
		err = syscall.Kill(pid, signal)
	}
	if err != nil {
		t.Fatal(err)
	}
	if signal == syscall.SIGKILL {
		b.stdin.Close()
		b.cmd.Wait() //nolint:errcheck // it was killed
		b.cmd = nil
		os.Remove(b.pidFile()) //nolint:errcheck // it is not there, or in nobody's way
	}
}

// Restart starts it again after it was killed, with what its file has now.
func (b *Bouncer) Restart(t testing.TB) {
	t.Helper()
	if err := b.start(); err != nil {
		t.Fatal(err)
	}
}

// Close ends it and removes its files.
func (b *Bouncer) Close() {
	if b.cmd != nil {
		b.stdin.Close()
		b.cmd.Wait() //nolint:errcheck // it was ended by a signal
	}
	os.RemoveAll(b.Dir)
}

// Line returns the line of a database that leads to a server's.
func Line(name, address string) string {
	u, err := url.Parse(address)
	if err != nil {
		panic(err) // it is one of ours
	}
	line := fmt.Sprintf("%s = host=%s port=%s dbname=%s user=%s", name, u.Hostname(), u.Port(), strings.TrimPrefix(u.Path, "/"), u.User.Username())
	if password, given := u.User.Password(); given {
		line += " password='" + strings.ReplaceAll(password, "'", "''") + "'"
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
