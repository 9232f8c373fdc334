package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/rogpeppe/go-internal/testscript"
	"github.com/urfave/cli/v2"

	"github.com/walferry/walferry/internal/pgtest"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"walferry": main})
}

// canary is the password in every connection string of the scripts. No part of it may ever be
// printed, neither the first nor the last, in whatever way it is written.
const canary = `canary's:/?#[@]%20 "wren`

// TestScripts runs the shell sessions in testdata/script. They have the commands of this file in
// addition to those of testscript.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(env *testscript.Env) error {
			env.Values[scriptKey{}] = &script{tb: env.T().(testing.TB), servers: map[string]*pgtest.Server{}}
			u := url.UserPassword("postgres", canary)
			env.Setenv("CANARY", canary)
			env.Setenv("USERINFO", u.String())
			env.Setenv("NAME", fmt.Sprintf("t%08x", rand.Uint32()))
			return nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"exits":     exits,
			"servers":   servers,
			"server":    server,
			"standby":   standby,
			"secure":    secure,
			"expire":    expire,
			"sql":       runSQL,
			"role":      role,
			"foreign":   foreign,
			"reach":     reach,
			"arrives":   arrives,
			"back":      back,
			"remember":  remember,
			"unchanged": unchanged,
			"quiet":     quiet,
			"port":      port,
			"get":       get,
		},
	})
}

// script is the state that the commands of a script share.
type script struct {
	tb      testing.TB
	servers map[string]*pgtest.Server // those of its own, by side
	before  []string                  // what remember saw

	authority *authority // of secure
}

type scriptKey struct{}

func of(ts *testscript.TestScript) *script { return ts.Value(scriptKey{}).(*script) }

// exits runs a command to its end and compares its exit code: exits CODE COMMAND ARGS... Nothing of
// the canary may be in its output.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE COMMAND ARGS...")
	}
	code := 0
	var exit *exec.ExitError
	if err := ts.Exec(args[1], args[2:]...); errors.As(err, &exit) {
		code = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if got, want := strconv.Itoa(code), args[0]; got != want {
		ts.Fatalf("%s ended with exit code %s, want %s", args[1], got, want)
	}
	quiet(ts, false, nil)
}

// quiet passes if nothing of the canary is in the output of the last command.
func quiet(ts *testscript.TestScript, _ bool, _ []string) {
	for _, from := range []string{"stdout", "stderr"} {
		text := strings.ToLower(ts.ReadFile(from))
		for _, part := range []string{"canary", "wren"} {
			if strings.Contains(text, part) {
				ts.Fatalf("%s shows the password", from)
			}
		}
	}
}

// servers creates fresh databases on a source and a target.
func servers(ts *testscript.TestScript, _ bool, _ []string) {
	sourceMajor, targetMajor := pgtest.Default()
	source, target := pgtest.Pair(of(ts).tb, sourceMajor, targetMajor)
	use(ts, "source", source)
	use(ts, "target", target)
}

// use makes a database one of the two sides. Its connection string has a password even if the
// server asks for none: the canary.
func use(ts *testscript.TestScript, side, dsn string) {
	u, err := url.Parse(dsn)
	ts.Check(err)
	if _, has := u.User.Password(); !has {
		u.User = url.UserPassword(u.User.Username(), canary)
	}
	name := strings.ToUpper(side)
	ts.Setenv(name, u.String())
	ts.Setenv("WALFERRY_"+name, u.String())
	ts.Setenv(name+"_PLACE", u.Host+u.Path)
	ts.Setenv(name+"_PORT", u.Port())
}

// server starts a separate server for a side: server SIDE [password] [SETTING=VALUE...].
func server(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 {
		ts.Fatalf("usage: server SIDE [password] [SETTING=VALUE...]")
	}
	sourceMajor, targetMajor := pgtest.Default()
	o := pgtest.Options{Major: sourceMajor, Settings: map[string]string{}}
	if args[0] == "target" {
		o.Major = targetMajor
	}
	for _, arg := range args[1:] {
		if name, value, ok := strings.Cut(arg, "="); ok {
			o.Settings[name] = value
		} else {
			o.Password = canary
		}
	}
	s := pgtest.New(of(ts).tb, o)
	of(ts).servers[args[0]] = s
	use(ts, args[0], s.URL("postgres"))
}

