package e2e

import (
	"bytes"
	"os/exec"
	"strings"
	"sync"
	"testing"

	"github.com/creack/pty"
	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/internal/migration"
	"github.com/walferry/walferry/internal/pgtest"
)

// onTerminal is a command whose stderr is a terminal of so many columns.
type onTerminal struct {
	*exec.Cmd
	mu   sync.Mutex
	text bytes.Buffer // all that was written there
	read sync.WaitGroup
	out  bytes.Buffer // its stdout
}

func startOnTerminal(t *testing.T, cmd *exec.Cmd, columns uint16, terminal string) *onTerminal {
	t.Helper()
	master, slave, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	if err := pty.Setsize(slave, &pty.Winsize{Rows: 24, Cols: columns}); err != nil {
		t.Fatal(err)
	}
	o := &onTerminal{Cmd: cmd}
	cmd.Env = append(cmd.Env, "TERM="+terminal)
	cmd.Stdout, cmd.Stderr = &o.out, slave
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	slave.Close()
	o.read.Go(func() {
		block := make([]byte, 4096)
		for {
			n, err := master.Read(block)
			o.mu.Lock()
			o.text.Write(block[:n])
			o.mu.Unlock()
			if err != nil { // EIO: the other end is closed
				return
			}
		}
	})
	t.Cleanup(func() { master.Close() })
	return o
}

func (o *onTerminal) written() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// screen is what is left on the terminal: of each line what was written after the last return.
func screen(text string) (lines []string) {
	for line := range strings.SplitSeq(strings.ReplaceAll(text, "\r\n", "\n"), "\n") {
		if at := strings.LastIndex(line, "\x1b[K"); at >= 0 {
			line = line[at+len("\x1b[K"):]
		}
		lines = append(lines, line)
	}
	return lines
}

// A cutover on a terminal shows in place at which step it is and whom that waits for, and leaves only what it has told; the name that a
// client has chosen moves no cursor. Where the terminal is dumb, nothing is drawn.
func TestTerminal(t *testing.T) {
	t.Parallel()
	from, to := pgtest.Default()
	source, target := pgtest.Pair(t, from, to)
	pgtest.Exec(t, source, `create table t (id int primary key, v int); insert into t select i, i from generate_series(1, 100) i`)
	m := newMoving(t, "terminal", source, target)
	r := m.start()
	r.waitFor(migration.Following)

	config, err := pgx.ParseConfig(source)
	if err != nil {
		t.Fatal(err)
	}
	config.RuntimeParams["application_name"] = "a name of more than the sixty columns that there are"
	writer, err := pgx.ConnectConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	defer writer.Close(t.Context())
	if _, err := writer.Exec(t.Context(), `begin; insert into t values (1000, 1)`); err != nil {
		t.Fatal(err)
	}
	const columns = 60
	shown := startOnTerminal(t, walferry(t, m.Config, "cutover", "--timeout", "60s", "--dry-run"), columns, "xterm")
	plain := walferry(t, m.Config, "cutover", "--timeout", "60s", "--dry-run")
	eventually(t, "whom it waits for, in place", func() (bool, string) {
		return strings.Contains(shown.written(), "\r\x1b[K  put up the fence 1 s; waiting for pid "), shown.written()
	})
	if _, err := writer.Exec(t.Context(), `commit`); err != nil {
		t.Fatal(err)
	}
	if err := shown.Wait(); err != nil {
		t.Fatalf("the rehearsal: %v: %s", err, shown.written())
	}
	shown.read.Wait()
	text := shown.written()
	for part := range strings.SplitSeq(text, "\x1b[K") {
		if drawn, _, _ := strings.Cut(part, "\r"); strings.HasPrefix(drawn, "  ") && len([]rune(drawn)) >= columns {
			t.Errorf("a line of %d columns is drawn: %q", len([]rune(drawn)), drawn)
		}
	}
	if left := strings.Join(screen(text), "\n"); !strings.Contains(left, "cutover: fenced 1 tables") || strings.Contains(left, "put up the fence 1 s") || strings.Contains(left, "\x1b") {
		t.Errorf("what is left on the screen: %q", left)
	}
	for _, want := range []string{"rehearsed: 1 tables", "\n  before ", "\n  refused ", "\n  after "} {
		if !strings.Contains(shown.out.String(), want) {
			t.Errorf("stdout lacks %q: %s", want, shown.out.String())
		}
	}

	dull := startOnTerminal(t, walferry(t, m.Config, "cutover", "--dry-run"), columns, "dumb")
	if err := dull.Wait(); err != nil {
		t.Fatal(err)
	}
	dull.read.Wait()
	piped, err := plain.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, piped)
	}
	for where, text := range map[string]string{"a dumb terminal": dull.written(), "a pipe": string(piped)} {
		if strings.ContainsAny(text, "\x1b") || strings.Contains(strings.ReplaceAll(text, "\r\n", "\n"), "\r") || !strings.Contains(text, "cutover: fenced 1 tables") {
			t.Errorf("%s gets %q", where, text)
		}
	}
	m.cutover(r)
	m.cleanup()
}
