// Package pooler drives PgBouncer, and PgDog, by its admin console and its file: clients are held while a
// database moves, led to another server, and let go, and see no error.
//
// What binds it: only RESUME ends a PAUSE, not the end of the connection that has asked for it; no command changes
// where a database is, only the file and RELOAD; version 1.18 does not say that a RELOAD has failed.
// So what is is read from SHOW DATABASES after each of them.
package pooler

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walferry/walferry/internal/session"
)

// Console is the admin console of an instance. It is connected to when it is first asked, and again
// after a loss. Its methods are for one goroutine at a time.
type Console struct {
	URL  string
	conn *pgconn.PgConn
	dog  bool // it is PgDog, as it has said when it was connected to
}

// connectPatience is how long connecting to a console may take.
const connectPatience = 5 * time.Second

// Address names the instance, without its password.
func (c *Console) Address() string {
	cfg, err := session.Parse(c.URL)
	if err != nil {
		return "an address that cannot be read"
	}
	cfg.Database = consoleOf(cfg.Database)
	return session.Address(cfg)
}

// database is the one that the console is.
const database = "pgbouncer"

// consoleOf returns the database of the console, by that of its URL.
func consoleOf(given string) string {
	if given == adminDatabase {
		return adminDatabase
	}
	return database
}

func (c *Console) connect(ctx context.Context) error {
	if c.conn != nil && !c.conn.IsClosed() {
		return nil
	}
	cfg, err := session.Parse(c.URL)
	if err != nil {
		return err
	}
	cfg.Database = consoleOf(cfg.Database)
	// It refuses settings that it does not know.
	cfg.RuntimeParams = map[string]string{"application_name": "walferry"}
	cfg.ConnectTimeout = connectPatience
	if c.conn, err = pgconn.ConnectConfig(ctx, &cfg.Config); err != nil {
		c.conn = nil
		var wrapped *pgconn.ConnectError // which shows user and host, no password
		if errors.As(err, &wrapped) {
			err = errors.Unwrap(wrapped)
		}
		return fmt.Errorf("connect to PgBouncer at %s: %w", session.Address(cfg), err)
	}
	if cfg.Database == adminDatabase { // not every PgBouncer would have to be asked
		if _, err = c.version(ctx); err != nil {
			c.Close()
		}
	}
	return err
}

// Close closes the connection. What is paused stays so.
func (c *Console) Close() {
	if c.conn != nil {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		c.conn.Close(ctx) //nolint:errcheck // nothing is in progress on it
		c.conn = nil
	}
}

// row is a row of what the console shows; a null is empty.
type row map[string]string

// run runs a command. If ctx ends first nobody knows what has become of it.
func (c *Console) run(ctx context.Context, command string) (rows []row, err error) {
	if err := c.connect(ctx); err != nil {
		return nil, err
	}
	results, err := c.conn.Exec(ctx, command).ReadAll() // it knows only the simple protocol
	if err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, fmt.Errorf("PgBouncer at %s: %s: %w", c.Address(), command, err)
	}
	for _, r := range results {
		for _, values := range r.Rows {
			one := row{}
			for i, f := range r.FieldDescriptions {
				one[f.Name] = string(values[i])
			}
			rows = append(rows, one)
		}
	}
	return rows, nil
}

var versionRule = regexp.MustCompile(`PgBouncer (\d+)\.(\d+)`)

// version returns 1.18 as 118, and 0 for PgDog.
func (c *Console) version(ctx context.Context) (int, error) {
	rows, err := c.run(ctx, "show version")
	if err != nil {
		return 0, err
	}
	for _, r := range rows {
		for _, text := range r {
			if strings.HasPrefix(text, "PgDog ") {
				c.dog = true
				return 0, nil
			}
			if m := versionRule.FindStringSubmatch(text); m != nil {
				major, _ := strconv.Atoi(m[1])
				minor, _ := strconv.Atoi(m[2])
				return 100*major + minor, nil
			}
		}
	}
	return 0, fmt.Errorf("PgBouncer at %s does not say its version: is it another pooler?", c.Address())
}

// Place is where a database of a pooler is: empty fields are PgBouncer's defaults.
type Place struct {
	Host   string `json:"host,omitempty"`
	Port   int    `json:"port,omitempty"`
	DBName string `json:"dbname,omitempty"`
}

func (p Place) String() string {
	host := p.Host
	if host == "" {
		host = "(unix socket)"
	}
	return fmt.Sprintf("%s:%d/%s", host, p.Port, p.DBName)
}

// entry is a database as SHOW DATABASES has it.
type entry struct {
	Place
	mode   string // empty: that of the whole instance
	paused bool
	row    row
}

// entry returns a database; nil: there is none of that name.
func (c *Console) entry(ctx context.Context, name string) (*entry, error) {
	if c.dog {
		return c.dogEntry(ctx, name)
	}
	rows, err := c.run(ctx, "show databases")
	if err != nil {
		return nil, err
	}
	for _, r := range rows {
		if r["name"] == name {
			port, _ := strconv.Atoi(r["port"])
			return &entry{Place: Place{r["host"], port, r["database"]}, mode: r["pool_mode"], paused: r["paused"] == "1", row: r}, nil
		}
	}
	return nil, nil
}

// settings returns what SHOW CONFIG has.
func (c *Console) settings(ctx context.Context) (map[string]string, error) {
	if c.dog {
		return nil, nil
	}
	rows, err := c.run(ctx, "show config")
	if err != nil {
		return nil, err
	}
	settings := map[string]string{}
	for _, r := range rows {
		settings[r["key"]] = r["value"]
	}
	return settings, nil
}

// set sets a setting. PgDog has none of those that are set.
func (c *Console) set(ctx context.Context, name, value string) error {
	if c.dog {
		return nil
	}
	_, err := c.run(ctx, fmt.Sprintf("set %s = '%s'", name, strings.ReplaceAll(value, "'", "''")))
	return err
}

// logins returns how many connections of a database to its server log in at the moment.
func (c *Console) logins(ctx context.Context, name string) (n int, err error) {
	rows, err := c.run(ctx, "show pools")
	for _, r := range rows {
		if r["database"] == name {
			login, _ := strconv.Atoi(r["sv_login"])
			n += login
		}
	}
	return n, err
}

var plainName = regexp.MustCompile(`^[a-z0-9_]+$`)

// identifier writes a name as the console reads it.
func identifier(name string) string {
	if plainName.MatchString(name) {
		return name
	}
	return `"` + strings.ReplaceAll(name, `"`, `""`) + `"`
}
