package check

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/fail"
	"github.com/walferry/walferry/internal/session"
)

// tlsState returns how far a connection is protected, and "local" if nobody can be in between.
func tlsState(conn *pgx.Conn) string {
	c := conn.PgConn().Conn()
	cfg := conn.Config().TLSConfig
	switch address := c.RemoteAddr().(type) {
	case *net.UnixAddr:
		return "local"
	case *net.TCPAddr:
		if address.IP.IsLoopback() {
			return "local"
		}
	}
	if _, ok := c.(*tls.Conn); !ok || cfg == nil {
		return "none"
	}
	switch {
	case !cfg.InsecureSkipVerify:
		return "verify-full"
	case cfg.VerifyPeerCertificate != nil:
		return "verify-ca"
	}
	return "unverified"
}

// connections checks what being connected reveals: what the server is, and whether there is room
// for the connections to come.
func (r *run) connections(ctx context.Context) error {
	for _, s := range []*server{r.source, r.target} {
		r.protection(s)
		r.writer(s)
		r.room(s)
		r.role(s)
	}
	r.versions()
	r.add(r.source.walsender(ctx)...)
	r.sameServer()
	return nil
}

func (r *run) protection(s *server) {
	what := map[string]string{
		"none": "is not encrypted", "unverified": "is encrypted, but the server's certificate was not verified",
		"verify-ca": "is encrypted, but the name in the server's certificate was not verified",
	}[s.TLS]
	if what == "" {
		return
	}
	r.add(Finding{
		ID: "tls", Severity: Warn, On: s.side, Seen: "the connection to " + s.Address + " " + what,
		Do: "add sslmode=verify-full and sslrootcert=…, the file of the authority's certificates " +
			"(RDS and Aurora: https://truststore.pki.rds.amazonaws.com/global/global-bundle.pem)",
	})
}

func (r *run) writer(s *server) {
	switch {
	case s.recovering:
		r.add(Finding{
			ID: "not-a-writer", Severity: Block, On: s.side, Seen: s.Address + " is a standby",
			Do: "give the endpoint of the primary; of an Aurora cluster the cluster (writer) endpoint",
		})
	case s.readOnly && !r.c.Resuming: // some operators close the source with it during a migration
		f := Finding{
			ID: "not-a-writer", Severity: Block, On: s.side,
			Seen: fmt.Sprintf("%s accepts no writes: %s is on", s.Address, readOnlySetting),
			Do:   "give the endpoint of a writer; if it is one, see why it was closed (providers do that when the storage is full), then open it",
		}
		database, user := catalog.Quote(s.Database), catalog.Quote(s.User)
		switch s.settings[readOnlySetting].source {
		case "database":
			f.SQL = []string{fmt.Sprintf("alter database %s reset %s", database, readOnlySetting)}
		case "user":
			f.SQL = []string{fmt.Sprintf("alter role %s reset %s", user, readOnlySetting)}
		case "database user":
			f.SQL = []string{fmt.Sprintf("alter role %s in database %s reset %s", user, database, readOnlySetting)}
		case "client":
			f.Do = "the options of the connection string say so: take that out"
		default:
			var do string
			do, f.SQL = s.reload(readOnlySetting, "off")
			if do != "" {
				f.Do += ": " + do
			}
		}
		// A session that is read-only by default cannot run them.
		if len(f.SQL) > 0 {
			f.SQL = append([]string{"set " + readOnlySetting + " = off"}, f.SQL...)
		}
		r.add(f)
	}
	if s.pooled {
		r.add(Finding{
			ID: "pooler", Severity: Block, On: s.side,
			Seen: "another process answers than the one that was connected to: " + s.Address + " is a pooler or a proxy",
			Do:   "give the endpoint of the server itself: sessions are pinned, and replication does not pass a pooler",
		})
	}
}

