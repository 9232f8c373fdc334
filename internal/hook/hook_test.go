package hook

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/walferry/walferry/internal/fail"
)

// script writes a program, whose folder is $dir in it.
func script(t *testing.T, text string) string {
	t.Helper()
	dir := t.TempDir()
	path := filepath.Join(dir, "hook.sh")
	if err := os.WriteFile(path, []byte("#!/bin/sh\ndir='"+dir+"'\n"+text), 0o700); err != nil {
		t.Fatal(err)
	}
	return path
}

func read(t *testing.T, hook, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(filepath.Dir(hook), name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

type log struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *log) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func caller(t *testing.T, hooks ...string) (*Caller, *log) {
	t.Helper()
	l := &log{}
	return &Caller{Hooks: hooks, Logger: slog.New(slog.NewTextHandler(l, &slog.HandlerOptions{Level: slog.LevelDebug}))}, l
}

func example(e Event) Payload {
	return Payload{
		Event: e, Name: "shop", Switch: "cutover", Phase: "following",
		Source: Server{Host: "old.example", Port: 5432, DBName: "app"}, Target: Server{Host: "new.example", Port: 5433, DBName: "app2"},
	}
}

// A program gets the payload and the variables, and none of walferry's own, which hold passwords.
func TestProgram(t *testing.T) {
	t.Setenv("WALFERRY_SOURCE", "postgres://me:canary@old/app")
	t.Setenv("PGPASSWORD", "canary")
	h := script(t, `cat > "$dir/payload"; env > "$dir/env"; ps -o pgid= -p $$ > "$dir/group"; echo $$ > "$dir/pid"`)
	c, _ := caller(t, h)
	if err := c.Call(t.Context(), example(Hold)); err != nil {
		t.Fatal(err)
	}
	var p map[string]any
	if err := json.Unmarshal([]byte(read(t, h, "payload")), &p); err != nil {
		t.Fatal(err)
	}
	for field, want := range map[string]any{"version": 1.0, "event": "hold", "name": "shop", "attempt": 1.0, "dry_run": false, "lsn": nil, "lag_ms": nil, "pause_ms": nil} {
		if got, there := p[field]; !there || got != want {
			t.Errorf("%s: got %v, want %v", field, got, want)
		}
	}
	if _, err := time.Parse(time.RFC3339, fmt.Sprint(p["deadline"])); err != nil {
		t.Errorf("deadline: %v", err)
	}
	if source := fmt.Sprint(p["source"]); source != "map[dbname:app host:old.example port:5432 version:<nil>]" {
		t.Errorf("source: %s", source)
	}
	if steps := fmt.Sprint(p["steps"]); steps != "[]" {
		t.Errorf("steps: %s, want an empty list", steps)
	}
	env := read(t, h, "env")
	for _, want := range []string{"WALFERRY_EVENT=hold\n", "WALFERRY_NAME=shop\n", "WALFERRY_TARGET_HOST=new.example\n", "WALFERRY_TARGET_PORT=5433\n", "WALFERRY_DRY_RUN=false\n"} {
		if !strings.Contains(env, want) {
			t.Errorf("no %q in the environment:\n%s", want, env)
		}
	}
	if strings.Contains(env, "canary") {
		t.Errorf("a password in the environment:\n%s", env)
	}
	if group, pid := strings.TrimSpace(read(t, h, "group")), strings.TrimSpace(read(t, h, "pid")); group != pid {
		t.Errorf("process %s is in group %s, want one of its own", pid, group)
	}
}

// The exit code decides; those after the one that does not agree are not called, and what it said
// last is the reason. Nothing is interpreted by a shell.
func TestRefusal(t *testing.T) {
	no := script(t, "cat > /dev/null; echo looking; echo 'the pooler is on fire' >&2; exit 3")
	after := script(t, `touch "$dir/called"`)
	c, l := caller(t, no, after)
	err := c.Call(t.Context(), example(Redirect))
	var refused *RefusedError
	if !errors.As(err, &refused) || refused.Event != Redirect {
		t.Fatalf("got %v", err)
	}
	if want := "hook " + no + " does not agree to redirect: exit status 3: the pooler is on fire"; err.Error() != want {
		t.Errorf("got  %s\nwant %s", err, want)
	}
	if fail.Hint(err) == "" {
		t.Error("no hint")
	}
	if _, err := os.Stat(filepath.Join(filepath.Dir(after), "called")); err == nil {
		t.Error("the hook after it was called")
	}
	for _, line := range []string{"hook: looking", "hook: the pooler is on fire"} {
		if !strings.Contains(l.String(), line) {
			t.Errorf("%q is not in the log:\n%s", line, l)
		}
	}
	if err := Validate([]string{no + "; true"}); !fail.Is(err, fail.Usage) {
		t.Errorf("a command line is taken for a program: %v", err)
	}
}

// A program that hangs is killed with what it has started, also what ignores a polite request.
func TestHanging(t *testing.T) {
	h := script(t, `trap '' TERM
sh -c "trap '' TERM; echo \$\$ > '$dir/child'; exec sleep 1000" &
echo $$ > "$dir/self"
wait
sleep 1000`)
	c, _ := caller(t, h)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	go func() { // its time is over once both run: nothing depends on how long that takes
		for ctx.Err() == nil {
			_, own := os.Stat(filepath.Join(filepath.Dir(h), "self"))
			_, child := os.Stat(filepath.Join(filepath.Dir(h), "child"))
			if own == nil && child == nil {
				stop()
			}
			time.Sleep(10 * time.Millisecond)
		}
	}()
	c.Timeout = time.Hour
	if err := c.Call(ctx, example(Hold)); err == nil || !strings.Contains(err.Error(), "it was killed") {
		t.Errorf("got %v", err)
	}
	for _, name := range []string{"self", "child"} {
		pid, err := strconv.Atoi(strings.TrimSpace(read(t, h, name)))
		if err != nil {
			t.Fatal(err)
		}
		gone := false
		for range 1000 {
			if gone = !runs(pid); gone {
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
		if !gone {
			t.Errorf("%s, process %d, is alive", name, pid)
			syscall.Kill(pid, syscall.SIGKILL)
		}
	}
}

// runs reports whether a process is there and not merely waiting to be reaped.
func runs(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return syscall.Kill(pid, 0) == nil && !os.IsNotExist(err)
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	return !strings.HasPrefix(rest, "Z")
}

func TestTimeout(t *testing.T) {
	h := script(t, "exec sleep 1000")
	c, _ := caller(t, h)
	c.Timeout = 50 * time.Millisecond
	err := c.Call(t.Context(), example(Check))
	if err == nil || !strings.Contains(err.Error(), "it took longer than it may (50ms") {
		t.Errorf("got %v", err)
	}
}

// A program that leaves something in the background, with its output, has ended.
func TestForking(t *testing.T) {
	h := script(t, `sleep 1000 & echo $! > "$dir/child"; exit 0`)
	c, _ := caller(t, h)
	c.Timeout = time.Hour
	var groups []int
	c.Running = func(group int) { groups = append(groups, group) }
	if err := c.Call(t.Context(), example(Opened)); err != nil {
		t.Error(err)
	}
	if len(groups) != 2 || groups[0] == 0 || groups[1] != 0 {
		t.Errorf("groups: %v, want one and its end", groups)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(read(t, h, "child")))
	if err != nil || syscall.Kill(pid, syscall.SIGKILL) != nil {
		t.Errorf("what it had started is gone: %v", err)
	}
}

// Passwords in what a hook prints or answers are masked, in the log and in errors.
func TestMasked(t *testing.T) {
	h := script(t, "echo connecting with canary-word; echo still canary-word >&2; exit 1")
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusTeapot)
		io.WriteString(w, "no canary-word here") //nolint:errcheck // the caller notices
	}))
	defer s.Close()
	c, l := caller(t, h, strings.Replace(s.URL, "http://", "http://user:canary-word@", 1)+"/T0/canary-word?token=canary-word")
	c.Mask = func(s string) string { return strings.ReplaceAll(s, "canary-word", "***") }
	errs := c.All(t.Context(), example(Undo))
	if len(errs) != 2 {
		t.Fatalf("got %v, want both hooks' errors", errs)
	}
	for _, text := range []string{l.String(), errs[0].Error(), errs[1].Error(), Show(c.Hooks[1])} {
		if strings.Contains(text, "canary-word") {
			t.Errorf("a password is shown: %s", text)
		}
	}
	if !strings.Contains(errs[1].Error(), "418 I'm a teapot: no *** here") {
		t.Errorf("got %v", errs[1])
	}
}

