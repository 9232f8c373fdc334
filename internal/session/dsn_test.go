package session

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/walferry/walferry/internal/fail"
	"github.com/walferry/walferry/internal/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// noEnvironment isolates a test from the machine's settings.
func noEnvironment(t testing.TB) {
	t.Helper()
	for _, name := range []string{
		"PGHOST", "PGPORT", "PGDATABASE", "PGUSER", "PGPASSWORD", "PGSERVICE", "PGSERVICEFILE",
		"PGSSLMODE", "PGSSLROOTCERT", "PGOPTIONS", "PGTARGETSESSIONATTRS",
	} {
		t.Setenv(name, "")
	}
	t.Setenv("PGPASSFILE", filepath.Join(t.TempDir(), "none"))
}

func TestParse(t *testing.T) {
	noEnvironment(t)
	for _, c := range []struct{ dsn, host, port, user, password, database string }{
		{`postgres://u:p@h:6000/d`, "h", "6000", "u", "p", "d"},
		{`postgresql://u:p@h/d?sslmode=disable`, "h", "5432", "u", "p", "d"},
		{" postgres://u:p@h/d\n", "h", "5432", "u", "p", "d"},
		{`postgres://u:p%40ss%2Fw%23r%25@h/d%20e`, "h", "5432", "u", "p@ss/w#r%", "d e"},
		{`postgres://u@[::1]:6000/d`, "::1", "6000", "u", "", "d"},
		{`postgres://u@[fe80::1%eth0]/d`, "fe80::1%eth0", "5432", "u", "", "d"},
		{`postgres://u@%2Fvar%2Frun/d`, "/var/run", "5432", "u", "", "d"},
		{`postgres:///d?host=/var/run&port=6000&user=me@there`, "/var/run", "6000", "me@there", "", "d"},
		{`postgres://h1:1,h2:2/d?user=u&target_session_attrs=read-write`, "h1", "1", "u", "", "d"},
		{`postgres://h/d?user=me@there`, "h", "5432", "me@there", "", "d"},
		// Not percent-encoded.
		{`postgres://u:p@ss/w#r?d%zz:@host:5432/db`, "host", "5432", "u", "p@ss/w#r?d%zz:", "db"},
		{`postgres://u:a/b@h/d`, "h", "5432", "u", "a/b", "d"},
		{`postgres://u:12/b@h/d`, "h", "5432", "u", "12/b", "d"},
		{`postgres://u:a@b:5432/c@h/d?sslmode=disable`, "h", "5432", "u", "a@b:5432/c", "d"},
		{`postgres://u:p?x=1@real/db`, "real", "5432", "u", "p?x=1", "db"},
		{`postgres://u:p@h?sslmode=disable@real/db`, "real", "5432", "u", "p@h?sslmode=disable", "db"},
		{`postgres://u:100%@h/d?application_name=a@b`, "h", "5432", "u", "100%", "d"},
		{`postgres://me@there:p%40ss@h:5432/d`, "h", "5432", "me@there", "p@ss", "d"},
		{`postgres://u:p w'"\$ü@h/d`, "h", "5432", "u", `p w'"\$ü`, "d"},
		// Keyword form.
		{`host=h port=6000 user=u password=p dbname=d`, "h", "6000", "u", "p", "d"},
		{`host = h user= 'u' password='it\'s a \\ b' dbname=d `, "h", "5432", "u", `it's a \ b`, "d"},
		{`host=h user=u password=@:/?#%"$ü dbname=d`, "h", "5432", "u", `@:/?#%"$ü`, "d"},
		{`host=h user=u password=a\ b dbname=d replication=database keepalives=1 gssencmode=disable sslcompression=0`, "h", "5432", "u", "a b", "d"},
		{`hostaddr=127.0.0.1 user=u dbname=d`, "127.0.0.1", "5432", "u", "", "d"},
	} {
		cfg, err := Parse(c.dsn)
		if err != nil {
			t.Errorf("%s: %v", c.dsn, err)
			continue
		}
		got := []string{cfg.Host, fmt.Sprint(cfg.Port), cfg.User, cfg.Password, cfg.Database}
		if want := []string{c.host, c.port, c.user, c.password, c.database}; fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%s: got %q, want %q", c.dsn, got, want)
		}
		for name := range cfg.RuntimeParams {
			if name != "options" {
				t.Errorf("%s: %s would be sent to the server", c.dsn, name)
			}
		}
	}
}

