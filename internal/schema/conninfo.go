package schema

import (
	"cmp"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/internal/fail"
	"github.com/walferry/walferry/internal/session"
)

// passed are the keywords of a connection string that pg_dump gets as they are, and the first major
// version of libpq that knows them.
var passed = map[string]int{
	"channel_binding": 13, "connect_timeout": 10, "hostaddr": 10, "gssencmode": 12, "keepalives": 10,
	"keepalives_idle": 10, "keepalives_interval": 10, "keepalives_count": 10, "tcp_user_timeout": 12,
	"krbsrvname": 10, "load_balance_hosts": 16, "options": 10, "require_auth": 16, "service": 10,
	"ssl_max_protocol_version": 13, "ssl_min_protocol_version": 13, "sslcert": 10, "sslcertmode": 16,
	"sslkey": 10, "sslmode": 10, "sslnegotiation": 17, "sslrootcert": 10, "sslsni": 14, "target_session_attrs": 10,
}

// conninfo is a connection as libpq programs are given it. The password is in the environment of
// the one process that needs it, which only this user and root can read and which ends with the
// process: a file would be left behind if walferry is killed (decision 022). On the command line
// everybody would see it.
type conninfo struct {
	text    string   // keyword = value pairs without a password
	env     []string // besides what childEnv gives
	secrets []string // which must not be shown
}

// newConninfo reads a DSN. major is that of the libpq that will use it.
func newConninfo(dsn string, major int) (*conninfo, error) {
	cfg, err := session.Parse(dsn)
	if err != nil {
		return nil, err
	}
	settings, err := session.Settings(dsn)
	if err != nil {
		return nil, err
	}
	out := map[string]string{"user": cfg.User, "dbname": cfg.Database, "application_name": "walferry pg_dump"}
	out["host"], out["port"] = hosts(cfg)
	if _, given := settings["host"]; !given && settings["hostaddr"] != "" {
		delete(out, "host") // pgx needs one; libpq would look for that many
	}
	for key, value := range settings {
		since, ok := passed[key]
		switch {
		case !ok || value == "":
		case major >= since:
			out[key] = value
		case key == "require_auth" || (key == "channel_binding" && value == "require"):
			return nil, &fail.Error{
				Kind:    fail.Run,
				Problem: fmt.Sprintf("connect pg_dump: version %d does not know %s", major, key),
				Advice:  fmt.Sprintf("install the PostgreSQL client programs of version %d or newer", since),
			}
		}
	}
	// The archive must not have texts that a target of version 19 cannot read. What is set here
	// overrides what the database or the role sets.
	out["options"] = strings.TrimSpace(cmp.Or(out["options"], os.Getenv("PGOPTIONS")) + " -c standard_conforming_strings=on")
	trust(out, major)
	// The passfile, if there is one, has been read: what it says of this server is in cfg.
	c := &conninfo{text: pairs(out), env: []string{"PGPASSFILE=" + os.DevNull}, secrets: session.Secrets(dsn)}
	if cfg.Password != "" {
		c.secrets = append(c.secrets, cfg.Password)
		c.env = append(c.env, "PGPASSWORD="+cfg.Password)
	}
	if file := settings["servicefile"]; file != "" {
		c.env = append(c.env, "PGSERVICEFILE="+file)
	}
	return c, nil
}

// hosts lists the servers of a configuration as libpq's host and port do.
func hosts(cfg *pgx.ConnConfig) (host, port string) {
	names, ports := []string{cfg.Host}, []string{strconv.Itoa(int(cfg.Port))}
	for _, f := range cfg.Fallbacks {
		number := strconv.Itoa(int(f.Port))
		known := false
		for i := range names {
			known = known || names[i] == f.Host && ports[i] == number
		}
		if !known {
			names, ports = append(names, f.Host), append(ports, number)
		}
	}
	return strings.Join(names, ","), strings.Join(ports, ",")
}

// caBundles are where systems keep the certificates of public authorities.
var caBundles = []string{
	"/etc/ssl/certs/ca-certificates.crt",
	"/etc/pki/tls/certs/ca-bundle.crt",
	"/etc/ssl/cert.pem",
	"/opt/homebrew/etc/openssl@3/cert.pem",
}

// trust makes libpq trust the authorities that pgx trusts when sslrootcert is missing: those of the
// system, where libpq would want ~/.postgresql/root.crt.
func trust(settings map[string]string, major int) {
	mode := settings["sslmode"]
	if mode == "" {
		mode = os.Getenv("PGSSLMODE")
	}
	root := settings["sslrootcert"]
	if root == "" {
		root = os.Getenv("PGSSLROOTCERT")
	}
	if root == "" && strings.HasPrefix(mode, "verify-") {
		if home, err := os.UserHomeDir(); err == nil {
			if _, err := os.Stat(filepath.Join(home, ".postgresql", "root.crt")); err == nil {
				return
			}
		}
		root = "system"
	}
	if root != "system" {
		return
	}
	if major >= 16 && mode != "verify-ca" { // libpq refuses weaker modes with system
		settings["sslrootcert"] = root
		return
	}
	for _, file := range caBundles {
		if _, err := os.Stat(file); err == nil {
			settings["sslrootcert"] = file
			return
		}
	}
}

// pairs writes settings as libpq reads them.
func pairs(settings map[string]string) string {
	escape := strings.NewReplacer(`\`, `\\`, `'`, `\'`)
	var text []string
	for _, key := range slices.Sorted(maps.Keys(settings)) {
		text = append(text, key+"='"+escape.Replace(settings[key])+"'")
	}
	return strings.Join(text, " ")
}

// childEnv is our environment without what holds secrets, or would change what a client program
// does. The other variables of libpq stay: they are part of the DSN.
func childEnv() []string {
	drop := []string{"PGPASSWORD", "PGPASSFILE", "PGSSLPASSWORD", "PGAPPNAME", "PGCLIENTENCODING", "PGDATABASE", "PGHOST", "PGHOSTADDR", "PGPORT", "PGUSER"}
	env := []string{"LC_ALL=C"}
	for _, v := range os.Environ() {
		name, value, _ := strings.Cut(v, "=")
		// Our own variables (WALFERRY_SOURCE ...) hold connection strings.
		if slices.Contains(drop, name) || strings.HasPrefix(name, "WALFERRY_") || strings.HasPrefix(name, "LC_") || strings.Contains(value, "://") {
			continue
		}
		env = append(env, v)
	}
	return env
}