// What is posted is signed, and whoever answers with anything but 2xx does not agree.
func TestPost(t *testing.T) {
	var status int
	var body []byte
	var header http.Header
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ = io.ReadAll(r.Body)
		header = r.Header
		w.Header().Set("Location", "/elsewhere")
		w.WriteHeader(status)
	}))
	defer s.Close()
	c, _ := caller(t, s.URL)
	c.Secret = []byte("between us")
	for _, c2 := range []struct {
		status int
		agreed bool
	}{{200, true}, {204, true}, {302, false}, {307, false}, {404, false}, {500, false}} {
		status = c2.status
		if err := c.Call(t.Context(), example(Fenced)); (err == nil) != c2.agreed {
			t.Errorf("%d: got %v", status, err)
		}
		if got, want := header.Get(SignatureHeader), Sign(c.Secret, body); got != want {
			t.Errorf("signature %s, want %s", got, want)
		}
		if header.Get(EventHeader) != "fenced" || !strings.Contains(string(body), `"event":"fenced"`) {
			t.Errorf("header %v, body %s", header, body)
		}
	}
	// printf body | openssl dgst -sha256 -hmac secret
	if got, want := Sign([]byte("secret"), []byte("body")), "sha256=dc46983557fea127b43af721467eb9b3fde2338fe3e14f51952aa8478c13d355"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// After the seal a hook is asked until it agrees, and knows which attempt it is.
