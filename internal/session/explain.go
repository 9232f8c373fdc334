package session

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"strings"
	"syscall"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// ConnectError reports which server could not be connected to and why. It contains nothing secret;
// errors.As finds the *pgconn.PgError of a server that refused.
type ConnectError struct {
	Address string // host:port/database
	Reason  string // the server's message, or the network's
	Help    string // what to do about it; may be empty
	Err     error
}

func (e *ConnectError) Error() string { return "connect to " + e.Address + ": " + e.Reason }

// Unwrap returns the error of the last step.
func (e *ConnectError) Unwrap() error { return e.Err }

// Hint returns what the operator can do.
func (e *ConnectError) Hint() string { return e.Help }

// explain reports which server could not be reached, and nothing secret.
func explain(cfg *pgx.ConnConfig, err error) error {
	var wrapped *pgconn.ConnectError
	if errors.As(err, &wrapped) {
		err = errors.Unwrap(wrapped)
	}
	redactor := NewRedactor(cfg.Password)
	e := &ConnectError{Address: Address(cfg), Err: err}
	if len(cfg.Fallbacks) > 0 {
		e.Address = addresses(cfg)
	}
	var server *pgconn.PgError
	if errors.As(err, &server) {
		e.Err = server
		e.Reason = server.Error()
		if detail := Detail(server); detail != "" {
			e.Reason += ": " + detail
		}
		e.Help = helpServer(cfg, server)
	} else {
		e.Reason = strings.Join(strings.FieldsFunc(err.Error(), func(r rune) bool { return r == '\n' || r == '\t' }), "; ")
		e.Help = helpNetwork(cfg, err)
	}
	e.Reason = redactor.Text(e.Reason)
	return e
}

// Detail returns what a server adds to the message of an error. It is empty if that quotes values
// of a row, as for violated constraints and invalid data: those belong in no log but the server's
// own.
func Detail(err *pgconn.PgError) string {
	if strings.HasPrefix(err.Code, "22") || strings.HasPrefix(err.Code, "23") {
		return ""
	}
	return err.Detail
}

// Describe returns a server's message without the values of a row, which data exceptions quote. An
// enum's label is kept: it helps more than it discloses.
func Describe(err *pgconn.PgError) string {
	message := err.Message
	if strings.HasPrefix(err.Code, "22") && err.Code != "22021" && err.Routine != "enum_in" { // 22021 quotes an encoding
		if at := strings.Index(message, `"`); at >= 0 {
			message = strings.TrimRight(message[:at], ": «„") + " (value left out)"
		}
	}
	return fmt.Sprintf("%s: %s (SQLSTATE %s)", err.Severity, message, err.Code)
}

// addresses lists each host of a configuration once: sslmode=prefer makes two attempts.
func addresses(cfg *pgx.ConnConfig) string {
	list := net.JoinHostPort(cfg.Host, fmt.Sprint(cfg.Port))
	last := list
	for _, f := range cfg.Fallbacks {
		if address := net.JoinHostPort(f.Host, fmt.Sprint(f.Port)); address != last {
			list, last = list+","+address, address
		}
	}
	return list + "/" + cfg.Database
}

const bundle = "https://truststore.pki.rds.amazonaws.com/global/global-bundle.pem"

