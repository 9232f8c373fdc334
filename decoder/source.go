package decoder

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/session"
	"github.com/walferry/walferry/slot"
)

// Identity identifies a source. A consumer stores it with its data and passes it in Config.Expect.
type Identity struct {
	SystemID     string // pg_control's system identifier
	Timeline     int32
	Database     string
	Publications map[string]PublicationIdentity // by name
}

// check compares with what is expected; zero fields of expect are not compared.
func (i Identity) check(expect Identity) error {
	switch {
	case expect.SystemID != "" && i.SystemID != expect.SystemID:
		return &IdentityError{What: "system identifier", Want: expect.SystemID, Got: i.SystemID}
	case expect.Database != "" && i.Database != expect.Database:
		return &IdentityError{What: "database", Want: expect.Database, Got: i.Database}
	case expect.Timeline != 0 && i.Timeline != expect.Timeline:
		return &IdentityError{What: "timeline", Want: fmt.Sprint(expect.Timeline), Got: fmt.Sprint(i.Timeline)}
	}
	return slot.ComparePublications(i.Publications, expect.Publications)
}

// source describes a server as found by inspect.
type source struct {
	identity      Identity
	flushed       LSN // how far its WAL goes
	standby       bool
	slot          slot.Info
	senderTimeout time.Duration // wal_sender_timeout; 0: none
}

// errStandby means that a failover is in progress, or that the address leads to a reader.
var errStandby = errors.New("the server is a standby")

// dial opens a replication connection. Every call parses the connection string and reads the
// passfile again, and resolves the host again. What is read is added to read.
func dial(ctx context.Context, dsn string, read *atomic.Int64) (*pgconn.PgConn, error) {
	cfg, err := session.Config{DSN: dsn, Application: "stream"}.Parse()
	if err != nil {
		return nil, err
	}
	dial := cfg.DialFunc
	cfg.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		return paced(c), nil
	}
	// pgproto3 reads 8 KiB at a time.
	cfg.BuildFrontend = func(r io.Reader, w io.Writer) *pgproto3.Frontend {
		return pgproto3.NewFrontend(bufio.NewReaderSize(&counting{r, read}, 64<<10), w)
	}
	return session.OpenReplicationConfig(ctx, cfg)
}

// counting counts the bytes that a buffer is filled with.
type counting struct {
	from io.Reader
	read *atomic.Int64
}

func (c *counting) Read(p []byte) (int, error) {
	n, err := c.from.Read(p)
	c.read.Add(int64(n))
	return n, err
}

// inspect reads what decides whether the stream may start, on the replication connection itself, so
// that nothing can change in between.
func inspect(ctx context.Context, conn *pgconn.PgConn, name string, publications []string) (source, error) {
	var s source
	rows, err := session.Simple(ctx, conn, "IDENTIFY_SYSTEM")
	if err != nil {
		return s, fmt.Errorf("identify source: %w", err)
	}
	if len(rows) != 1 || len(rows[0]) < 4 {
		return s, errors.New("identify source: unexpected answer to IDENTIFY_SYSTEM")
	}
	timeline, err1 := strconv.ParseInt(rows[0][1], 10, 32)
	flushed, err2 := pglogrepl.ParseLSN(rows[0][2])
	if err := errors.Join(err1, err2); err != nil {
		return s, fmt.Errorf("identify source: %w", err)
	}
	s.identity = Identity{SystemID: rows[0][0], Timeline: int32(timeline), Database: rows[0][3]}
	s.flushed = flushed

	rows, err = session.Simple(ctx, conn, `select pg_is_in_recovery(), (select setting from pg_settings where name = 'wal_sender_timeout')`)
	if err != nil {
		return s, fmt.Errorf("read settings of the source: %w", err)
	}
	milliseconds, err := strconv.ParseInt(rows[0][1], 10, 64)
	if err != nil {
		return s, fmt.Errorf("read wal_sender_timeout: %w", err)
	}
	s.standby = rows[0][0] == "t"
	s.senderTimeout = time.Duration(milliseconds) * time.Millisecond

	if s.identity.Publications, err = slot.Publications(ctx, conn, publications); err != nil {
		return s, err
	}
	s.slot, err = slot.Read(ctx, conn, name)
	return s, err
}

