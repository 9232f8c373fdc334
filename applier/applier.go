package applier

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walferry/walferry/decoder"
	"github.com/walferry/walferry/internal/catalog"
)

// Config says how changes are applied.
type Config struct {
	// Name is the stream's: its row in walferry.progress has it, and the target's
	// replication origin. It must not be empty.
	Name string

	// Connect opens a connection to the target after one was lost. Zero: with the
	// configuration of the connection that New was given.
	Connect func(context.Context) (*pgx.Conn, error)

	// Table maps a table of the source to the target's schema and table; false
	// leaves its changes out. It is asked once for each relation that the source
	// announces and must always answer the same. Two tables must not get the same
	// name: a TRUNCATE of one would empty both. Zero: the same name.
	Table func(namespace, name string) (pgx.Identifier, bool)

	// Originals says what the tables of the source were when they were copied, by the schema and name that each had
	// then. What has become of them since is then told apart from what the target has
	// otherwise on purpose, and is a SchemaError, before any change of the new form is applied, until
	// the target has followed. It is not changed while there is an Applier. Zero: nobody knows of any table,
	// and only columns that the target lacks are noticed.
	Originals map[decoder.Name]Original

	// GroupChanges is how many changes of a backlog are committed together. A
	// transaction of the source is never split, so that one may exceed it. Zero: 2000.
	GroupChanges int

	// GroupBytes is how much memory the changes that are committed together take, about,
	// as far as they are not of one transaction; twice as much may wait, besides, and as
	// much be on its way. Zero: 4 MiB.
	GroupBytes int

	// Windows are needed where tables were copied under other snapshots than that of the
	// stream's first position, for as long as Applied is before [Applier.Settled]. Nil: all
	// tables are as of that position.
	Windows *Windows

	// Logger is told of reconnects and retries. Zero: nobody is.
	Logger *slog.Logger
}

// finishTimeout is how long a group in hand may still take after the context of
// Run has ended, and a COMMIT on its way after that of Apply has.
const finishTimeout = 30 * time.Second

// Applier applies transactions to one target. Apply, Run and Close are not for
// concurrent use; the other methods are.
type Applier struct {
	config Config
	log    *slog.Logger

	busy    sync.Mutex // held by Apply and by Run
	session *session   // nil: no usable connection
	last    backend    // of the session before
	closed  bool

	// doubts are the positions of COMMITs whose answers are not known: the progress row
	// says one of these or what progress says.
	doubts []decoder.LSN

	folds foldPolicy

	mu       sync.Mutex // guards what follows
	progress Progress
	replica  bool
	origin   string

	gate    gate
	windows *windows // nil: none

	hooks hooks
}

// hooks are called at the moments at which a crash hurts. Tests set them.
type hooks struct{ beforeCommit, afterCommit, beforeAck func() }

func call(hook func()) {
	if hook != nil {
		hook()
	}
}

// New makes an Applier of a connection to the target. It creates the schema
// walferry, its table progress and the stream's row there, where they do not
// exist: the row at position 0, see [SetProgress]. It pins the settings of the
// session that decide how values are read, and sets session_replication_role to
// replica where the role may do so.
//
// The Applier owns conn from then on, unless New fails. The connection must go to
// the server itself, or through a pooler that keeps sessions.
func New(ctx context.Context, conn *pgx.Conn, c Config) (*Applier, error) {
	if c.Name == "" {
		return nil, errors.New("make applier: Config.Name is empty")
	}
	if c.GroupChanges < 0 || c.GroupBytes < 0 {
		return nil, errors.New("make applier: Config.GroupChanges and GroupBytes must not be negative")
	}
	if c.GroupChanges == 0 {
		c.GroupChanges = 2000
	}
	if c.GroupBytes == 0 {
		c.GroupBytes = 4 << 20
	}
	if c.Connect == nil {
		config := conn.Config()
		c.Connect = func(ctx context.Context) (*pgx.Conn, error) { return pgx.ConnectConfig(ctx, config) }
	}
	if c.Table == nil {
		c.Table = func(namespace, name string) (pgx.Identifier, bool) { return pgx.Identifier{namespace, name}, true }
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	a := &Applier{config: c, log: c.Logger, gate: newGate(), windows: newWindows(c.Windows), folds: newFoldPolicy()}
	s, err := a.openSession(ctx, conn)
	if err != nil {
		return nil, err
	}
	if err := ensureProgress(ctx, conn, c.Name); err != nil {
		return nil, err
	}
	p, found, err := loadProgress(ctx, conn, c.Name)
	if err != nil {
		return nil, err
	}
	if !found {
		return nil, &ProgressError{Stream: c.Name, Missing: true}
	}
	a.use(s)
	a.setProgress(p)
	return a, nil
}

// Applied is the position up to which the target is durable: every transaction of
// the source whose commit record starts before it is there.
func (a *Applier) Applied() decoder.LSN { return a.Progress().Applied }

// Progress is what the stream's row in walferry.progress says.
func (a *Applier) Progress() Progress {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.progress
}

// ReplicaRole tells whether the session has session_replication_role = replica.
// If not, triggers and foreign keys of the target take effect on what is applied:
// cascades and triggers' changes arrive from the source as well.
func (a *Applier) ReplicaRole() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.replica
}

