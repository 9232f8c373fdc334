package session

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/internal/fail"
)

// unreadable reports what is wrong with a connection string, as in "port is not a number from 1 to
// 65535". It never contains the string, nor a value of it: what is in the place of a host or port may
// be a part of the password.
func unreadable(problem, advice string) *fail.Error {
	return &fail.Error{Kind: fail.Usage, Problem: "read connection string: " + problem, Advice: advice}
}

// Parse reads a connection string, a URI or keyword=value pairs, as libpq does, with its
// environment, passfile and service file
// (https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-CONNSTRING), and pins nothing.
// It differs from libpq in these points:
//
//   - A URI that libpq cannot read, because the user or the password was not
//     percent-encoded, is read as it must have been meant; see parseURI.
//   - White space round a URI is ignored: secret stores like to end with a newline.
//   - replication and what concerns the client library only (keepalives,
//     gssencmode=prefer, sslcompression …) is accepted and ignored.
//
// Errors are [fail.Error]s of kind Usage.
func Parse(dsn string) (*pgx.ConnConfig, error) {
	settings, err := read(dsn)
	if err != nil {
		return nil, err
	}
	return configure(settings)
}

// read turns a connection string into libpq's keywords and their values.
func read(dsn string) (map[string]string, error) {
	if strings.ContainsRune(dsn, 0) {
		return nil, unreadable("it contains a NUL byte", "")
	}
	trimmed := strings.TrimSpace(dsn)
	for _, scheme := range []string{"postgres://", "postgresql://"} {
		if rest, ok := strings.CutPrefix(trimmed, scheme); ok {
			return parseURI(rest)
		}
	}
	const form = "write postgres://user:password@host:port/database?sslmode=verify-full or host=… port=… dbname=… user=… password=…"
	switch scheme, rest, ok := strings.Cut(trimmed, ":"); {
	case ok && strings.EqualFold(scheme, "jdbc"):
		return nil, unreadable("it is a JDBC address", form)
	case ok && (strings.EqualFold(scheme, "postgres") || strings.EqualFold(scheme, "postgresql")):
		return nil, unreadable("a URI starts with postgres:// or postgresql://, in lower case and with two slashes", form)
	case ok && strings.HasPrefix(rest, "//") && !strings.Contains(scheme, "="):
		return nil, unreadable("it is a URI, but not one of PostgreSQL", form)
	}
	if trimmed != "" && !strings.Contains(trimmed, "=") {
		return nil, unreadable("it is neither a URI nor keyword=value pairs", form)
	}
	return parseKeywords(dsn)
}

// configure has pgx merge the settings with the environment, the service file and the defaults. The
// password is not passed to pgx, whose errors quote the connection string.
func configure(settings map[string]string) (*pgx.ConnConfig, error) {
	var text strings.Builder
	for _, k := range keywords {
		value, ok := settings[k.name]
		if !ok || k.use == ignored || (k.name == "password" && value == "") {
			continue
		}
		if k.name == "password" {
			value = "given"
		}
		if k.name == "host" && value == "" {
			value = settings["hostaddr"]
		}
		fmt.Fprintf(&text, "%s=%s ", k.name, quote(value))
	}
	if _, ok := settings["host"]; !ok && settings["hostaddr"] != "" {
		fmt.Fprintf(&text, "host=%s ", quote(settings["hostaddr"]))
	}
	cfg, err := pgx.ParseConfig(text.String())
	if err != nil {
		return nil, configureError(err)
	}
	if settings["password"] != "" {
		cfg.Password = settings["password"]
	}
	// A service file may contain any of libpq's keywords; pgx would send those that it does not
	// know to the server, which would reject them.
	for _, k := range keywords {
		if k.use != sent {
			delete(cfg.RuntimeParams, k.name)
		}
	}
	if settings["hostaddr"] != "" {
		cfg.LookupFunc = lookup(settings)
	}
	limitTLS(cfg, settings)
	return cfg, nil
}

// configureError keeps what an error of pgx says is wrong, and leaves out the connection string.
func configureError(err error) error {
	reason := errors.Unwrap(err)
	if reason == nil {
		return unreadable(
			"its parts do not fit together",
			"several hosts need one port, or as many ports as hosts; environment variables (PG…) and the service file count too",
		)
	}
	problem := Redact(reason.Error())
	e := unreadable(problem, "")
	switch {
	case strings.Contains(problem, "CA "):
		e.Advice = "sslrootcert names a file of PEM certificates; for RDS and Aurora it is https://truststore.pki.rds.amazonaws.com/global/global-bundle.pem"
	case strings.Contains(problem, "service"):
		e.Advice = "services are sections of the file in servicefile or PGSERVICEFILE, else ~/.pg_service.conf"
	case strings.Contains(problem, "key"), strings.Contains(problem, "cert"), strings.Contains(problem, "sslpassword"):
		e.Advice = "sslcert and sslkey name PEM files and are given together; sslpassword is the passphrase of the key"
	}
	return e
}

// lookup resolves to hostaddr, whose elements correspond to those of host.
func lookup(settings map[string]string) func(context.Context, string) ([]string, error) {
	addresses := map[string][]string{}
	hosts := strings.Split(settings["host"], ",")
	for i, address := range strings.Split(settings["hostaddr"], ",") {
		host := address
		if i < len(hosts) && hosts[i] != "" {
			host = hosts[i]
		}
		addresses[host] = append(addresses[host], address)
	}
	return func(ctx context.Context, host string) ([]string, error) {
		if found := addresses[host]; len(found) > 0 {
			return found, nil
		}
		return net.DefaultResolver.LookupHost(ctx, host)
	}
}

var tlsVersions = map[string]uint16{
	"TLSv1": tls.VersionTLS10, "TLSv1.1": tls.VersionTLS11, "TLSv1.2": tls.VersionTLS12, "TLSv1.3": tls.VersionTLS13,
}

// limitTLS applies ssl_min_protocol_version and ssl_max_protocol_version.
func limitTLS(cfg *pgx.ConnConfig, settings map[string]string) {
	configs := []*tls.Config{cfg.TLSConfig}
	for _, f := range cfg.Fallbacks {
		configs = append(configs, f.TLSConfig)
	}
	for _, c := range configs {
		if c == nil {
			continue
		}
		if v := settings["ssl_min_protocol_version"]; v != "" {
			c.MinVersion = tlsVersions[v]
		}
		if v := settings["ssl_max_protocol_version"]; v != "" {
			c.MaxVersion = tlsVersions[v]
		}
	}
}

// Address returns host:port/database of a configuration, for messages.
func Address(cfg *pgx.ConnConfig) string {
	return net.JoinHostPort(cfg.Host, fmt.Sprint(cfg.Port)) + "/" + cfg.Database
}