// What libpq takes from its environment is taken, too.
func TestParse_Environment(t *testing.T) {
	noEnvironment(t)
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	t.Setenv("PGSERVICEFILE", write("services", "[shop]\nhost=h\nport=6000\ndbname=d\nkeepalives=1\nuser=service\n"))
	t.Setenv("PGPASSFILE", write("passes", "h:6000:d:service:from the file\n"))
	for _, dsn := range []string{"service=shop", "postgres://?service=shop"} {
		cfg, err := Parse(dsn)
		if err != nil {
			t.Fatal(err)
		}
		if cfg.Host != "h" || cfg.Port != 6000 || cfg.User != "service" || cfg.Password != "from the file" || len(cfg.RuntimeParams) != 0 {
			t.Errorf("%s: got %s %s %q %v", dsn, Address(cfg), cfg.User, cfg.Password, cfg.RuntimeParams)
		}
		if got := Secrets(dsn); fmt.Sprint(got) != "[from the file]" {
			t.Errorf("%s: secrets %q", dsn, got)
		}
	}
	t.Setenv("PGHOST", "elsewhere")
	t.Setenv("PGPASSWORD", "from the environment")
	cfg, err := Parse("")
	if err != nil || cfg.Host != "elsewhere" || cfg.Password != "from the environment" {
		t.Errorf("got %v, %v", cfg, err)
	}
}

func TestParse_HostAddr(t *testing.T) {
	noEnvironment(t)
	cfg, err := Parse("host=db.example.com hostaddr=10.0.0.7 sslmode=verify-full user=u")
	if err != nil {
		t.Fatal(err)
	}
	got, err := cfg.LookupFunc(t.Context(), "db.example.com")
	if err != nil || fmt.Sprint(got) != "[10.0.0.7]" || cfg.TLSConfig.ServerName != "db.example.com" {
		t.Errorf("got %v, %v, name %q", got, err, cfg.TLSConfig.ServerName)
	}
}

func TestParse_Errors(t *testing.T) {
	noEnvironment(t)
	for _, c := range []struct{ dsn, problem, hint string }{
		{"postgres:/host", "two slashes", "postgres://user"},
		{"mysql://u:canary@h/d", "not one of PostgreSQL", ""},
		{"jdbc:postgresql://h/d?password=canary", "JDBC", ""},
		{"canary", "neither", ""},
		{"postgres://u:canary@h:54x/d", "port", ""},
		{"postgres://u:canary@h:99999/d", "port", ""},
		{"postgres://u:canary", "port", "percent-encoded"},
		{"postgres://u:canary@h/d?sslmod=disable", `unknown keyword "sslmod"`, "did you mean sslmode?"},
		{"postgres://u:canary@h/d?sslmode=verify_full", "sslmode must be", "sslmode=verify-full?"},
		{"postgres://u:canary@%zz/d", "bad percent-encoding in the host", "%25"},
		{"postgres://u:canary@[::1/d", "IPv6", ""},
		{"postgres://u:canary@h/d?sslmode", "no value", ""},
		{"postgres://u:canary@h/d?connect_timeout=canary", "connect_timeout", ""},
		{"postgres://u:canary@h/d?sslcrl=canary", "sslcrl is not supported", ""},
		{"postgres://u:canary@h1:1,h2:2,h3/d?port=1,2", "do not fit", ""},
		{"host=h pasword=canary", `unknown keyword "pasword"`, "password?"},
		{"host=h password=x canary=y", "unknown keyword", "quoted"},
		{"host=h password=x canary", "no = after it", "quoted"},
		{"host=h password='canary", "has no end", `\'`},
		{"host=h password='can'ary'", "continues", `\'`},
		{"host=h password=canary port=canary", "port", ""},
		{"host=h password=canary service=none servicefile=/nowhere", "service file", "PGSERVICEFILE"},
		{"host=h password=canary sslmode=verify-full sslrootcert=/nowhere", "CA file", "global-bundle"},
		{"host=h password=canary sslcert=/nowhere", "cert", "together"},
		{"host=h\x00 password=canary", "NUL", ""},
	} {
		_, err := Parse(c.dsn)
		parse := fail.Find(err, fail.Usage)
		if parse == nil || !strings.HasPrefix(err.Error(), "read connection string: ") {
			t.Errorf("%q: got %v, want what is wrong with the connection string", c.dsn, err)
			continue
		}
		if !strings.Contains(err.Error(), c.problem) || !strings.Contains(parse.Hint(), c.hint) {
			t.Errorf("%q: got %q, hint %q", c.dsn, err, parse.Hint())
		}
		if strings.Contains(err.Error()+parse.Hint(), "canary") {
			t.Errorf("%q: %q shows the password", c.dsn, err)
		}
	}
}