func helpServer(cfg *pgx.ConnConfig, e *pgconn.PgError) string {
	message := strings.ToLower(e.Message)
	replication := cfg.RuntimeParams["replication"] != ""
	has := func(parts ...string) bool {
		for _, part := range parts {
			if strings.Contains(message, part) {
				return true
			}
		}
		return false
	}
	switch {
	case has("unsupported startup parameter", "feature not supported", "rds proxy"),
		e.Code == "08P01" && has("startup", "replication"):
		return "a pooler or proxy is in between (PgBouncer, RDS Proxy): give the server's own endpoint"
	case has("no pg_hba.conf entry for replication", "rejects replication connection"):
		return fmt.Sprintf("pg_hba.conf of the server must let %s in: a line \"host %s %s …\" (the database, not the word replication), then select pg_reload_conf()",
			cfg.User, cfg.Database, cfg.User)
	case has("pg_hba.conf") && has("ssl off", "no encryption"):
		return "the server wants TLS (on RDS: rds.force_ssl): sslmode=verify-full, with sslrootcert=… (RDS and Aurora: " + bundle + ")"
	case has("pg_hba.conf"):
		return fmt.Sprintf("pg_hba.conf of the server must have a line for user %s, database %s and this host's address, then select pg_reload_conf()", cfg.User, cfg.Database)
	case e.Code == "28P01" || has("password authentication failed", "pam authentication failed"):
		return helpPassword(cfg)
	case e.Code == "28000" && has("not permitted to log in"):
		return fmt.Sprintf("alter role %s login", pgx.Identifier{cfg.User}.Sanitize())
	case e.Code == "28000" && has("does not exist"):
		return "is the user name right? On some services it has a suffix, as in user@server"
	case replication && (e.Code == "42501" || has("must be superuser or replication role", "permission denied to start wal sender")):
		return fmt.Sprintf("alter role %[1]s replication; on RDS and Aurora: grant rds_replication to %[1]s", pgx.Identifier{cfg.User}.Sanitize())
	case e.Code == "3D000":
		return "is the database's name right? select datname from pg_database lists those of the server"
	case e.Code == "42501" && has("permission denied for database"):
		return fmt.Sprintf("grant connect on database %s to %s", pgx.Identifier{cfg.Database}.Sanitize(), pgx.Identifier{cfg.User}.Sanitize())
	case e.Code == "53300" && has("max_wal_senders", "standby connections"):
		return "all wal senders are taken: select * from pg_stat_replication shows by whom; raise max_wal_senders (restart; a parameter group on RDS)"
	case e.Code == "53300":
		return "all connections are taken: lower --jobs, end idle sessions, or raise max_connections or the limit of role and database"
	case e.Code == "57P03" && has("starting up", "recovery", "shutting down"):
		return "the server is starting or stopping: try again in a moment"
	case e.Code == "57P03":
		return "the server does not accept connections just now: try again in a moment"
	}
	return e.Hint
}

func helpPassword(cfg *pgx.ConnConfig) string {
	switch {
	case cfg.Password == "":
		return "no password was given: put it into the connection string, PGPASSWORD or ~/.pgpass (mode 0600)"
	case strings.TrimSpace(cfg.Password) != cfg.Password:
		return "the password starts or ends with white space: did a newline come along from the secret store?"
	}
	return "user or password is wrong; in a URI a % in a password is written %25"
}

func helpNetwork(cfg *pgx.ConnConfig, err error) string {
	var authority x509.UnknownAuthorityError
	var name x509.HostnameError
	var invalid x509.CertificateInvalidError
	var verification *tls.CertificateVerificationError
	var dns *net.DNSError
	switch {
	case errors.Is(err, context.Canceled):
		return ""
	case errors.As(err, &name):
		return "connect with a name that is in the certificate (for RDS the endpoint's own, not a CNAME or an address), or use sslmode=verify-ca"
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return "the certificate has expired, or a clock is wrong; RDS: rotate it by ca-certificate-identifier"
	case errors.As(err, &authority), errors.As(err, &invalid), errors.As(err, &verification), strings.Contains(err.Error(), "x509:"):
		return "give the authority that signed the server's certificate: sslrootcert=/path/to/ca.pem (RDS and Aurora: " + bundle + ")"
	case strings.Contains(err.Error(), "ValidateConnect failed"): // it hides behind attempts with TLS, which matter less
		return "no host has the role that target_session_attrs asks for"
	case strings.Contains(err.Error(), "server refused TLS"):
		return "the server does not offer TLS; sslmode=disable is fine over loopback or a private tunnel only"
	case errors.As(err, &dns):
		return "the name does not resolve from this host: is it spelled correctly, and is private DNS reachable?"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "nothing listens there: are host and port right, is the server running, does listen_addresses include this interface?"
	case errors.Is(err, fs.ErrNotExist) && strings.HasPrefix(cfg.Host, "/"):
		return "there is no socket for that port in that directory: is the server running? host= connects over TCP"
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded), pgconn.Timeout(err),
		errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.ETIMEDOUT):
		return "no answer: do security groups, firewall and routes let this host in?"
	case strings.Contains(err.Error(), "unexpected EOF"), errors.Is(err, syscall.ECONNRESET):
		return "what answers there is not PostgreSQL, or it ended the connection: see the server's log"
	}
	return ""
}