// Origin is the name of the replication origin on the target that marks what this
// Applier writes: walferry_ and Config.Name. It stays on the server until somebody
// drops it. Empty: the role may not use one, or another session does.
func (a *Applier) Origin() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.origin
}

// Close closes the connection to the target. What has not been committed is
// rolled back.
func (a *Applier) Close(ctx context.Context) error {
	if !a.busy.TryLock() {
		return errBusy
	}
	defer a.busy.Unlock()
	a.closed = true
	if a.session == nil {
		return nil
	}
	s := a.session
	a.session = nil
	return s.close(ctx)
}

// Apply commits whole transactions of the source to the target in one
// transaction. When it returns nil they are durable; on any error the target is as
// before. Transactions that are there already, those with CommitLSN < Applied(),
// are skipped, so that delivering twice is harmless; positions (XID 0) when
// EndLSN <= Applied().
//
// Errors that may go away, lost connections and deadlocks among them, are
// returned too: Run tries again. The one case in which an error leaves open
// whether the target has changed is a connection lost during COMMIT that cannot be
// made again; the next call finds out.
func (a *Applier) Apply(ctx context.Context, txs ...*decoder.Tx) error {
	if !a.busy.TryLock() {
		return errBusy
	}
	defer a.busy.Unlock()
	for _, tx := range txs {
		if !whole(tx) {
			return &inputError{fmt.Sprintf("apply transaction %d: it is not whole", tx.XID)}
		}
	}
	if err := a.ready(ctx); err != nil {
		return err
	}
	return a.apply(ctx, txs)
}

func whole(tx *decoder.Tx) bool { return tx.First && tx.Last }

// apply is Apply with a session that is ready.
func (a *Applier) apply(ctx context.Context, txs []*decoder.Tx) error {
	from := a.Progress()
	group, to := pending(from, txs)
	if len(group) == 0 {
		return nil
	}
	a.session.facts.prune()
	if a.mayFold(changesIn(group)) {
		err := a.transact(ctx, group, from, to, true)
		if err == nil {
			a.folds.succeeded()
			return nil
		}
		if !a.misfit(err) {
			return err
		}
		if a.session == nil {
			return fmt.Errorf("apply by net effect: %s; then the connection to the target was lost", err)
		}
	}
	for attempt := 0; ; attempt++ {
		fresh := len(a.session.facts.tables) == 0
		err := a.transact(ctx, group, from, to, false)
		if attempt == 0 && a.session != nil && maybeStale(err, fresh) {
			continue // the rollback made the session forget what it knew of the target's tables
		}
		return err
	}
}

func changesIn(group []*decoder.Tx) int {
	n := 0
	for _, tx := range group {
		n += len(tx.Changes)
	}
	return n
}

// maybeStale tells whether an error may come from what was known of the target's
// tables, and was not fresh: somebody has altered one since.
func maybeStale(err error, fresh bool) bool {
	var schema *SchemaError
	var conflict *ConflictError
	return (!fresh && (errors.As(err, &schema) || errors.As(err, &conflict))) || catalog.StalePlan(err)
}

// pending leaves out what the target has, and returns where the rest leads.
func pending(from Progress, txs []*decoder.Tx) (group []*decoder.Tx, to Progress) {
	to = from
	for _, tx := range txs {
		if there(tx, to.Applied) {
			continue
		}
		group = append(group, tx)
		to.add(tx, len(tx.Changes))
	}
	return group, to
}

// there tells whether a target at applied holds a transaction, or has passed a position.
func there(tx *decoder.Tx, applied decoder.LSN) bool {
	if tx.XID == 0 {
		return tx.EndLSN <= applied
	}
	return tx.CommitLSN < applied
}