// nasty contains every character that has a meaning to some layer between the command line and the
// server.
const nasty = "@:/?#% '\"\\`$ü&=+[]%41x"

func TestOpen_NastyPassword(t *testing.T) {
	noEnvironment(t)
	server, err := pgtest.Launch(t.Context(), pgtest.Options{Major: 15, Password: nasty})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	kv := fmt.Sprintf("host=127.0.0.1 port=%d user=postgres dbname=postgres sslmode=disable password=", server.Port)
	at := fmt.Sprintf("@127.0.0.1:%d/postgres?sslmode=disable", server.Port)
	dsns := map[string]string{
		"encoded URI": "postgres://postgres:" + url.QueryEscape(strings.ReplaceAll(nasty, " ", "\x01")) + at,
		"raw URI":     "postgres://postgres:" + nasty + at,
		"quoted":      kv + quote(nasty),
		"escaped":     kv + strings.NewReplacer(`\`, `\\`, `'`, `\'`, " ", `\ `).Replace(nasty),
		"parameter":   "postgres://postgres" + at + "&password=" + url.PathEscape(strings.ReplaceAll(nasty, "&", "\x02")),
	}
	dsns["encoded URI"] = strings.ReplaceAll(dsns["encoded URI"], "%01", "%20")
	dsns["parameter"] = strings.ReplaceAll(dsns["parameter"], "%02", "%26")
	for name, dsn := range dsns {
		conn, err := Open(t.Context(), Config{DSN: dsn})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		conn.Close(t.Context())
		for form, secret := range map[string]string{"raw": nasty, "encoded": url.QueryEscape(nasty), "DSN": dsn} {
			if got := Redact("x "+secret+" y", Secrets(dsn)...); strings.Contains(got, "%41x") || strings.Contains(got, "%2541x") {
				t.Errorf("%s: %s is shown: %s", name, form, got)
			}
		}
	}
	// The wrong one is not shown either.
	for _, dsn := range []string{"postgres://postgres:canary#1" + at, kv + "canary#1"} {
		_, err := Open(t.Context(), Config{DSN: dsn})
		var refused *ConnectError
		if !errors.As(err, &refused) || strings.Contains(err.Error()+refused.Hint(), "canary") {
			t.Fatalf("got %v, want a ConnectError without the password", err)
		}
		if !strings.Contains(err.Error(), fmt.Sprintf("127.0.0.1:%d/postgres", server.Port)) || !strings.Contains(refused.Hint(), "password is wrong") {
			t.Errorf("got %v, hint %q", err, refused.Hint())
		}
	}
	_, err = Open(t.Context(), Config{DSN: kv + "'newline\n'"})
	if fail.Hint(err) == "" || !strings.Contains(fail.Hint(err), "white space") {
		t.Errorf("got hint %q", fail.Hint(err))
	}
}

func TestOpen_Refused(t *testing.T) {
	noEnvironment(t)
	server := pgtest.Shared(t, 15)
	pgtest.Exec(t, server.URL("postgres"), `create role session_locked nologin; create role session_limited login connection limit 0;
		create role session_plain login`)
	pgtest.Exec(t, server.URL("postgres"), `create database session_closed`)
	pgtest.Exec(t, server.URL("postgres"), `revoke connect on database session_closed from public`)
	t.Cleanup(func() {
		// The test's context has ended by now.
		conn, err := Open(context.Background(), Config{DSN: server.URL("postgres")})
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close(context.Background())
		for _, sql := range []string{`drop database session_closed`, `drop role session_locked, session_limited, session_plain`} {
			if _, err := conn.Exec(context.Background(), sql); err != nil {
				t.Error(err)
			}
		}
	})
	at := fmt.Sprintf("127.0.0.1:%d", server.Port)
	silent := listen(t, func(c net.Conn) { c.Close() })
	for _, c := range []struct{ dsn, message, hint string }{
		{"postgres://postgres@" + at + "/nowhere", `database "nowhere" does not exist`, "pg_database"},
		{"postgres://nobody@" + at + "/postgres", `role "nobody" does not exist`, "user@server"},
		{"postgres://session_locked@" + at + "/postgres", "not permitted", `alter role "session_locked" login`},
		{"postgres://session_limited@" + at + "/postgres", "too many connections", "limit of role"},
		{"postgres://session_plain@" + at + "/session_closed", "permission denied", `grant connect on database "session_closed"`},
		{"postgres://postgres@" + at + "/postgres?sslmode=require", "refused TLS", "sslmode=disable"},
		{"postgres://postgres@127.0.0.1:1/postgres", "refused", "listen"},
		{"postgres:///postgres?host=/nowhere", "/nowhere", "socket"},
		{"postgres://postgres@host.invalid/postgres", "host.invalid", "resolve"},
		{"postgres://postgres@" + silent + "/postgres?sslmode=disable", silent, "not PostgreSQL"},
		{"postgres://postgres@" + at + "," + at + "/postgres?target_session_attrs=standby", "standby", "target_session_attrs"},
	} {
		_, err := Open(t.Context(), Config{DSN: c.dsn})
		if err == nil || !strings.Contains(err.Error(), c.message) || !strings.Contains(fail.Hint(err), c.hint) {
			t.Errorf("%s: got %v; hint %q", c.dsn, err, fail.Hint(err))
		}
	}
	_, err := OpenReplication(t.Context(), Config{DSN: "postgres://session_plain@" + at + "/postgres"})
	if err == nil || !strings.Contains(fail.Hint(err), "rds_replication") {
		t.Errorf("got %v; hint %q", err, fail.Hint(err))
	}
}

// One host of several, a requested role, an address for a name, a socket.
func TestOpen_Places(t *testing.T) {
	noEnvironment(t)
	server := pgtest.Shared(t, 15)
	port := fmt.Sprint(server.Port)
	for _, dsn := range []string{
		"postgres://postgres@127.0.0.1:1,127.0.0.1:" + port + "/postgres?target_session_attrs=read-write",
		"host=no-such-host.invalid hostaddr=127.0.0.1 port=" + port + " user=postgres dbname=postgres sslmode=disable",
		"postgres:///postgres?user=postgres&port=" + port + "&host=" + url.QueryEscape(server.SocketDir),
	} {
		conn, err := Open(t.Context(), Config{DSN: dsn})
		if err != nil {
			t.Errorf("%s: %v", dsn, err)
			continue
		}
		conn.Close(t.Context())
	}
}

// Options of a connection string, and settings of role and database, do not change what a session
// pins.
func TestOpen_OptionsOverruled(t *testing.T) {
	noEnvironment(t)
	dsn := pgtest.Shared(t, 15).Database(t)
	other := map[string]string{
		"client_encoding": "LATIN1", "DateStyle": "German", "IntervalStyle": "sql_standard", "extra_float_digits": "-3", "TimeZone": "Asia/Kathmandu",
		"bytea_output": "escape", "lc_monetary": "POSIX", "search_path": "nowhere", "standard_conforming_strings": "off", "quote_all_identifiers": "on",
		"row_security": "on", "synchronize_seqscans": "on", "array_nulls": "off", "xmloption": "document", "check_function_bodies": "on",
		"default_transaction_isolation": `repeatable\ read`, "default_transaction_read_only": "on", "default_transaction_deferrable": "on", "synchronous_commit": "off",
		"statement_timeout": "70000", "lock_timeout": "70000", "idle_in_transaction_session_timeout": "70000",
	}
	options := ""
	for name := range pinned {
		value, ok := other[name]
		if !ok {
			t.Fatalf("no other value of %s is tried", name)
		}
		options += " -c " + name + "=" + value
	}
	conn, err := Open(t.Context(), Config{DSN: dsn + "?options=" + url.PathEscape(strings.TrimSpace(options)) + "&replication=true&application_name=x"})
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range pinned {
		var got string
		if err := conn.QueryRow(t.Context(), "show "+name).Scan(&got); err != nil {
			t.Fatal(err)
		}
		if got != want {
			t.Errorf("%s is %s, want %s", name, got, want)
		}
	}
	conn.Close(t.Context())
}

// What answers may be anything, and may ask for the password: that is an error, quickly, and
// nothing secret is sent.
func TestOpen_HostilePeer(t *testing.T) {
	noEnvironment(t)
	clear := "R\x00\x00\x00\x08\x00\x00\x00\x03"
	md5 := "R\x00\x00\x00\x0c\x00\x00\x00\x05salt"
	ok := "R\x00\x00\x00\x08\x00\x00\x00\x00"
	refusal := func(text string) string {
		body := "SFATAL\x00C08P01\x00M" + text + "\x00\x00"
		return "E" + string(binary.BigEndian.AppendUint32(nil, uint32(len(body)+4))) + body
	}
	const scram = "&require_auth=scram-sha-256"
	for name, c := range map[string]struct{ parameters, answer, message, hint string }{
		"cleartext asked for":    {"sslmode=disable" + scram, clear, "server requested password authentication", ""},
		"md5 asked for":          {"sslmode=disable" + scram, md5, "md5", ""},
		"no password asked for":  {"sslmode=disable" + scram, ok, "scram-sha-256", ""},
		"no TLS":                 {"sslmode=require", "N", "refused TLS", "sslmode=disable"},
		"stuffed behind TLS":     {"sslmode=require", "S" + ok, "", ""},
		"another protocol":       {"sslmode=disable", "HTTP/1.1 400 Bad Request\r\n\r\n", "", ""},
		"length 0":               {"sslmode=disable", "R\x00\x00\x00\x00", "invalid message length", ""},
		"length -1":              {"sslmode=disable", "R\xff\xff\xff\xff", "invalid message length", ""},
		"length 2 GiB":           {"sslmode=disable", "R\x7f\xff\xff\xff", "invalid body length", ""},
		"a part of a message":    {"sslmode=disable", "R\x00\x00\x00", "unexpected EOF", "not PostgreSQL"},
		"a pooler":               {"sslmode=disable", refusal("unsupported startup parameter: extra_float_digits"), "unsupported startup", "pooler"},
		"its words for password": {"sslmode=disable", refusal("you said canary"), "you said ***", ""},
	} {
		var heard atomic.Pointer[string]
		address := listen(t, func(conn net.Conn) {
			defer conn.Close()
			buf := make([]byte, 4096)
			conn.Read(buf)                   //nolint:errcheck // the startup message
			conn.Write([]byte(c.answer))     //nolint:errcheck // the client may be gone
			conn.(*net.TCPConn).CloseWrite() //nolint:errcheck // as above
			rest, _ := io.ReadAll(conn)      // to its end
			text := string(rest)
			heard.Store(&text)
		})
		_, err := Open(t.Context(), Config{DSN: "postgres://u:canary@" + address + "/d?" + c.parameters})
		if err == nil || !strings.Contains(err.Error(), c.message) || !strings.Contains(fail.Hint(err), c.hint) || strings.Contains(err.Error()+fail.Hint(err), "canary") {
			t.Errorf("%s: got %v; hint %q", name, err, fail.Hint(err))
		}
		if text := heard.Load(); text != nil && strings.Contains(*text, "canary") {
			t.Errorf("%s: it was told the password", name)
		}
	}
}

// A client key that cannot be used, or that everyone can read.
func TestParse_ClientKey(t *testing.T) {
	noEnvironment(t)
	write := func(name string, text []byte) string {
		path := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalECPrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	//lint:ignore SA1019 it is what `openssl ec -aes256` writes, and pgx reads
	locked, err := x509.EncryptPEMBlock(rand.Reader, "EC PRIVATE KEY", der, []byte("right"), x509.PEMCipherAES256)
	if err != nil {
		t.Fatal(err)
	}
	form := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	signed, err := x509.CreateCertificate(rand.Reader, form, form, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	crt := write("crt", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: signed}))
	key := write("key", pem.EncodeToMemory(locked))
	if _, err := Parse("host=h user=u sslmode=require sslpassword=right sslcert=" + crt + " sslkey=" + key); err != nil {
		t.Errorf("with the right passphrase: %v", err)
	}
	for name, parameters := range map[string]string{
		"no passphrase": " sslcert=" + crt + " sslkey=" + key,
		"a wrong one":   " sslpassword=canary sslcert=" + crt + " sslkey=" + key,
		"no key":        " sslcert=" + crt,
		"garbage":       " sslcert=" + crt + " sslkey=" + write("garbage", []byte("garbage")),
		"a folder":      " sslcert=" + crt + " sslkey=" + t.TempDir(),
	} {
		_, err := Parse("host=h user=u sslmode=require" + parameters)
		if err == nil || !strings.Contains(fail.Hint(err), "passphrase of the key") || strings.Contains(err.Error(), "canary") {
			t.Errorf("%s: got %v; hint %q", name, err, fail.Hint(err))
		}
	}
}

// listen answers every connection with serve and returns its address.
func listen(t *testing.T, serve func(net.Conn)) string {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			serve(c)
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
	return l.Addr().String()
}

func TestRedact(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{`dial "postgres://u:p@ss/w@h/d" x@y`, `dial "postgres://u:***@h/d" x@y`},
		{`host=h password=canary user=u`, `host=h password=*** user=u`},
		{`password = 'a \' b' x`, `password = *** x`},
		{`{"password":"a\"b","user":"u"}`, `{"password":***,"user":"u"}`},
		{`password authentication failed for user "u"`, `password authentication failed for user "u"`},
		{`said s3cr#t and s3cr%23t`, `said *** and ***`},
	} {
		if got := Redact(c.text, "s3cr#t"); got != c.want {
			t.Errorf("%s: got %s, want %s", c.text, got, c.want)
		}
	}
}