// standby restarts a side's server as a standby without a primary: standby SIDE.
func standby(ts *testscript.TestScript, _ bool, args []string) {
	s, ctx := of(ts).servers[args[0]], of(ts).tb.Context()
	ts.Check(s.Stop(ctx, "fast"))
	// Only the server's own account may write there.
	signal := filepath.Join(s.DataDir, "standby.signal")
	ts.Check(os.WriteFile(signal, nil, 0o644))
	ts.Check(s.Start(ctx))
}

// runSQL runs SQL on a side, or in the database of a connection string, and prints the rows of the
// last statement: sql SIDE SQL...
func runSQL(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: sql SIDE SQL...")
	}
	for _, row := range pgtest.Query(of(ts).tb, side(ts, args[0]), strings.Join(args[1:], " ")) {
		fmt.Fprintln(ts.Stdout(), strings.Join(row, " "))
	}
}

// role creates a role that may log in and nothing else: role SIDE NAME.
func role(ts *testscript.TestScript, _ bool, args []string) {
	dsn, name := side(ts, args[0]), args[1]
	pgtest.Exec(of(ts).tb, dsn, `create role `+name+` login`)
	of(ts).tb.Cleanup(func() {
		conn, err := pgconn.Connect(context.Background(), dsn)
		if err == nil {
			defer conn.Close(context.Background())
			_, err = conn.Exec(context.Background(), `drop owned by `+name+`; drop role `+name).ReadAll()
		}
		if err != nil {
			of(ts).tb.Error(err)
		}
	})
}

// foreign creates or drops, on the source, objects with the names of the migration's own: foreign
// slot, foreign no-slot, foreign publication.
func foreign(ts *testscript.TestScript, _ bool, args []string) {
	sql := map[string]string{
		"slot":        `select pg_create_logical_replication_slot('walferry_%s', 'pgoutput')`,
		"no-slot":     `select pg_drop_replication_slot('walferry_%s')`,
		"publication": `create publication walferry_%s`,
	}[args[0]]
	pgtest.Exec(of(ts).tb, side(ts, "source"), fmt.Sprintf(sql, ts.Getenv("NAME")))
}

func side(ts *testscript.TestScript, name string) string {
	dsn := ts.Getenv(strings.ToUpper(name))
	if dsn == "" {
		ts.Fatalf("there is no %s yet", name)
	}
	return dsn
}

// The flag package takes text in backquotes for the name of an option's value.
func TestUsageTexts(t *testing.T) {
	app := newApp(newUI(os.Stdout, os.Stderr))
	for _, c := range append(app.Commands, &cli.Command{Flags: app.Flags}) {
		for _, f := range c.Flags {
			if text := f.String(); strings.Contains(text, "`") || !strings.Contains(text, variable(f.Names()[0])) && f.Names()[0] != "help" {
				t.Errorf("%s: %s", c.Name, text)
			}
			if usage := f.(cli.DocGenerationFlag).GetUsage(); strings.Contains(usage, "`") {
				t.Errorf("%s --%s: a backquote in %q", c.Name, f.Names()[0], usage)
			}
		}
	}
}

func TestParseSizeAndDuration(t *testing.T) {
	for text, want := range map[string]int64{"1kB": 1 << 10, "5GiB": 5 << 30, "5GB": 5 << 30, "512M": 512 << 20, " 2 TB ": 2 << 40, "5": -1, "GB": -1, "-1GB": -1, "1.5GB": -1, "9999999TB": -1, "1PB": -1} {
		got, ok := parseSize(text)
		if !ok {
			got = -1
		}
		if got != want {
			t.Errorf("parseSize(%q): got %d, want %d", text, got, want)
		}
	}
	for text, want := range map[string]time.Duration{"60": time.Minute, "1.5": 1500 * time.Millisecond, "90s": 90 * time.Second, "1m30s": 90 * time.Second, "5 m": -1, "": -1, "soon": -1} {
		got, ok := parseDuration(text)
		if !ok {
			got = -1
		}
		if got != want {
			t.Errorf("parseDuration(%q): got %s, want %s", text, got, want)
		}
	}
}

// From two days on hours tell nobody anything.
func TestSecondsText(t *testing.T) {
	for seconds, want := range map[float64]string{
		0.25: "0.2 s", 12: "12 s", 61: "1m1s", 9 * 3600: "9h0m0s", 48*3600 - 1: "47h59m59s", 48 * 3600: "2 days", 60 * 3600: "3 days",
		16354*3600 + 11*60 + 43: "681 days", 1e18: "11,574,074,074,074 days",
	} {
		if got := secondsText(seconds); got != want {
			t.Errorf("%g seconds: %q, want %q", seconds, got, want)
		}
	}
}
