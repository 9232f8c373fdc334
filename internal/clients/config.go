// Package clients steers those who use a database while it moves: it holds them at their poolers,
// leads them to the other server and lets them continue, and calls hooks for what it does not know
// itself. What it holds is recorded, so that whoever comes after a process that has died can let go
// of it; a guard does so at once.
package clients

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/walferry/walferry/internal/fail"
	"github.com/walferry/walferry/internal/hook"
	"github.com/walferry/walferry/internal/pooler"
	"github.com/walferry/walferry/internal/session"
)

// Config says who is steered, and how. The zero value: nobody.
type Config struct {
	Hooks       []string // see hook.Caller
	HookSecret  []byte
	HookTimeout time.Duration // Zero: 10 s.

	PgBouncer []string // the admin consoles of all instances
	// Databases are those of PgBouncer: its name for one, and after a = where that is on the new server, if that is not where
	// walferry itself finds it: a name, or settings such as host=10.0.0.5 port=5432.
	Databases []string
	Files     []string // that have them; empty: a hook leads clients elsewhere
	// HoldTimeout is how long clients may be kept waiting for transactions that are open. Zero: 5 s.
	HoldTimeout time.Duration

	// Guard is the command line of a process that takes over what is held if this one dies. Empty:
	// there is none.
	Guard []string `json:"-"`
}

// Any reports whether anybody is steered.
func (c Config) Any() bool { return len(c.Hooks)+len(c.PgBouncer) > 0 }

// Secrets returns what must not be shown of c.
func (c Config) Secrets() (secrets []string) {
	for _, h := range c.Hooks {
		if strings.Contains(h, "://") {
			secrets = append(secrets, h)
			secrets = append(secrets, session.Secrets(h)...)
		}
	}
	for _, url := range c.PgBouncer {
		secrets = append(secrets, session.Secrets(url)...)
	}
	if len(c.HookSecret) > 0 {
		secrets = append(secrets, string(c.HookSecret))
	}
	return secrets
}

// TrimSecret returns the secret that a file holds, without the end of its line.
func TrimSecret(text []byte) []byte { return bytes.TrimRight(text, "\r\n") }

// Validate returns an error of kind fail.Usage if c cannot be meant.
func (c Config) Validate() error {
	usage := func(problem, advice string) error {
		return &fail.Error{Kind: fail.Usage, Problem: problem, Advice: advice}
	}
	if err := hook.Validate(c.Hooks); err != nil {
		return err
	}
	if len(c.PgBouncer) == 0 {
		if len(c.Databases)+len(c.Files) > 0 {
			return usage("--pgbouncer-database and --pgbouncer-ini go with --pgbouncer", "give the address of its admin console: postgres://user@host:6432/pgbouncer")
		}
		return nil
	}
	for _, url := range c.PgBouncer {
		if _, err := session.Parse(url); err != nil {
			return usage("--pgbouncer: "+err.Error(), fail.Hint(err))
		}
	}
	if err := c.incomplete(); err != nil {
		return err
	}
	var names []string
	for _, d := range c.Databases {
		name, _, err := parseDatabase(d)
		if err != nil {
			return usage("--pgbouncer-database: "+err.Error(), "give a name, name=database, or name='host=10.0.0.5 port=5432 dbname=app'")
		}
		if slices.Contains(names, name) {
			return usage("--pgbouncer-database names "+name+" twice", "give it once")
		}
		names = append(names, name)
	}
	return nil
}

// incomplete returns an error of kind fail.Usage if there are poolers, and not what has to be given with them.
func (c Config) incomplete() error {
	switch {
	case len(c.PgBouncer) == 0:
		return nil
	case len(c.Databases) == 0:
		return &fail.Error{Kind: fail.Usage, Problem: "--pgbouncer needs --pgbouncer-database", Advice: "give the name that PgBouncer's section [databases] has for the database that moves, or, with no pooler, leave WALFERRY_PGBOUNCER out"}
	case len(c.Files) == 0 && len(c.Hooks) == 0:
		return &fail.Error{Kind: fail.Usage, Problem: "--pgbouncer needs --pgbouncer-ini, or a --hook", Advice: "give the file that has its section [databases], or a hook that changes it at the event redirect"}
	}
	return nil
}

// parseDatabase reads a value of Databases. What is not given of the place is empty.
func parseDatabase(text string) (name string, to pooler.Place, err error) {
	name, rest, given := strings.Cut(text, "=")
	if name == "" || given && rest == "" {
		return "", to, fmt.Errorf("%q has no name, or nothing after its =", text)
	}
	if !strings.Contains(rest, "=") {
		to.DBName = rest
		return name, to, nil
	}
	for _, pair := range strings.Fields(rest) {
		key, value, _ := strings.Cut(pair, "=")
		switch key {
		case "host":
			to.Host = value
		case "port":
			if to.Port, err = strconv.Atoi(value); err != nil || to.Port < 1 || to.Port > 65535 {
				return "", to, fmt.Errorf("port %q is not a number from 1 to 65535", value)
			}
		case "dbname":
			to.DBName = value
		default: // which may hold a password
			return "", to, fmt.Errorf("of %s only host, port and dbname can be given", name)
		}
	}
	return name, to, nil
}
