package check

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/session"
)

// ServerFacts describe the server and database of a connection string.
type ServerFacts struct {
	Version    string `json:"version"` // as in 13.23
	Major      int    `json:"major"`
	Database   string `json:"database"`
	User       string `json:"user"`
	Address    string `json:"address"`             // host:port/database
	SystemID   string `json:"system_id,omitempty"` // empty: not allowed to read it
	Platform   string `json:"platform,omitempty"`  // rds, aurora or empty
	Encoding   string `json:"encoding"`
	Collation  string `json:"collation"` // provider, lc_collate, lc_ctype
	Superuser  bool   `json:"superuser"`
	TLS        string `json:"tls"` // none, unverified, verify-ca, verify-full
	minor      int
	started    time.Time
	recovering bool
	readOnly   bool // a session that does not override it cannot write
	pooled     bool // the process that answers is not the one that was connected to

	roleReplication, roleBypassRLS, roleInherit bool
	rdsReplication                              *bool // nil: there is no such role
	createOnDatabase                            bool
	readsStats                                  bool // of other roles' sessions
	validUntil                                  *time.Time
	roleLimit, roleUsed                         int
	databaseLimit, databaseUsed                 int
	maxConnections, reserved, used              int
	slotsUsed, sendersUsed                      int
	relations, lockSlots                        int64
}

// setting is a row of pg_settings.
type setting struct {
	value   string // in the unit of the setting
	source  string
	pending bool // a restart will change it
}

// readOnlySetting makes every transaction read-only that does not override it.
const readOnlySetting = "default_transaction_read_only"

// server is one side, in a read-only transaction.
type server struct {
	ServerFacts
	side     string // source or target
	dsn      string
	conn     *pgx.Conn
	tx       pgx.Tx
	settings map[string]setting
	// configured are settings of ALTER ROLE and ALTER DATABASE that walferry's sessions would get
	// if they did not override them.
	configured []string
}

func (s *server) close(ctx context.Context) {
	if s.tx != nil {
		s.tx.Rollback(ctx) //nolint:errcheck // the connection ends with it
	}
	s.conn.Close(ctx) //nolint:errcheck // as above
}

func (r *run) open(ctx context.Context, side, dsn string) (*server, error) {
	cfg, err := session.Config{DSN: dsn, Application: "check"}.Parse()
	if err != nil {
		return nil, fmt.Errorf("check the %s: %w", side, err)
	}
	// What walferry's other sessions override is left as it is here: a server, database or role
	// that is read-only by default is so for a reason.
	delete(cfg.RuntimeParams, readOnlySetting)
	conn, err := session.OpenConfig(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("check the %s: %w", side, err)
	}
	s := &server{side: side, dsn: dsn, conn: conn}
	if err := s.read(ctx); err != nil {
		s.close(context.WithoutCancel(ctx))
		return nil, fmt.Errorf("check the %s: %w", side, err)
	}
	return s, nil
}

// read fills in the facts with four queries.
func (s *server) read(ctx context.Context) error {
	// Before the transaction, which is read-only in any case.
	err := s.conn.QueryRow(ctx, `select current_setting('transaction_read_only') = 'on'`).Scan(&s.readOnly)
	if err != nil {
		return fmt.Errorf("read the server's state: %w", err)
	}
	if s.tx, err = s.conn.BeginTx(ctx, pgx.TxOptions{AccessMode: pgx.ReadOnly}); err != nil {
		return fmt.Errorf("begin: %w", err)
	}
	// Nothing here needs a lock that others hold for long; if it does wait for one, it fails with
	// an error, and pg_locks shows the holder.
	if _, err := s.tx.Exec(ctx, `set local lock_timeout = '30s'`); err != nil {
		return fmt.Errorf("begin: %w", err)
	}
	s.TLS = tlsState(s.conn)
	cfg := s.conn.Config()
	s.Address = session.Address(cfg)
	if s.Major, err = catalog.Major(ctx, s.tx); err != nil {
		return err
	}
	if err := s.readFacts(ctx); err != nil {
		return fmt.Errorf("read the server's state: %w", err)
	}
	if err := s.readSettings(ctx); err != nil {
		return fmt.Errorf("read the server's settings: %w", err)
	}
	return s.try(ctx, func(tx pgx.Tx) error {
		return tx.QueryRow(ctx, `select system_identifier::text from pg_control_system()`).Scan(&s.SystemID)
	}, nil)
}

