package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"regexp"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"golang.org/x/term"

	"github.com/walferry/walferry/internal/fail"
	"github.com/walferry/walferry/internal/session"
)

// ui decides what goes where: results to stdout, everything else to stderr, and secrets to neither.
type ui struct {
	stdout, stderr io.Writer
	data           io.Writer // stdout for rows of the user, which must not be altered
	screen         *os.File  // stderr for bars: only names and numbers; moving the cursor needs a file
	terminal       bool      // stderr is one
	outTerminal    bool      // stdout is one
	args           []string  // of the command line

	mu       sync.Mutex
	name     string // of the migration; empty: not known yet, or none
	secrets  []string
	redactor session.Redactor
	above    func(line string) // writes a line above what is being drawn; nil: nothing is
	logger   *slog.Logger
	json     bool // logger writes JSON, and everything else on stderr is JSON, too
}

func newUI(stdout, stderr *os.File) *ui {
	u := &ui{terminal: term.IsTerminal(int(stderr.Fd())) && !dumb(), outTerminal: term.IsTerminal(int(stdout.Fd())) && !dumb()}
	u.data, u.screen, u.stdout, u.stderr = stdout, stderr, &redacting{u, stdout}, &redacting{u, stderr}
	u.logger = slog.New(&textHandler{u: u, level: slog.LevelInfo})
	return u
}

// redacting is the one way out for everything but the data of stream.
type redacting struct {
	u  *ui
	to io.Writer
}

func (w *redacting) Write(p []byte) (int, error) {
	w.u.mu.Lock()
	r := w.u.redactor
	w.u.mu.Unlock()
	if _, err := io.WriteString(w.to, r.Text(string(p))); err != nil {
		return 0, err
	}
	return len(p), nil
}

// hide makes the secrets of connection strings, and of anything that may contain one, unprintable.
func (u *ui) hide(dsns ...string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, dsn := range dsns {
		u.secrets = append(u.secrets, session.Secrets(dsn)...)
	}
	u.redactor = session.NewRedactor(u.secrets...)
}

// line writes one line to stderr, above what is being drawn there.
func (u *ui) line(text string) {
	u.mu.Lock()
	above := u.above
	redactor := u.redactor
	u.mu.Unlock()
	text = clean(u.named(text))
	if above != nil {
		above(redactor.Text(text))
		return
	}
	fmt.Fprintln(u.stderr, text)
}

// ownCommand is a command that a text tells the operator to run.
var ownCommand = regexp.MustCompile("`walferry (?:check|migrate|status|verify|cutover|fallback|finish|abort|cleanup)\\b[^`\n]*")

// named completes the commands in a text for people: without --name they would act on the
// migration of the default name.
func (u *ui) named(text string) string {
	u.mu.Lock()
	name := u.name
	u.mu.Unlock()
	if name == "" || name == "default" {
		return text
	}
	return ownCommand.ReplaceAllStringFunc(text, func(command string) string {
		if strings.Contains(command, "--help") || strings.Contains(command, "--name") {
			return command
		}
		words := strings.SplitN(command, " ", 3)
		words[1] += " --name " + name
		return strings.Join(words, " ")
	})
}

// note tells the operator something: as a log record if the log is for programs.
func (u *ui) note(format string, args ...any) {
	if text := fmt.Sprintf(format, args...); u.json {
		u.logger.Warn(text)
	} else {
		u.line("walferry: " + text)
	}
}

// column moves the cursor back to where the bars left it: the terminal has echoed ^C there, and
// what is drawn next would start after it.
func (u *ui) column() {
	if u.terminal {
		io.WriteString(u.screen, "\r") //nolint:errcheck // a terminal that is gone shows no bars
	}
}

// draw routes lines through f while something is drawn; nil ends that.
func (u *ui) draw(f func(string)) {
	u.mu.Lock()
	u.above = f
	u.mu.Unlock()
}

// fail prints an error on one line, and its hint on another.
func (u *ui) fail(err error) {
	text := err.Error()
	var server *pgconn.PgError
	if errors.As(err, &server) {
		if detail := session.Detail(server); detail != "" && !strings.Contains(text, detail) {
			text += ": " + detail
		}
	}
	advice := fail.Hint(err)
	if advice == "" && server != nil {
		advice = server.Hint
	}
	if u.json {
		u.logger.Error(u.oneLine(text), "hint", u.oneLine(advice), "exit_code", exitCode(err))
		return
	}
	u.note("%s", u.oneLine(text))
	if advice != "" {
		u.line("  hint: " + u.oneLine(advice))
	}
}

// longest limits how much of an error is printed: servers choose its length.
const longest = 16 << 10

