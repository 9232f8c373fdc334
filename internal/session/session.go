// Package session opens connections to PostgreSQL on which every setting that affects how values
// are formatted, or that could end a long run early, is pinned.
//
// The settings are sent as startup parameters, which override those of ALTER ROLE and ALTER
// DATABASE and the options of a DSN (https://www.postgresql.org/docs/current/libpq-connect.html).
// Those that only newer versions know are set right after connecting.
package session

import (
	"context"
	"fmt"
	"maps"
	"net"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// pinned makes both ends write and read values the same way; the text of a value that the source
// sends is the text that the target's input function gets.
var pinned = map[string]string{
	"client_encoding":                     "UTF8",
	"DateStyle":                           "ISO, MDY",
	"IntervalStyle":                       "postgres",
	"extra_float_digits":                  "3",
	"TimeZone":                            "UTC",
	"bytea_output":                        "hex",
	"lc_monetary":                         "C",
	"search_path":                         "",
	"standard_conforming_strings":         "on",
	"quote_all_identifiers":               "off",
	"row_security":                        "off",
	"synchronize_seqscans":                "off",
	"array_nulls":                         "on",
	"xmloption":                           "content",
	"check_function_bodies":               "off",
	"default_transaction_isolation":       "read committed",
	"default_transaction_read_only":       "off",
	"default_transaction_deferrable":      "off",
	"synchronous_commit":                  "on",
	"statement_timeout":                   "0",
	"lock_timeout":                        "0",
	"idle_in_transaction_session_timeout": "0",
}

// later are the settings introduced by a major version after 10.
var later = []struct {
	major       int
	name, value string
}{
	{14, "idle_session_timeout", "0"},
	{17, "transaction_timeout", "0"},
}

// Config configures a session.
type Config struct {
	// DSN is a URI or keyword/value string; see Parse.
	DSN string
	// Application becomes application_name, after "walferry ". Empty: only "walferry".
	Application string
	// Settings are pinned in addition to, or instead of, the usual ones.
	Settings map[string]string
}

// Parse parses a DSN as libpq does, with environment, passfile and service file, and pins the
// settings of this package. Its errors never contain the password.
func (c Config) Parse() (*pgx.ConnConfig, error) {
	cfg, err := Parse(c.DSN)
	if err != nil {
		return nil, err
	}
	maps.Copy(cfg.RuntimeParams, pinned)
	maps.Copy(cfg.RuntimeParams, c.Settings)
	delete(cfg.RuntimeParams, "replication")
	cfg.RuntimeParams["application_name"] = "walferry"
	if c.Application != "" {
		cfg.RuntimeParams["application_name"] = "walferry " + c.Application
	}
	if cfg.ConnectTimeout == 0 {
		cfg.ConnectTimeout = 30 * time.Second
	}
	cfg.DialFunc = (&net.Dialer{KeepAliveConfig: net.KeepAliveConfig{
		Enable: true, Idle: 15 * time.Second, Interval: 5 * time.Second, Count: 6,
	}}).DialContext
	// Cached statements on the server outlive a change of a table's columns ("cached plan must not
	// change result type"), and the server that a pooler chose.
	cfg.DefaultQueryExecMode = pgx.QueryExecModeExec
	return cfg, nil
}

// Open connects for ordinary SQL.
func Open(ctx context.Context, c Config) (*pgx.Conn, error) {
	cfg, err := c.Parse()
	if err != nil {
		return nil, err
	}
	return OpenConfig(ctx, cfg)
}

// OpenConfig connects with the result of Parse.
func OpenConfig(ctx context.Context, cfg *pgx.ConnConfig) (*pgx.Conn, error) {
	conn, err := pgx.ConnectConfig(ctx, cfg)
	if err != nil {
		return nil, explain(cfg, err)
	}
	if err := pinLater(ctx, conn.PgConn()); err != nil {
		conn.Close(context.WithoutCancel(ctx))
		return nil, err
	}
	return conn, nil
}

// OpenReplication connects to a walsender for the DSN's database: it knows only the simple query
// protocol and the replication commands.
func OpenReplication(ctx context.Context, c Config) (*pgconn.PgConn, error) {
	cfg, err := c.Parse()
	if err != nil {
		return nil, err
	}
	cfg.RuntimeParams["replication"] = "database"
	conn, err := pgconn.ConnectConfig(ctx, &cfg.Config)
	if err != nil {
		return nil, explain(cfg, err)
	}
	if err := pinLater(ctx, conn); err != nil {
		conn.Close(context.WithoutCancel(ctx))
		return nil, err
	}
	return conn, nil
}

func pinLater(ctx context.Context, conn *pgconn.PgConn) error {
	var sql string
	for _, s := range later {
		if Major(conn) >= s.major {
			sql += "set " + s.name + " = " + s.value + ";"
		}
	}
	if sql == "" {
		return nil
	}
	if _, err := conn.Exec(ctx, sql).ReadAll(); err != nil {
		return fmt.Errorf("pin session settings: %w", err)
	}
	return nil
}

// Major returns the server's major version as announced, 10 or above; 0 if it announced none that
// can be parsed.
func Major(conn *pgconn.PgConn) int {
	version := conn.ParameterStatus("server_version")
	end := 0
	for end < len(version) && version[end] >= '0' && version[end] <= '9' {
		end++
	}
	major, _ := strconv.Atoi(version[:end])
	return major
}
