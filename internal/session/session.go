// Package session opens connections to PostgreSQL on which every setting that
// changes what a value looks like, or that could end a long run early, is pinned.
//
// The settings travel as startup parameters, which beat those of ALTER ROLE and
// ALTER DATABASE and the options of a DSN
// (https://www.postgresql.org/docs/current/libpq-connect.html). Those that only
// newer majors know are set right after connecting.
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

// pinned makes both ends write and read values the same way; the text of a value
// that leaves the source is the text that the target's input function gets.
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

// later are the settings that came with a major version after 10.
var later = []struct {
	major       int
	name, value string
}{
	{14, "idle_session_timeout", "0"},
	{17, "transaction_timeout", "0"},
}

// Config says where a session goes and what for.
type Config struct {
	// DSN is a URI or keyword/value string; see Parse.
	DSN string
	// Application becomes application_name, after "walferry ". Empty: only "walferry".
	Application string
	// Settings are pinned besides, or instead of, the usual ones.
	Settings map[string]string
}

// Parse reads a DSN as libpq does, environment, passfile and service file
// included, and pins the settings of this package. No error of it holds the password.
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
	// A statement cache on the server outlives a change of a table's columns
	// ("cached plan must not change result type"), and a pooler's server.
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

// OpenConfig connects with what Parse returned.
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

// OpenReplication connects to the walsender of the DSN's database: only the
// simple query protocol and the replication commands work there.
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

// Major is the server's major version as it announced it, 10 or above; 0 when it
// announced nothing that reads like one.
func Major(conn *pgconn.PgConn) int {
	version := conn.ParameterStatus("server_version")
	end := 0
	for end < len(version) && version[end] >= '0' && version[end] <= '9' {
		end++
	}
	major, _ := strconv.Atoi(version[:end])
	return major
}