// memorySQL lets the walsender keep larger transactions in memory, from version 13 on. What exceeds
// logical_decoding_work_mem it writes to a file and reads again, which takes as long as decoding: a
// transaction of half a million INSERTs was sent in 3.7 s instead of 6.8 s. A quarter of
// shared_buffers is a sixteenth of the machine's memory on RDS and by the manual's advice. A
// setting of the connection string, the role or the database is respected, and the server's is
// never lowered. It is not raised on servers before the releases of November 2024, on which a
// walsender could use many times the limit (release notes of 17.1, 16.5, 15.9, 14.14 and 13.17:
// "Reduce memory consumption of logical decoding").
const memorySQL = `select set_config(name, least(buffers / 4, 1 << 20) || 'kB', false)
from (select s.name, s.setting::int8 as has, s.source, (select setting::int8 * 8 from pg_settings where name = 'shared_buffers') as buffers,
    current_setting('server_version_num')::int as version
  from pg_settings s where s.name = 'logical_decoding_work_mem') m
where source in ('default', 'configuration file', 'command line') and has < least(buffers / 4, 1 << 20)
  and version % 10000 >= case version / 10000 when 13 then 17 when 14 then 14 when 15 then 9 when 16 then 5 when 17 then 1 else 0 end`

// tune gives the walsender of this connection memory for large transactions, and lets the source
// shut down without us: it would wait for an acknowledgement, forever if the target stalls; what is
// not acknowledged is sent again later (wal_sender_shutdown_timeout, from 19 on).
func tune(ctx context.Context, conn *pgconn.PgConn) error {
	if _, err := session.Simple(ctx, conn, memorySQL); err != nil {
		return fmt.Errorf("set logical_decoding_work_mem: %w", err)
	}
	if session.Major(conn) >= 19 {
		if _, err := session.Simple(ctx, conn, `set wal_sender_shutdown_timeout = '10s'`); err != nil {
			return fmt.Errorf("set wal_sender_shutdown_timeout: %w", err)
		}
	}
	return nil
}

// startSQL requests protocol 1 in text, which every version from 10 on supports, and logical
// messages, which pgoutput sends in any protocol from version 14 on.
func startSQL(slot string, start LSN, publications []string, messages bool) string {
	quoted := make([]string, len(publications))
	for i, name := range publications {
		quoted[i] = catalog.Quote(name)
	}
	option := ""
	if messages {
		option = ", messages 'true'"
	}
	return fmt.Sprintf("START_REPLICATION SLOT %s LOGICAL %s (proto_version '1', publication_names %s%s)",
		catalog.Quote(slot), start, catalog.Literal(strings.Join(quoted, ", ")), option)
}

// startReplication returns when the connection has become a stream of CopyData.
func startReplication(ctx context.Context, conn *pgconn.PgConn, sql string) error {
	conn.Frontend().SendQuery(&pgproto3.Query{String: sql})
	if err := conn.Frontend().Flush(); err != nil {
		return fmt.Errorf("start replication: %w", err)
	}
	for {
		message, err := conn.ReceiveMessage(ctx)
		if err != nil {
			return fmt.Errorf("start replication: %w", err)
		}
		switch message := message.(type) {
		case *pgproto3.CopyBothResponse:
			return nil
		case *pgproto3.ErrorResponse:
			return fmt.Errorf("start replication: %w", pgconn.ErrorResponseToPgError(message))
		case *pgproto3.NoticeResponse, *pgproto3.ParameterStatus:
		default:
			return fmt.Errorf("start replication: unexpected answer %T", message)
		}
	}
}

// verdict is what an error means for a running stream.
type verdict int

const (
	transient verdict = iota // reconnect, as often as it takes
	doubtful                 // the server refuses; a few times may be a failover
	final                    // continuity is lost, or cannot be shown
)

func judge(err error) verdict {
	var (
		protocol    *ProtocolError
		unusable    *SlotError
		identity    *IdentityError
		publication *PublicationError
	)
	switch {
	case errors.As(err, &unusable):
		if unusable.Reason == SlotActive || unusable.Reason == SlotPending {
			return transient
		}
		return final
	case errors.As(err, &protocol), errors.As(err, &identity), errors.As(err, &publication):
		return final
	case catalog.Passes(err), catalog.State(err) == catalog.ObjectNotInRequiredState:
		// That state is what a slot on a node that is read-only just now says (a failover of
		// Aurora), and what an invalidated one says; that is told apart by its columns.
		return transient
	}
	return doubtful
}
