package flow

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/applier"
	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/fail"
	"github.com/walferry/walferry/internal/online"
	"github.com/walferry/walferry/internal/session"
	"github.com/walferry/walferry/slot"
	"github.com/walferry/walferry/snapshot"
)

// keeper keeps the words of a running flow: a table whose word is broken is copied again.
type keeper struct {
	r     *Running
	words *Words
	turns chan turn

	mu    sync.Mutex
	again *copyingAgain // nil: no table is
}

// wordInterval is how many heartbeats lie between two looks at the words.
const wordInterval = 12

// turn is a cutover that needs the words to hold. Until done is closed nothing is copied again:
// that would hold the applier.
type turn struct {
	words *Words
	held  chan error
	done  <-chan struct{}
}

// copyingAgain is a table that is being copied again, for status.
type copyingAgain struct {
	table string
	*snapshot.Replacement
}

// note is what status shows.
func (k *keeper) note() string {
	if k == nil {
		return ""
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.again == nil {
		return ""
	}
	return fmt.Sprintf("copying %s again, as it was updated despite --insert-only: %d rows", k.again.table, k.again.Rows())
}

func (k *keeper) set(again *copyingAgain) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.again = again
}

// KeepWords is a helper that looks at the words now and then, and at once for SettleWords, and
// copies again what was updated.
func (r *Running) KeepWords(ctx context.Context, _ context.CancelCauseFunc) {
	k := r.keeper
	if k == nil {
		return
	}
	next := map[uint32]time.Time{} // a large table is not copied over and over
	for {
		if err := k.restore(ctx, k.words, next); err != nil && ctx.Err() == nil {
			r.flow.Logger.Warn("an --insert-only table could not be copied again", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wordInterval * r.flow.Heartbeat):
		case turn := <-k.turns:
			turn.held <- k.restore(ctx, turn.words, nil)
			select {
			case <-ctx.Done():
				return
			case <-turn.done:
			}
		}
	}
}

// restore copies again each table whose word is broken. A table that is in next waits until then;
// it is put there for ten times as long as its copy took.
func (k *keeper) restore(ctx context.Context, words *Words, next map[uint32]time.Time) error {
	log := k.r.flow.Logger
	broken, err := words.Broken(ctx)
	for _, t := range broken {
		if time.Now().Before(next[t.OID]) {
			continue
		}
		began := time.Now()
		log.Warn("updated or deleted from despite --insert-only: copying it again", "table", t.String())
		rows, copyErr := k.copy(ctx, t)
		k.set(nil)
		if copyErr != nil {
			err = errors.Join(err, fmt.Errorf("copy %s again: %w", &t, copyErr))
			continue
		}
		log.Info("copied again", "table", t.String(), "rows", rows, "took", time.Since(began).Round(time.Millisecond))
		if next != nil {
			next[t.OID] = time.Now().Add(10 * time.Since(began))
		}
	}
	return err
}

// copy gives a table of the target the rows that the source has. The applier stands still at the
// snapshot's position while both sides' transactions are opened, and resumes while the rows are
// copied: what it inserts meanwhile is added to them.
func (k *keeper) copy(ctx context.Context, t catalog.Table) (rows int64, err error) {
	f := k.r.flow
	application := f.Name.String() + " copy again"
	source, err := session.Open(ctx, session.Config{DSN: f.From.DSN, Application: application})
	if err != nil {
		return 0, err
	}
	defer func() { source.Close(context.WithoutCancel(ctx)) }()
	target, err := f.open(ctx, " copy again")
	if err != nil {
		return 0, err
	}
	defer func() { target.Close(context.WithoutCancel(ctx)) }()
	if err := online.Quiet(ctx, target); err != nil {
		return 0, err
	}
	if err := catalog.Own(ctx, target, WordTableSQL); err != nil {
		return 0, fmt.Errorf("create walferry.word on the target: %w", err)
	}
	if _, err := target.Exec(ctx, `set session_replication_role = replica`); err != nil && target.IsClosed() {
		return 0, err
	}
	// Before the snapshot: what changes from now on shows, and what changed before is in it.
	marks, err := k.words.set(ctx, source, []catalog.Table{t})
	if err != nil {
		return 0, err
	}
	var before uint32
	if err := source.QueryRow(ctx, `select coalesce(pg_relation_filenode($1::oid), 0)`, t.OID).Scan(&before); err != nil {
		return 0, err
	}
	replacement, err := k.r.openAgain(ctx, source, target, t)
	if err != nil {
		return 0, err
	}
	after, err := replacement.Filenode(ctx)
	if err != nil {
		return 0, err
	}
	if before != after {
		return 0, errors.New("the source has rewritten or truncated it meanwhile: walferry tries again")
	}
	k.set(&copyingAgain{t.String(), replacement})
	if rows, err = replacement.Run(ctx); err != nil {
		return 0, err
	}
	if _, err := target.Exec(ctx, setWord+"w.copied + 1", k.words.Flow, t.Schema, t.Name.Name, marks[t.OID], 1); err != nil {
		return 0, fmt.Errorf("keep the mark: %w", err)
	}
	if _, err := target.Exec(ctx, `commit`); err != nil {
		return 0, err
	}
	return rows, nil
}