// transact is the transaction on the target that moves it by a group. The result of
// every statement is read before its COMMIT is sent.
func (a *Applier) transact(ctx context.Context, group []*decoder.Tx, from, to Progress, folded bool) error {
	if err := a.session.resolve(ctx, &a.config, group...); err != nil {
		return a.rollback(ctx, err)
	}
	body, err := a.session.facts.batchOf(folded, false, group...)
	if err != nil {
		return a.rollback(ctx, err)
	}
	p := a.session.pipe(ctx)
	if err := p.send(a.session.facts.head(false, a.config.Name, from, to), body); err == nil {
		p.settle() //nolint:errcheck // end tells
	}
	err = p.end()
	if err == nil {
		err = a.complement(ctx, p.absent)
	}
	if err != nil {
		return a.rollback(ctx, err)
	}
	place := Place{}
	if len(group) == 1 {
		place.XID, place.LSN = group[0].XID, group[0].CommitLSN
	}
	return a.commit(ctx, place, to)
}

// head starts a transaction on the target and moves the progress row.
func (f *facts) head(prove bool, stream string, from, to Progress) *batch {
	b := f.batch(prove)
	b.begin()
	b.move(stream, from, to)
	return b
}

// begin starts a transaction on the target.
func (b *batch) begin() {
	own := &b.facts.own
	b.own("begin transaction", own.begin)
	if !b.facts.replica { // otherwise deferrable constraints are not checked at all
		b.own("defer constraints", own.deferConstraints)
	}
}

// move takes the progress row from one position to the next; it is the first
// statement of a transaction, or the last of one whose end came late. The origin
// is given the position and time of the commit as well: without them all commits
// of a session would carry the time of its first.
func (b *batch) move(stream string, from, to Progress) {
	own := &b.facts.own
	b.claim(own.move, moveParameters(stream, from, to)...)
	if b.facts.origin != "" && !to.CommitTime.IsZero() {
		b.own("set up replication origin", own.origin, []byte(to.Applied.String()), timeParameter(to.CommitTime))
	}
}

// commit makes the open transaction durable. Once COMMIT is on its way, its answer
// is waited for even when ctx ends.
func (a *Applier) commit(ctx context.Context, place Place, to Progress) error {
	call(a.hooks.beforeCommit)
	work, cancel := linger(ctx, finishTimeout)
	defer cancel()
	err := a.session.commit(work)
	if err == nil {
		a.setProgress(to)
		call(a.hooks.afterCommit)
		return nil
	}
	if !a.session.conn.IsClosed() {
		// An ERROR instead of a COMMIT: a deferred constraint, or a conflict of serializable transactions.
		var server *pgconn.PgError
		if errors.As(err, &server) && !catalog.Passes(server) {
			if server.TableName != "" {
				place.Table = server.SchemaName + "." + server.TableName
			}
			conflict := refused(server)
			var c *ConflictError
			if errors.As(conflict, &c) {
				c.Place = place
			}
			err = conflict
		}
		return a.rollback(ctx, err)
	}
	// Nobody knows whether it was committed. The progress row does.
	a.doubts = append(a.doubts, to.Applied)
	a.drop(work)
	switch again := a.ready(work); {
	case again == nil && a.Applied() == to.Applied:
		return nil
	case again != nil && !transient(again):
		return again
	}
	return fmt.Errorf("commit on target: %w", err)
}

func (s *session) commit(ctx context.Context) error {
	results, err := s.conn.PgConn().Exec(ctx, "commit").ReadAll()
	if err != nil {
		return err
	}
	if tag := results[0].CommandTag.String(); tag != "COMMIT" {
		return fmt.Errorf("commit on target: the server answered %s", tag)
	}
	return nil
}

// rollback ends a transaction that met err, and returns the error to report. The
// target is as before.
func (a *Applier) rollback(ctx context.Context, err error) error {
	work, cancel := linger(ctx, finishTimeout)
	defer cancel()
	if cause := context.Cause(ctx); cause != nil && transient(err) {
		err = cause
	}
	if a.session.clean(work) != nil || onStandby(err) {
		a.drop(work)
	}
	if errors.Is(err, errMoved) {
		if a.session == nil {
			return fmt.Errorf("%w, and then the connection was lost", err)
		}
		return a.moved(work)
	}
	return err
}

func (a *Applier) setProgress(p Progress) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.progress = p
}

// linger is a context that ends some time after ctx has.
func linger(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	work, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	timer := time.AfterFunc(math.MaxInt64, func() { cancel(context.Cause(ctx)) })
	stop := context.AfterFunc(ctx, func() { timer.Reset(d) })
	return work, func() {
		stop()
		timer.Stop()
		cancel(nil)
	}
}
