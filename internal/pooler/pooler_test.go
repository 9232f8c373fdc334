package pooler

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/internal/fail"
	"github.com/walferry/walferry/internal/pgtest"
	"github.com/walferry/walferry/internal/session"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

func placeOf(t *testing.T, url string) Place {
	t.Helper()
	cfg, err := session.Parse(url)
	if err != nil {
		t.Fatal(err)
	}
	return Place{cfg.Host, int(cfg.Port), cfg.Database}
}

// ask runs a query through a pooler, and returns its answer.
func ask(ctx context.Context, url, sql string) (answer string, err error) {
	conn, err := pgx.Connect(ctx, url+"&default_query_exec_mode=simple_protocol")
	if err != nil {
		return "", err
	}
	defer conn.Close(context.Background())
	return answer, conn.QueryRow(ctx, sql).Scan(&answer)
}

// Clients are held, led to another database and let go, under a name that has to be quoted.
func TestFleet(t *testing.T) {
	pgtest.EachBouncer(t, func(t *testing.T, program string) {
		source, target := pgtest.Pair(t, 15, 15)
		from, to := placeOf(t, source), placeOf(t, target)
		b := pgtest.NewBouncer(t, program, []string{pgtest.Line("my-App", source)}, nil)
		second := pgtest.NewBouncer(t, program, []string{pgtest.Line("my-App", source)}, nil)
		f := New([]string{b.URL(""), second.URL("")}, []string{"my-App"}, []string{b.File, second.File})
		defer f.Close()
		ctx := t.Context()
		there := map[string]Place{"my-App": to}
		here := map[string]Place{"my-App": from}
		problems, places, kill := f.Preflight(ctx, Expected{From: here, To: there, FromMajor: 15, ToMajor: 15, Wait: time.Minute})
		if len(problems) > 0 || kill || places["my-App"] != from {
			t.Fatalf("found %+v, places %v, kill %v", problems, places, kill)
		}
		was, err := f.Originals(ctx, nil)
		if err != nil || was[f.Consoles[1].Address()]["server_login_retry"] != "15" {
			t.Fatalf("settings %v, %v", was, err)
		}
		if err := f.Hold(ctx); err != nil {
			t.Fatal(err)
		}
		if again, err := f.Originals(ctx, was); err != nil || again[f.Consoles[0].Address()]["server_login_retry"] != "15" {
			t.Errorf("after a death the settings would be taken for %v, %v", again, err)
		}
		answers := make(chan string, 2)
		for _, url := range []string{b.URL("my-App"), second.URL("my-App")} {
			go func() {
				answer, err := ask(context.Background(), url, "select current_database()")
				answers <- fmt.Sprint(answer, err)
			}()
		}
		if err := f.Lead(ctx, there, true); err != nil {
			t.Fatal(err)
		}
		select {
		case a := <-answers:
			t.Errorf("a client was not held: %s", a)
		default:
		}
		if err := f.Release(ctx, was, false); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if a := <-answers; a != to.DBName+"<nil>" {
				t.Errorf("a client that was held came to %s, want %s", a, to.DBName)
			}
		}
		for _, c := range f.Consoles {
			settings, err := c.settings(ctx)
			if err != nil || settings["server_login_retry"] != "15" || settings["server_lifetime"] != "3600" {
				t.Errorf("the settings are not as before: %v, %v", settings["server_login_retry"], settings["server_lifetime"])
			}
		}
		if err := f.Release(ctx, was, false); err != nil {
			t.Errorf("a second time: %v", err)
		}
		text, _ := os.ReadFile(b.File)
		if !strings.Contains(string(text), fmt.Sprintf(`my-App = host=%s port=%d dbname=%s user=postgres`, to.Host, to.Port, to.DBName)) {
			t.Errorf("the file:\n%s", text)
		}
	})
}