// openAgain brings both sides' transactions to one position while the applier stands there.
func (r *Running) openAgain(ctx context.Context, source, target *pgx.Conn, t catalog.Table) (*snapshot.Replacement, error) {
	if err := r.flow.ClearWay(ctx, time.Minute, online.Saying(func(text string) { r.flow.Logger.Warn(text) })); err != nil {
		return nil, err
	}
	if err := r.hold.take(ctx); err != nil { // until verify has released it
		return nil, err
	}
	defer r.letGo()
	ctx, cancel := context.WithTimeout(ctx, HoldLimit)
	defer cancel()
	if err := r.pause(ctx, 0); err != nil {
		return nil, fmt.Errorf("hold the applier: %w", err)
	}
	exported, err := slot.ExportTemporary(ctx, r.flow.From.DSN, "again", slot.ExportConfig{Wait: 30 * time.Second, Logger: r.flow.Logger})
	if err != nil {
		return nil, err
	}
	defer exported.Close(context.WithoutCancel(ctx)) //nolint:errcheck // the temporary slot ends with it either way
	if err := enterAt(ctx, source, exported.Name); err != nil {
		return nil, err
	}
	if err := r.pause(ctx, exported.ConsistentPoint); err != nil {
		return nil, fmt.Errorf("hold the applier at %s: %w", exported.ConsistentPoint, err)
	}
	if _, err := target.PgConn().Exec(ctx, `begin isolation level repeatable read; set local lock_timeout = '20s'`).ReadAll(); err != nil {
		return nil, fmt.Errorf("begin on the target: %w", err)
	}
	if err := applier.Mark(ctx, target, r.flow.Name.String()); err != nil { // a flow back has not to bring it
		return nil, err
	}
	replacement, err := snapshot.NewReplacement(ctx, source, target, snapshot.Table{Schema: t.Schema, Name: t.Name.Name})
	if err != nil {
		return nil, err
	}
	_, err = target.Exec(ctx, `set local lock_timeout = 0`)
	return replacement, err
}

// enterAt opens a transaction with a snapshot.
func enterAt(ctx context.Context, conn *pgx.Conn, name string) error {
	_, err := conn.PgConn().Exec(ctx, `begin isolation level repeatable read read only; set transaction snapshot `+catalog.Literal(name)).ReadAll()
	if err != nil {
		return fmt.Errorf("import the snapshot: %w", err)
	}
	return nil
}

// WordsHold is called inside the fence, after the last writer has ended. It returns an error unless
// all words hold.
func (r *Running) WordsHold(ctx context.Context) error { return r.words.hold(ctx) }

// CopiedAgain returns the --insert-only tables that were copied again.
func (r *Running) CopiedAgain(ctx context.Context) ([]string, error) {
	_, again, err := r.words.kept(ctx)
	return again, err
}

// SettleWords is for a cutover: it returns once every word holds, and nothing is copied again until
// done is closed. A table whose word is broken is copied again first, even if ctx ends before that
// is done.
func (r *Running) SettleWords(ctx context.Context, done <-chan struct{}, step func(string)) error {
	return r.settleWords(ctx, r.words, done, step)
}

func (r *Running) settleWords(ctx context.Context, words *Words, done <-chan struct{}, step func(string)) error {
	k := r.keeper
	if k == nil {
		return nil
	}
	broken, err := words.Broken(ctx)
	if err != nil {
		return err
	}
	if len(broken) > 0 {
		step("copying again, before anything is fenced, as they were updated despite --insert-only: " + catalog.List(tableNames(broken)))
	}
	late := &fail.Error{
		Kind:    fail.Gate,
		Problem: "--insert-only tables that were updated are being copied again: " + catalog.List(tableNames(broken)),
		Advice:  "ask again once `walferry status` no longer names them, or give a longer --timeout",
	}
	turn := turn{words, make(chan error, 1), done}
	select {
	case k.turns <- turn:
	case <-ctx.Done():
		return late
	}
	select {
	case err = <-turn.held:
	case <-ctx.Done():
		return late
	}
	if err != nil {
		return &fail.Error{Kind: fail.Gate, Problem: err.Error(), Advice: cmp.Or(fail.Hint(err), "fix it and ask again; nothing was changed")}
	}
	return nil
}