// oneLine keeps text chosen by others, such as a name with a newline in it, from looking like a
// line of ours.
func (u *ui) oneLine(text string) string {
	u.mu.Lock()
	text = u.redactor.Text(text) // first: a secret that was cut in two is not recognized
	u.mu.Unlock()
	text = strings.ReplaceAll(strings.TrimRight(text, "\r\n"), "\n", "; ")
	if len(text) > longest {
		text = fmt.Sprintf("%s … (%d bytes left out)", strings.ToValidUTF8(text[:longest], ""), len(text)-longest)
	}
	return text
}

func (u *ui) panicked(p any) {
	fmt.Fprintf(u.stderr, "walferry: this is a bug: %v\n%s\n", p, debug.Stack())
}

// result prints a value as JSON.
func (u *ui) result(v any) error {
	text, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	_, err = u.stdout.Write(append(versioned(text), '\n'))
	return writeErr(err)
}

// schemaVersion is raised when a field of the JSON changes its meaning or goes away; fields are added without that.
const schemaVersion = 1

// versioned adds schema_version to an object, as its last field.
func versioned(text []byte) []byte {
	body, object := bytes.CutSuffix(text, []byte("}"))
	if !object {
		return text
	}
	indented := bytes.HasSuffix(body, []byte("\n"))
	body = bytes.TrimRight(body, "\n")
	separator := ","
	if bytes.HasSuffix(body, []byte("{")) {
		separator = ""
	}
	if indented {
		return fmt.Appendf(body, "%s\n  \"schema_version\": %d\n}", separator, schemaVersion)
	}
	return fmt.Appendf(body, "%s\"schema_version\":%d}", separator, schemaVersion)
}

// clean replaces what would move a terminal's cursor: servers choose their messages.
func clean(text string) string {
	return strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' {
			return r
		}
		if r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 {
			return '?'
		}
		return r
	}, text)
}

// setLog sets the format and level of the log of a migration; empty: of several, each of which adds its own name.
func (u *ui) setLog(level, format, migration string) error {
	u.mu.Lock()
	u.name = migration
	u.mu.Unlock()
	var l slog.Level
	if level != "" {
		if err := l.UnmarshalText([]byte(level)); err != nil {
			return &fail.Error{Kind: fail.Usage, Problem: fmt.Sprintf("--log-level %q is none of debug, info, warn, error", level), Advice: didYouMean(level, []string{"debug", "info", "warn", "error"}, "", "walferry --help")}
		}
	}
	switch format {
	case "", "text":
		u.logger = slog.New(&textHandler{u: u, level: l})
	case "json":
		u.json, u.terminal = true, false // bars would mix with the records
		handler := slog.NewJSONHandler(&lines{u}, &slog.HandlerOptions{Level: l, ReplaceAttr: plainAttr})
		if u.logger = slog.New(handler); migration != "" {
			u.logger = u.logger.With("migration", migration)
		}
	default:
		return &fail.Error{Kind: fail.Usage, Problem: fmt.Sprintf("--log-format %q is neither text nor json", format), Advice: "see `walferry --help`"}
	}
	return nil
}

// plainAttr formats values for programs: positions as PostgreSQL writes them, durations in seconds.
// As JSON they would be integers and nanoseconds.
func plainAttr(_ []string, a slog.Attr) slog.Attr {
	switch a.Value.Kind() {
	case slog.KindDuration:
		a.Value = slog.Float64Value(a.Value.Duration().Seconds())
	case slog.KindAny:
		switch v := a.Value.Any().(type) {
		case error:
			a.Value = slog.StringValue(v.Error())
		case fmt.Stringer:
			a.Value = slog.StringValue(v.String())
		}
	}
	return a
}

// lines is a writer for which every Write is a line.
type lines struct{ u *ui }

func (l *lines) Write(p []byte) (int, error) {
	l.u.line(strings.TrimSuffix(string(p), "\n"))
	return len(p), nil
}

// textHandler writes a log for people: time, message, key=value.
type textHandler struct {
	u     *ui
	level slog.Level
	attrs []slog.Attr
}

// Enabled implements slog.Handler.
func (h *textHandler) Enabled(_ context.Context, l slog.Level) bool { return l >= h.level }

// WithAttrs implements slog.Handler.
func (h *textHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &textHandler{h.u, h.level, append(h.attrs[:len(h.attrs):len(h.attrs)], attrs...)}
}

// WithGroup implements slog.Handler; nothing here uses groups.
func (h *textHandler) WithGroup(string) slog.Handler { return h }

// Handle implements slog.Handler.
func (h *textHandler) Handle(_ context.Context, r slog.Record) error {
	var b strings.Builder
	b.WriteString(r.Time.Format(time.TimeOnly))
	if r.Level != slog.LevelInfo {
		b.WriteString(" " + strings.ToLower(r.Level.String()))
	}
	b.WriteString(" " + r.Message)
	write := func(a slog.Attr) bool {
		fmt.Fprintf(&b, " %s=%s", a.Key, h.u.oneLine(a.Value.String()))
		return true
	}
	for _, a := range h.attrs {
		write(a)
	}
	r.Attrs(write)
	h.u.line(b.String())
	return nil
}