// room: the copy takes one connection per job and side, each index build one on the target, and a
// few watch. The source needs as much room: verify reads it while the stream runs.
func (r *run) room(s *server) {
	need := r.c.Jobs + r.c.IndexJobs + 8
	free := s.maxConnections - s.used
	if !s.Superuser {
		free -= s.reserved
	}
	lower := fmt.Sprintf("lower --jobs, which is %d, or --index-jobs, which is %d, or ", r.c.Jobs, r.c.IndexJobs)
	if free < need {
		r.add(Finding{
			ID: "free-connections", Severity: Block, On: s.side,
			Seen: fmt.Sprintf("%d of %d connections are free for %s, %d are needed", max(free, 0), s.maxConnections, s.User, need),
			Do:   lower + "end idle sessions, or raise max_connections (restart)",
		})
	}
	if s.roleLimit >= 0 && !s.Superuser && s.roleLimit-s.roleUsed < need {
		r.add(Finding{
			ID: "role-connection-limit", Severity: Block, On: s.side, Object: catalog.Quote(s.User),
			Seen: fmt.Sprintf("the role may have %d connections and has %d, %d more are needed", s.roleLimit, s.roleUsed, need),
			Do:   lower + "raise the limit",
			SQL:  []string{fmt.Sprintf("alter role %s connection limit %d", catalog.Quote(s.User), s.roleUsed+2*need)},
		})
	}
	if s.databaseLimit >= 0 && !s.Superuser && s.databaseLimit-s.databaseUsed < need {
		r.add(Finding{
			ID: "database-connection-limit", Severity: Block, On: s.side, Object: catalog.Quote(s.Database),
			Seen: fmt.Sprintf("the database may have %d connections and has %d, %d more are needed", s.databaseLimit, s.databaseUsed, need),
			Do:   lower + "raise the limit",
			SQL:  []string{fmt.Sprintf("alter database %s connection limit %d", catalog.Quote(s.Database), s.databaseUsed+2*need)},
		})
	}
}

func (r *run) role(s *server) {
	// A migration takes days, and to reconnect needs the role.
	if s.validUntil != nil && time.Until(*s.validUntil) < 30*24*time.Hour {
		r.add(Finding{
			ID: "role-expires", Severity: Warn, On: s.side, Object: catalog.Quote(s.User),
			Seen: "the password of the role is valid until " + s.validUntil.UTC().Format(time.RFC3339),
			Do:   "extend it past the end of the migration: a lost connection is reopened with it",
			SQL:  []string{fmt.Sprintf("alter role %s valid until 'infinity'", catalog.Quote(s.User))},
		})
	}
	if len(s.configured) > 0 {
		r.add(Finding{
			ID: "session-settings", Severity: Info, On: s.side,
			Seen: "role or database set " + list(s.configured), Do: "nothing: walferry's sessions set their own",
		})
	}
}

func (r *run) versions() {
	for _, s := range []*server{r.source, r.target} {
		if s.Major < 10 || s.Major > 19 {
			r.add(Finding{
				ID: "version", Severity: Block, On: s.side, Seen: "it is version " + s.Version,
				Do: "versions 10 to 19 are supported",
			})
		}
	}
	if r.target.Major < r.source.Major {
		r.add(Finding{
			ID: "target-older", Severity: Block, On: "tool",
			Seen: fmt.Sprintf("the target, version %s, is older than the source, version %s", r.target.Version, r.source.Version),
			Do:   "are source and target the right way round? Otherwise take a target of the source's version or newer",
		})
	}
}

// sameServer: a clone shares the identifier of its origin, but not its start time.
func (r *run) sameServer() {
	s, t := r.source, r.target
	if s.SystemID != t.SystemID || !s.started.Equal(t.started) {
		return
	}
	if s.Database == t.Database {
		r.add(Finding{
			ID: "same-database", Severity: Block, On: "tool",
			Seen: fmt.Sprintf("source and target are the same database, %q of the server that was started at %s", s.Database, s.started.UTC().Format(time.RFC3339)),
			Do:   "give --target another server",
		})
		return
	}
	r.add(Finding{
		ID: "same-server", Severity: Warn, On: "tool",
		Seen: fmt.Sprintf("source and target are databases of the same server: %q and %q", s.Database, t.Database),
		Do:   "is that what was meant?",
	})
}

// walsender opens the connection that the changes will come through.
func (s *server) walsender(ctx context.Context) []Finding {
	conn, err := session.OpenReplication(ctx, session.Config{DSN: s.dsn, Application: "check"})
	if err == nil {
		defer conn.Close(context.WithoutCancel(ctx))
		var id pglogrepl.IdentifySystemResult
		if id, err = pglogrepl.IdentifySystem(ctx, conn); err == nil {
			s.SystemID = id.SystemID
			return nil
		}
	}
	if !s.mayReplicate() {
		return nil // reported by privileges, with the GRANT
	}
	f := Finding{ID: "replication-connection", Severity: Block, On: s.side, Seen: err.Error(), Do: fail.Hint(err)}
	if f.Do == "" {
		f.Do = "the endpoint must be the server itself, and let the role in for replication"
	}
	return []Finding{f}
}
