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

// Config configures an Applier.
type Config struct {
	// Name names the stream: its row in walferry.progress and the replication origin on the target.
	// It must not be empty.
	Name string

	// Start is the position at which the stream begins: that of the snapshot under which the
	// target's tables were copied (slot.Exported.ConsistentPoint). New stores it in the stream's row
	// if the target has nothing of the stream yet; later it is the row that counts, so that a program
	// may give the same Start each time. A row at an earlier position is a *StartError: the tables
	// were copied again since. Zero: the slot's own position, for tables that had nothing to copy.
	Start decoder.LSN

	// Connect opens a new connection to the target after one is lost. Nil: it connects with the
	// configuration of the connection passed to New.
	Connect func(context.Context) (*pgx.Conn, error)

	// Table maps a table of the source to a schema and table of the target; false leaves its
	// changes out. It is called once for each relation that the source announces and must always
	// return the same answer. Two tables must not map to the same name: a TRUNCATE of one would
	// empty both. Changes of walferry.progress, which a Filter needs, are always left out. Nil: every
	// table keeps its name.
	Table func(namespace, name string) (pgx.Identifier, bool)

	// Originals describes the tables of the source as they were when they were copied, keyed by the
	// name that each had then. With it, an alteration of the source since then is distinguished
	// from an intentional difference of the target, and is a SchemaError, before any change of the
	// new form is applied, until the target has been altered too. It must not be modified while
	// there is an Applier. Nil: nothing is known of any table, and only columns that the target
	// lacks are noticed.
	Originals map[decoder.Name]Original

	// GroupChanges is how many changes of a backlog are committed together. A transaction of the
	// source is never split, so a single one may exceed it. Zero: 2000.
	GroupChanges int

	// GroupBytes is approximately how much memory the changes that are committed together take,
	// unless they are of one transaction. Up to twice as much may be waiting, and again as much in
	// flight. Zero: 4 MiB.
	GroupBytes int

	// Windows are needed where tables were copied under other snapshots than that of the stream's
	// first position, as long as Applied is before [Applier.Settled]. Nil: all tables are as of
	// that position.
	Windows *Windows

	// Logger logs reconnects and retries. Nil: nothing is logged.
	Logger *slog.Logger
}

// finishTimeout bounds how long a group in progress may take after the context of Run has ended,
// and a COMMIT in flight after that of Apply has.
const finishTimeout = 30 * time.Second

// Applier applies transactions to one target. Apply, Run and Close are not for concurrent use; the
// other methods are.
type Applier struct {
	config Config
	log    *slog.Logger

	busy    sync.Mutex // held by Apply and by Run
	session *session   // nil: no usable connection
	last    backend    // of the session before
	closed  bool

	// doubts are the positions of COMMITs whose outcome is unknown: the progress row has one of
	// these or that of progress.
	doubts []decoder.LSN

	folds  foldPolicy
	counts *counts

	mu       sync.Mutex // guards the fields below
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

// New makes an Applier of a connection to the target. It creates the schema walferry, its table
// progress and the stream's row there, where they do not exist: the row at Config.Start. It pins the session settings that determine how values are read, and sets
// session_replication_role to replica where the role may do so.
//
// The Applier owns conn from then on, unless New returns an error. The connection must go to the
// server itself, or through a pooler in session mode.
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
	table := c.Table
	if table == nil {
		table = func(namespace, name string) (pgx.Identifier, bool) { return pgx.Identifier{namespace, name}, true }
	}
	c.Table = func(namespace, name string) (pgx.Identifier, bool) {
		to, ok := table(namespace, name)
		return to, ok && namespace+"."+name != ProgressTable
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	a := &Applier{config: c, log: c.Logger, gate: newGate(), windows: newWindows(c.Windows), folds: newFoldPolicy(), counts: newCounts()}
	s, err := a.openSession(ctx, conn)
	if err != nil {
		return nil, err
	}
	p, err := begin(ctx, conn, c.Name, c.Start)
	if err != nil {
		return nil, err
	}
	a.use(s)
	a.setProgress(p)
	return a, nil
}

// Applied returns the position up to which the target is durable: it has every transaction of the
// source whose commit record starts before it.
func (a *Applier) Applied() decoder.LSN { return a.Progress().Applied }

// Progress returns the contents of the stream's row in walferry.progress.
func (a *Applier) Progress() Progress {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.progress
}

// ReplicaRole reports whether the session has session_replication_role = replica. If not, triggers
// and foreign keys of the target take effect on what is applied: cascades and triggers' changes
// arrive from the source as well.
func (a *Applier) ReplicaRole() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.replica
}

// Origin returns the name of the replication origin on the target that marks what this Applier
// writes: walferry_ and Config.Name. It stays on the server until it is dropped. Empty: the role
// may not use one, or another session is using it.
func (a *Applier) Origin() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.origin
}

// Close closes the connection to the target. What has not been committed is rolled back.
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

// Apply commits whole transactions of the source to the target in one transaction. If it returns
// nil they are durable; after any error the target is as it was before. Transactions that are
// already there, those with CommitLSN < Applied(), are skipped, so that delivering twice is
// harmless; positions (XID 0) when EndLSN <= Applied().
//
// Transient errors, such as lost connections and deadlocks, are returned too; it is Run that
// retries. Only one error leaves open whether the target has changed: a connection lost during
// COMMIT that cannot be reestablished. The next call finds out.
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
			continue // the rollback has made the session forget the target's tables
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

// maybeStale reports whether an error may be due to outdated knowledge of the target's tables: one
// may have been altered since.
func maybeStale(err error, fresh bool) bool {
	var schema *SchemaError
	var conflict *ConflictError
	return (!fresh && (errors.As(err, &schema) || errors.As(err, &conflict))) || catalog.StalePlan(err)
}

// pending filters out what the target already has, and returns the progress to which the rest
// leads.
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

// there reports whether a target at applied has a transaction, or is past a position.
func there(tx *decoder.Tx, applied decoder.LSN) bool {
	if tx.XID == 0 {
		return tx.EndLSN <= applied
	}
	return tx.CommitLSN < applied
}

// transact applies a group in one transaction of the target. The result of every statement is read
// before its COMMIT is sent.
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
		p.settle() //nolint:errcheck // end returns the error
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
	if err := a.commit(ctx, place, to); err != nil {
		return err
	}
	a.counts.durable(group)
	return nil
}

// head starts a transaction on the target and moves the progress row.
func (f *facts) head(assert bool, stream string, from, to Progress) *batch {
	b := f.batch(assert)
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

// move takes the progress row from one position to the next; it is the first statement of a
// transaction, or the last of one whose end came late. The origin is given the position and time of
// the commit as well: without them all commits of a session would carry the time of its first.
func (b *batch) move(stream string, from, to Progress) {
	own := &b.facts.own
	b.claim(own.move, moveParameters(stream, from, to)...)
	if b.facts.origin != "" && !to.CommitTime.IsZero() {
		b.own("set up replication origin", own.origin, []byte(to.Applied.String()), timeParameter(to.CommitTime))
	}
}

// commit makes the open transaction durable. Once COMMIT is on its way, commit waits for the answer
// even if ctx ends.
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
		// An ERROR instead of a COMMIT: a deferred constraint, or a conflict of serializable
		// transactions.
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
	// Whether it was committed, only the progress row can tell.
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

// rollback ends a transaction that failed with err, and returns the error to report. The target is
// as it was before.
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

// linger returns a context that ends d after ctx does.
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