func (s *server) readFacts(ctx context.Context) error {
	collation := "'libc ' || d.datcollate || ' ' || d.datctype"
	switch {
	case s.Major >= 17:
		collation = "case d.datlocprovider when 'i' then 'icu ' || d.datlocale when 'b' then 'builtin ' || d.datlocale else " + collation + " end"
	case s.Major >= 15:
		collation = "case d.datlocprovider when 'i' then 'icu ' || d.daticulocale else " + collation + " end"
	}
	statsRight := "MEMBER" // which is enough up to 14, also where it is not inherited
	if s.Major >= 15 {
		statsRight = "USAGE"
	}
	var number, pid int
	var rds, aurora bool
	err := s.tx.QueryRow(ctx, `
select current_setting('server_version'), current_setting('server_version_num')::int, current_database()::text, current_user::text,
       pg_is_in_recovery(), pg_postmaster_start_time(), pg_backend_pid(),
       to_regrole('rdsadmin') is not null, to_regproc('aurora_version') is not null,
       pg_encoding_to_char(d.encoding)::text, coalesce(`+collation+`, ''),
       r.rolsuper, r.rolreplication, r.rolbypassrls, r.rolinherit,
       nullif(r.rolvaliduntil, 'infinity'), r.rolconnlimit, d.datconnlimit,
       case when to_regrole('rds_replication') is not null then pg_has_role(to_regrole('rds_replication'), 'MEMBER') end,
       has_database_privilege(d.oid, 'CREATE'), pg_has_role(r.oid, 'pg_read_all_stats', '`+statsRight+`'),
       (select count(*) from pg_stat_activity a where a.usesysid = r.oid and a.datid is not null),
       (select count(*) from pg_stat_activity a where a.datid = d.oid),
       (select count(*) from pg_stat_activity a where a.datid is not null),
       current_setting('max_connections')::int,
       current_setting('superuser_reserved_connections')::int + coalesce(current_setting('reserved_connections', true)::int, 0),
       -- REPACK (CONCURRENTLY) of 19 has slots of its own number
       (select count(*) from pg_replication_slots where plugin is distinct from 'pgrepack'), (select count(*) from pg_stat_replication),
       (select count(*) from pg_class c join pg_namespace n on n.oid = c.relnamespace
         where c.relkind in ('r', 'p', 'i', 'I', 'S', 'm', 't') and `+catalog.NotOurs+` ),
       current_setting('max_locks_per_transaction')::int8
         * (current_setting('max_connections')::int + current_setting('max_prepared_transactions')::int)
  from pg_database d, pg_roles r where d.datname = current_database() and r.rolname = current_user`).Scan(
		&s.Version, &number, &s.Database, &s.User, &s.recovering, &s.started, &pid, &rds, &aurora,
		&s.Encoding, &s.Collation, &s.Superuser, &s.roleReplication, &s.roleBypassRLS, &s.roleInherit,
		&s.validUntil, &s.roleLimit, &s.databaseLimit, &s.rdsReplication, &s.createOnDatabase, &s.readsStats,
		&s.roleUsed, &s.databaseUsed, &s.used, &s.maxConnections, &s.reserved, &s.slotsUsed, &s.sendersUsed,
		&s.relations, &s.lockSlots)
	if err != nil {
		return err
	}
	s.minor = number % 10000
	s.pooled = uint32(pid) != s.conn.PgConn().PID()
	switch {
	case aurora:
		s.Platform = "aurora"
	case rds:
		s.Platform = "rds"
	}
	return nil
}

func (s *server) readSettings(ctx context.Context) error {
	rows, err := s.tx.Query(ctx, `
select name, setting, source, pending_restart from pg_settings where name in (
       'wal_level', 'rds.logical_replication', 'max_replication_slots', 'max_wal_senders', 'wal_sender_timeout',
       'max_slot_wal_keep_size', 'idle_replication_slot_timeout', 'output_plugin_libraries', 'track_counts', 'autovacuum', 'fsync', '`+readOnlySetting+`')`)
	if err != nil {
		return err
	}
	s.settings = map[string]setting{}
	var name string
	var v setting
	if _, err := pgx.ForEachRow(rows, []any{&name, &v.value, &v.source, &v.pending}, func() error {
		s.settings[name] = v
		return nil
	}); err != nil {
		return err
	}
	rows, err = s.tx.Query(ctx, `
select distinct x.setting from pg_db_role_setting s, unnest(s.setconfig) x(setting)
 where (s.setdatabase = 0 or s.setdatabase = (select oid from pg_database where datname = current_database()))
   and (s.setrole = 0 or s.setrole = current_user::regrole)
   and split_part(x.setting, '=', 1) in ('statement_timeout', 'lock_timeout', 'idle_in_transaction_session_timeout',
       'idle_session_timeout', 'transaction_timeout', 'default_transaction_isolation',
       'synchronous_commit', 'session_replication_role', 'row_security')
 order by 1`)
	if err != nil {
		return err
	}
	s.configured, err = pgx.CollectRows(rows, pgx.RowTo[string])
	return err
}

// try runs f in a savepoint that is always rolled back. A server error of f is passed to failed,
// which may be nil, and not returned.
func (s *server) try(ctx context.Context, f func(pgx.Tx) error, failed func(error)) error {
	sp, err := s.tx.Begin(ctx)
	if err != nil {
		return fmt.Errorf("set a savepoint: %w", err)
	}
	ferr := f(sp)
	if err := sp.Rollback(ctx); err != nil {
		return fmt.Errorf("roll back to the savepoint: %w", err)
	}
	if ferr != nil && failed != nil {
		failed(ferr)
	}
	return nil
}

// rows returns the values of a query of one text column.
func (s *server) texts(ctx context.Context, what, sql string, args ...any) ([]string, error) {
	rows, err := s.tx.Query(ctx, sql, args...)
	if err != nil {
		return nil, fmt.Errorf("list %s of the %s: %w", what, s.side, err)
	}
	result, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("list %s of the %s: %w", what, s.side, err)
	}
	return result, nil
}

// records runs a query and passes each row, as text, to add.
func (s *server) records(ctx context.Context, what, sql string, add func(row []string), args ...any) error {
	rows, err := s.tx.Query(ctx, sql, args...)
	if err != nil {
		return fmt.Errorf("list %s of the %s: %w", what, s.side, err)
	}
	defer rows.Close()
	for rows.Next() {
		row := make([]string, len(rows.FieldDescriptions()))
		into := make([]any, len(row))
		for i := range row {
			into[i] = &row[i]
		}
		if err := rows.Scan(into...); err != nil {
			return fmt.Errorf("list %s of the %s: %w", what, s.side, err)
		}
		add(row)
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("list %s of the %s: %w", what, s.side, err)
	}
	return nil
}