func TestInsist(t *testing.T) {
	before := insistPauses
	insistPauses.First = time.Millisecond
	defer func() { insistPauses = before }()
	h := script(t, `echo "$WALFERRY_ATTEMPT" >> "$dir/attempts"; [ "$WALFERRY_ATTEMPT" = 3 ]`)
	c, _ := caller(t, h)
	var told []string
	if err := c.Insist(t.Context(), example(Release), func(s string) { told = append(told, s) }); err != nil {
		t.Fatal(err)
	}
	if got := read(t, h, "attempts"); got != "1\n2\n3\n" {
		t.Errorf("attempts: %q", got)
	}
	if len(told) != 2 {
		t.Errorf("told %q, want two failures", told)
	}
	c, _ = caller(t, script(t, "exit 1"))
	ctx, cancel := context.WithCancel(t.Context())
	err := c.Insist(ctx, example(Release), func(string) { cancel() })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want the end of the context", err)
	}
}

// One that does not agree keeps no other from being called: it may be the one that holds clients.
func TestInsist_Others(t *testing.T) {
	refuses, agrees := script(t, "exit 1"), script(t, `echo "$WALFERRY_ATTEMPT" >> "$dir/attempts"`)
	c, _ := caller(t, refuses, agrees)
	ctx, cancel := context.WithCancel(t.Context())
	told := 0
	err := c.Insist(ctx, example(Release), func(string) {
		if told++; told == 2 {
			cancel()
		}
	})
	if err == nil || !strings.Contains(err.Error(), refuses) || strings.Contains(err.Error(), agrees) {
		t.Errorf("got %v, want the name of the one that refuses", err)
	}
	if got := read(t, agrees, "attempts"); got != "1\n" {
		t.Errorf("attempts of the one that agrees: %q", got)
	}
}

// What is only told comes in its order, without anybody waiting, and the end waits for it no longer
// than it may.
func TestTeller(t *testing.T) {
	h := script(t, `echo "$WALFERRY_EVENT" >> "$dir/events"`)
	c, _ := caller(t, h)
	teller := NewTeller(c)
	for _, e := range []Event{Phase, Alert, Finished} {
		teller.Tell(example(e))
	}
	teller.Close(time.Hour)
	if got := read(t, h, "events"); got != "phase\nalert\nfinished\n" {
		t.Errorf("got %q", got)
	}

	c, l := caller(t, script(t, "exec sleep 1000"))
	c.Timeout = time.Hour
	teller = NewTeller(c)
	for range waiting + 2 {
		teller.Tell(example(Phase))
	}
	teller.Close(0)
	if !strings.Contains(l.String(), "the hooks do not keep up") {
		t.Errorf("nobody learns what was not told:\n%s", l)
	}
}

func TestValidate(t *testing.T) {
	plain := filepath.Join(t.TempDir(), "notes.txt")
	if err := os.WriteFile(plain, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, wrong := range []string{"/nowhere/at/all", plain, "https://", "http://user:pass word@[", t.TempDir()} {
		if err := Validate([]string{wrong}); !fail.Is(err, fail.Usage) {
			t.Errorf("%s: got %v", wrong, err)
		} else if strings.Contains(err.Error(), "pass word") {
			t.Errorf("a password is shown: %v", err)
		}
	}
	if err := Validate([]string{script(t, ""), "https://hooks.example/x"}); err != nil {
		t.Error(err)
	}
}
