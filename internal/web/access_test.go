package web

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/cookiejar"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/walferry/walferry/internal/cutover"
	"github.com/walferry/walferry/internal/ready"
	"github.com/walferry/walferry/internal/state"
	"github.com/walferry/walferry/internal/status"
)

// shows opens a server that shows statuses.
func shows(t *testing.T, a Access, read ...func() (status.Status, []status.Table)) *Server {
	t.Helper()
	var migrations []Migration
	for i, r := range read {
		migrations = append(migrations, Migration{
			Key:    string(rune('a' + i)),
			Read:   func(context.Context) (status.Status, error) { st, _ := r(); return st, nil },
			Tables: func(context.Context) ([]status.Table, error) { _, tables := r(); return tables, nil },
			Look:   func(context.Context) (*ready.Looked, error) { return looked(), nil },
		})
	}
	return serves(t, a, migrations...)
}

// serves opens a server that shows migrations.
func serves(t *testing.T, a Access, migrations ...Migration) *Server {
	t.Helper()
	return opens(t, Config{Access: a, Migrations: migrations})
}

func opens(t *testing.T, c Config) *Server {
	t.Helper()
	c.Version, c.Clean, c.Logger = "test", func(s string) string { return s }, slog.New(slog.NewTextHandler(t.Output(), nil))
	s, err := Open(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// looked is a look that has found nothing to refuse.
func looked() *ready.Looked {
	l := &ready.Looked{At: time.Now()}
	for _, name := range []string{cutover.GateIdentity, cutover.GateWriters, cutover.GateStatistics, cutover.GateSchema} {
		l.Gates = append(l.Gates, ready.Gate{Name: name, OK: new(true), Says: "as it should be"})
	}
	return l
}

func following() (status.Status, []status.Table) {
	return status.Status{Name: "a", Phase: state.Following, Running: true}, []status.Table{}
}

// ask sends a request, with changes.
func ask(t *testing.T, client *http.Client, url string, change func(*http.Request)) (*http.Response, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	if change != nil {
		change(r)
	}
	answer, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer, string(text)
}

// A page of somebody else's that gives its own name the address of this host gets nothing, and nothing can be changed.
func TestAccess_Loopback(t *testing.T) {
	s := shows(t, Access{Address: "127.0.0.1:0"}, following)
	for host, code := range map[string]int{
		"localhost": 200, "LOCALHOST:99": 200, "127.0.0.1:1": 200, "[::1]:80": 200, "127.8.8.8": 200,
		"rebound.example": 421, "rebound.example:8085": 421, "10.0.0.1": 421, "localhost.example": 421, "127.0.0.1.example": 421,
	} {
		answer, body := ask(t, http.DefaultClient, s.URL()+"metrics", func(r *http.Request) { r.Host = host })
		if answer.StatusCode != code || code != 200 && strings.Contains(body, "walferry_phase") {
			t.Errorf("Host %q: got %d, want %d: %s", host, answer.StatusCode, code, body)
		}
	}
	for _, method := range []string{"POST", "PUT", "DELETE", "OPTIONS", "CONNECT"} {
		if answer, _ := ask(t, http.DefaultClient, s.URL()+"status", func(r *http.Request) { r.Method = method }); answer.StatusCode != 405 {
			t.Errorf("%s: got %d", method, answer.StatusCode)
		}
	}
	answer, _ := ask(t, http.DefaultClient, s.URL(), nil)
	for header, has := range map[string]string{
		"Content-Security-Policy": "default-src 'none'", "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "Cache-Control": "no-store",
	} {
		if got := answer.Header.Get(header); !strings.Contains(got, has) {
			t.Errorf("%s: got %q, want %q in it", header, got, has)
		}
	}
	if policy := answer.Header.Get("Content-Security-Policy"); strings.Contains(policy, "unsafe") || strings.Contains(policy, "http") {
		t.Errorf("the policy lets too much in: %s", policy)
	}
	for _, path := range []string{"assets/", "assets/page.html", "assets/../page.go", "assets/%2e%2e/%2e%2e/server.go", "page/page.js", "nothing"} {
		if answer, _ := ask(t, http.DefaultClient, s.URL()+path, nil); answer.StatusCode != 404 {
			t.Errorf("%s: got %d, want 404", path, answer.StatusCode)
		}
	}
}

// Where others can reach it, nobody sees anything without the token: a program brings it along, a browser once.
func TestAccess_Token(t *testing.T) {
	const token = "a-token-of-some-length"
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte(token+"\nnot this line\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := shows(t, Access{Address: "127.0.0.1:0", TokenFile: file}, following)
	code := func(path, authorization string) int {
		answer, _ := ask(t, http.DefaultClient, s.URL()+path, func(r *http.Request) { r.Header.Set("Authorization", authorization) })
		return answer.StatusCode
	}
	for _, path := range []string{"", "status", "metrics", "tables", "events", "history", "assets/page.js"} {
		for _, wrong := range []string{"", "Bearer", "Bearer ", "Bearer " + token[1:], "Bearer " + token + "x", "Basic " + token, token} {
			if got := code(path, wrong); got != 401 {
				t.Errorf("%q with %q: got %d, want 401", path, wrong, got)
			}
		}
		if path == "events" { // whose answer does not end
			continue
		}
		if got := code(path, "Bearer "+token); got != 200 {
			t.Errorf("%q with the token: got %d, want 200", path, got)
		}
	}
	if got := code("healthz", ""); got != 200 {
		t.Errorf("healthz: got %d", got)
	}
	if answer, body := ask(t, http.DefaultClient, s.URL()+"readyz", nil); body != "" {
		t.Errorf("readyz without the token: %d, %q", answer.StatusCode, body)
	}

	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	browser := &http.Client{Jar: jar}
	if answer, _ := ask(t, browser, s.URL()+"?token=wrong-token-of-length", nil); answer.StatusCode != 401 {
		t.Errorf("a wrong token: got %d", answer.StatusCode)
	}
	answer, _ := ask(t, browser, s.URL()+"?token="+token, nil)
	if answer.StatusCode != 200 || answer.Request.URL.String() != s.URL() {
		t.Errorf("the token once: got %d at %s", answer.StatusCode, answer.Request.URL)
	}
	if answer, _ := ask(t, browser, s.URL()+"status", nil); answer.StatusCode != 200 {
		t.Errorf("with the cookie: got %d", answer.StatusCode)
	}
	for _, cookie := range jar.Cookies(answer.Request.URL) {
		if strings.Contains(cookie.Value, token) {
			t.Error("the cookie has the token")
		}
	}
	stay := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	for _, path := range []string{"/elsewhere.example/", "%2f/elsewhere.example/", "\\elsewhere.example"} {
		answer, _ := ask(t, stay, s.URL()+path+"?token="+token, nil)
		if to := answer.Header.Get("Location"); strings.HasPrefix(to, "//") || strings.HasPrefix(to, "/\\") || strings.Contains(to, token) {
			t.Errorf("%s: leads to %q", path, to)
		}
		if set := answer.Header.Get("Set-Cookie"); set != "" && !strings.Contains(set, "HttpOnly") {
			t.Errorf("cookie: %s", set)
		}
	}
}

// What a server's errors say of rows is masked; names of tables and columns are not.
func TestPlain(t *testing.T) {
	for text, want := range map[string]string{
		`invalid input syntax for type integer: "canary" (SQLSTATE 22P02)`:                           `invalid input syntax for type integer: "…" (SQLSTATE 22P02)`,
		`invalid byte sequence for encoding "UTF8": 0xff 0x41 (SQLSTATE 22021)`:                      `invalid byte sequence for encoding "…": … (SQLSTATE 22021)`,
		`duplicate key "t_pkey" (SQLSTATE 23505): Key (a, b)=(1, canary) already exists.`:            `duplicate key "t_pkey" (SQLSTATE 23505): Key (a, b)=(…) already exists.`,
		`violates check constraint "c": Failing row contains (1, canary (x)). (SQLSTATE 23514)`:      `violates check constraint "c": Failing row contains (…)`,
		`Key (id)=(canary) is not present in table "p"`:                                              `Key (id)=(…) is not present in table "p"`,
		`table "public"."a (b)" is gone; table t (id): relation "t" does not exist (SQLSTATE 42P01)`: `table "public"."a (b)" is gone; table t (id): relation "t" does not exist (SQLSTATE 42P01)`,
	} {
		if got := plain(text); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

// Several migrations are listed, and each has its own paths.
func TestServer_Several(t *testing.T) {
	broken := func() (status.Status, []status.Table) {
		return status.Status{Name: "b", Phase: "<b>phase</b>", Source: status.SourceStatus{Error: "away"}}, []status.Table{}
	}
	s := shows(t, Access{Address: "127.0.0.1:0"}, following, broken)
	for _, v := range s.views {
		v.read(t.Context())
	}
	for path, has := range map[string]string{
		"": "&lt;b&gt;phase&lt;/b&gt;", "status": `"a":{"name":"a"`, "m/a/status": `"name": "a"`, "m/b/status": `"name": "b"`, "m/a/": "<title>walferry", "m/b/assets/page.js": "EventSource",
		"assets/page.css": ":root", "m/b/tables": `"count":0`, "m/a/history": `"at"`, "metrics": `walferry_up{migration="b",side="source"} 0`, "healthz": "ok",
	} {
		if answer, body := ask(t, http.DefaultClient, s.URL()+path, nil); answer.StatusCode != 200 || !strings.Contains(body, has) {
			t.Errorf("%q: %d, want %q in %s", path, answer.StatusCode, has, body)
		}
	}
	if answer, body := ask(t, http.DefaultClient, s.URL()+"readyz", nil); answer.StatusCode != 503 || !strings.Contains(body, `"b":false`) {
		t.Errorf("readyz: %d, %s", answer.StatusCode, body)
	}
	if answer, _ := ask(t, http.DefaultClient, s.URL()+"m/c/status", nil); answer.StatusCode != 404 {
		t.Errorf("a migration that is not shown: %d", answer.StatusCode)
	}
}

// A migrate that does not have its lock any more is not healthy; before it has begun, and where its target is not read, it is.
func TestServer_Healthy(t *testing.T) {
	var running atomic.Bool
	var begun atomic.Pointer[time.Time]
	begun.Store(new(time.Time))
	s := opens(t, Config{
		Access: Access{Address: "127.0.0.1:0"}, Began: func() time.Time { return *begun.Load() },
		Migrations: []Migration{{
			Key: "a",
			Read: func(context.Context) (status.Status, error) {
				return status.Status{Phase: state.Following, Running: running.Load()}, nil
			},
			Tables: func(context.Context) ([]status.Table, error) { return []status.Table{}, nil },
			Look:   func(context.Context) (*ready.Looked, error) { return looked(), nil },
		}},
	})
	healthy := func(want int) {
		t.Helper()
		s.views[0].read(t.Context())
		if answer, _ := ask(t, http.DefaultClient, s.URL()+"healthz", nil); answer.StatusCode != want {
			t.Errorf("got %d, want %d", answer.StatusCode, want)
		}
	}
	healthy(200)
	begun.Store(new(time.Now()))
	healthy(503)
	running.Store(true)
	healthy(200)
}