// Whatever surrounds a password, and whatever it ends in: no panic, and an error that does not
// contain it.
func FuzzParse(f *testing.F) {
	noEnvironment(f)
	f.Add("postgres://u:", "@/:", "@h:1/d?sslmode=x")
	f.Add("host=h password=", " x", " port=y")
	f.Add("host=h password='", "'", "'")
	f.Add("postgres://h/d?password=", "&%", "&x=y")
	f.Add("postgres://u", "?", "")
	f.Fuzz(func(t *testing.T, before, inside, after string) {
		const canary = "qXzCanaryZxq"
		dsn := before + canary + inside + canary + after
		_, err := Parse(dsn)
		if err == nil {
			return
		}
		if text := err.Error() + fail.Hint(err); strings.Contains(strings.ToLower(text), "canary") {
			// A name before any password is shown, that is what it is for.
			if !strings.Contains(before, "password") && !strings.Contains(dsn, "@") {
				return
			}
			t.Errorf("%q: %s", dsn, text)
		}
	})
}

// Wherever a password of any characters is in a text of others, it is not in what is shown.
func FuzzRedact(f *testing.F) {
	for _, password := range []string{"canary", "p@ss:w/o?r#d%20", `a'b"c\d`, "ein Paß", "%41%42%43", "a b", "***", "=", "&&&"} {
		f.Add("connect with ", password, " failed")
		f.Add("postgres://u:", password, "@h/d")
		f.Add("password=", password, " host=h")
	}
	f.Fuzz(func(t *testing.T, before, password, after string) {
		if len(password) < shortest || strings.Contains(masked, password) || strings.Contains(password, "\x00") {
			return // shorter ones are masked only in the place of a password; no password contains a NUL byte
		}
		for _, form := range []string{password, url.QueryEscape(password), url.PathEscape(password), strconv.Quote(password)} {
			got := Redact(before+form+after, password)
			// The rest may contain it only if masking has created it from the surrounding text.
			if strings.Contains(strings.ReplaceAll(got, masked, "\x00"), password) && !strings.Contains(before, password) && !strings.Contains(after, password) {
				t.Errorf("%q in %q: %q", password, before+form+after, got)
			}
		}
	})
}