// A transaction that is open is waited for, no longer than there is time, and what is held is let go.
func TestHold_Busy(t *testing.T) {
	pgtest.EachBouncer(t, func(t *testing.T, program string) {
		source, _ := pgtest.Pair(t, 15, 15)
		b := pgtest.NewBouncer(t, program, []string{pgtest.Line("app", source)}, nil)
		conn, err := pgx.Connect(t.Context(), b.URL("app")+"&default_query_exec_mode=simple_protocol")
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close(context.Background())
		if _, err := conn.Exec(t.Context(), "begin; select 1"); err != nil {
			t.Fatal(err)
		}
		f := New([]string{b.URL("")}, []string{"app"}, nil)
		defer f.Close()
		soon, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		defer cancel()
		if err := f.Hold(soon); !fail.Is(err, fail.Gate) {
			t.Errorf("got %v", err)
		}
		if err := f.Release(t.Context(), nil, false); err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Exec(t.Context(), "commit"); err != nil {
			t.Errorf("the transaction: %v", err)
		}
		if answer, err := ask(t.Context(), b.URL("app"), "select 'there'"); answer != "there" {
			t.Errorf("afterwards: %q, %v", answer, err)
		}
	})
}

// A file that PgBouncer cannot read leaves the clients where they are, and is noticed.
func TestLead_Broken(t *testing.T) {
	pgtest.EachBouncer(t, func(t *testing.T, program string) {
		source, target := pgtest.Pair(t, 15, 15)
		b := pgtest.NewBouncer(t, program, []string{pgtest.Line("app", source)}, nil)
		b.Rewrite(t, func(text string) string { return strings.Replace(text, "[databases]", "[databases]\nnonsense", 1) })
		f := New([]string{b.URL("")}, []string{"app"}, []string{b.File})
		defer f.Close()
		err := f.Lead(t.Context(), map[string]Place{"app": placeOf(t, target)}, true)
		if err == nil {
			t.Fatal("nobody has noticed")
		}
		var misplaced *MisplacedError
		if strings.HasPrefix(programVersion(program), "1.18") && !errors.As(err, &misplaced) {
			t.Errorf("got %v", err)
		}
		if err := f.Lead(t.Context(), map[string]Place{"app": placeOf(t, source)}, false); err != nil {
			t.Errorf("back: %v", err)
		}
		if answer, err := ask(t.Context(), b.URL("app"), "select current_database()"); answer != placeOf(t, source).DBName {
			t.Errorf("the clients came to %s, %v", answer, err)
		}
	})
}

func programVersion(program string) string {
	for version, path := range pgtest.BouncerPrograms() {
		if path == program {
			return version
		}
	}
	return ""
}

// What would make clients see errors is found before anybody is held.
func TestPreflight(t *testing.T) {
	pgtest.EachBouncer(t, func(t *testing.T, program string) {
		source, target := pgtest.Pair(t, 15, 15)
		from := map[string]Place{"app": placeOf(t, source)}
		to := map[string]Place{"app": placeOf(t, target)}
		for name, c := range map[string]struct {
			lines    []string
			settings map[string]string
			url      func(b *pgtest.Bouncer) string
			change   func(x *Expected)
			file     func(b *pgtest.Bouncer) string
			seen     string // empty: nothing
			warns    bool
		}{
			"as it ought to be":            {},
			"session pooling":              {settings: map[string]string{"pool_mode": "session"}, seen: "database app is pooled by session"},
			"session pooling of the entry": {lines: []string{pgtest.Line("app", source) + " pool_mode=session"}, seen: "database app is pooled by session"},
			"query_wait_timeout":           {settings: map[string]string{"query_wait_timeout": "60"}, seen: "its query_wait_timeout is 60"},
			"no query_wait_timeout":        {settings: map[string]string{"query_wait_timeout": "0"}},
			"another database":             {lines: []string{pgtest.Line("app", target)}, seen: "leads to the database"},
			"another server":               {lines: []string{strings.Replace(pgtest.Line("app", source), "host=127.0.0.1", "host=127.0.0.2", 1)}, seen: "leads to 127.0.0.2"},
			"the server's other name":      {lines: []string{strings.Replace(pgtest.Line("app", source), "host=127.0.0.1", "host=localhost", 1)}},
			"no such database":             {lines: []string{pgtest.Line("other", source)}, seen: "it has no database app"},
			"no admin":                     {settings: map[string]string{"admin_users": "other", "stats_users": "postgres"}, seen: "admin"},
			"nobody there":                 {url: func(*pgtest.Bouncer) string { return "postgres://postgres@127.0.0.1:1/" }, seen: "connect to PgBouncer at 127.0.0.1:1"},
			"the server itself":            {url: func(*pgtest.Bouncer) string { return source }, seen: "127.0.0.1"},
			"another file":                 {file: func(b *pgtest.Bouncer) string { return b.Dir + "/users" }, seen: "it has no line for the database app"},
			"no file":                      {file: func(b *pgtest.Bouncer) string { return b.Dir + "/none" }, seen: "could not be changed"},
			"a shared port":                {settings: map[string]string{"so_reuseport": "1"}, seen: "it shares its port", warns: true},
		} {
			t.Run(name, func(t *testing.T) {
				if c.lines == nil {
					c.lines = []string{pgtest.Line("app", source)}
				}
				b := pgtest.NewBouncer(t, program, c.lines, c.settings)
				url, file := b.URL(""), b.File
				if c.url != nil {
					url = c.url(b)
				}
				if c.file != nil {
					file = c.file(b)
				}
				f := New([]string{url}, []string{"app"}, []string{file})
				defer f.Close()
				problems, _, _ := f.Preflight(t.Context(), Expected{From: from, To: to, FromMajor: 15, ToMajor: 15, Wait: time.Minute})
				if c.seen == "" && len(problems) == 0 {
					return
				}
				if len(problems) == 0 || c.seen == "" || !strings.Contains(problems[0].Seen, c.seen) || problems[0].Do == "" || problems[0].Blocks == c.warns {
					t.Errorf("found %+v, want %q", problems, c.seen)
				}
			})
		}
	})
}

// Somebody else's PAUSE is not ours to end.
func TestPreflight_Paused(t *testing.T) {
	pgtest.EachBouncer(t, func(t *testing.T, program string) {
		source, target := pgtest.Pair(t, 15, 15)
		b := pgtest.NewBouncer(t, program, []string{pgtest.Line("app", source)}, nil)
		b.Ask(t, "pause app")
		f := New([]string{b.URL("")}, []string{"app"}, []string{b.File})
		defer f.Close()
		problems, _, _ := f.Preflight(t.Context(), Expected{From: map[string]Place{"app": placeOf(t, source)}, To: map[string]Place{"app": placeOf(t, target)}, Wait: time.Minute})
		if len(problems) != 1 || !strings.Contains(problems[0].Seen, "held by somebody else") {
			t.Errorf("found %+v", problems)
		}
	})
}

// A pooler that knows the server by a name that tells nothing is known by its connections.
func TestPreflight_Backend(t *testing.T) {
	pgtest.EachBouncer(t, func(t *testing.T, program string) {
		source, target := pgtest.Pair(t, 15, 15)
		b := pgtest.NewBouncer(t, program, []string{pgtest.Line("app", source)}, nil)
		if _, err := ask(t.Context(), b.URL("app"), "select 'x'"); err != nil {
			t.Fatal(err)
		}
		from := placeOf(t, source)
		from.Host = "192.0.2.1" // walferry's way to it
		asked := 0
		for _, known := range []bool{true, false} {
			f := New([]string{b.URL("")}, []string{"app"}, []string{b.File})
			problems, _, _ := f.Preflight(t.Context(), Expected{
				From: map[string]Place{"app": from}, To: map[string]Place{"app": placeOf(t, target)}, Wait: time.Minute,
				Backend: func(_ context.Context, pid int) (bool, error) {
					asked++
					rows := pgtest.Query(t, source, fmt.Sprintf("select count(*) from pg_stat_activity where pid = %d and datname = current_database()", pid))
					return known && rows[0][0] == "1", nil
				},
			})
			f.Close()
			if (len(problems) == 0) != known {
				t.Errorf("known %v: found %+v", known, problems)
			}
		}
		if asked == 0 {
			t.Error("nobody was asked for its connections")
		}
	})
}

func TestMustKill(t *testing.T) {
	for _, c := range []struct {
		version, from, to int
		want              bool
	}{{126, 17, 13, true}, {126, 16, 15, true}, {124, 17, 13, false}, {118, 17, 13, false}, {126, 17, 16, false}, {126, 15, 13, false}} {
		if got := MustKill(c.version, c.from, c.to); got != c.want {
			t.Errorf("%+v: got %v", c, got)
		}
	}
}
