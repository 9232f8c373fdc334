package copying

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/fail"
	"github.com/walferry/walferry/internal/identity"
	"github.com/walferry/walferry/internal/session"
	"github.com/walferry/walferry/internal/state"
	"github.com/walferry/walferry/internal/wait"
	"github.com/walferry/walferry/snapshot"
)

// Hand is a process that helps the copy of a migration that runs elsewhere.
type Hand struct {
	Migration      string
	Source, Target string // connection strings
	Jobs           int    // pieces that it copies at a time; 0: 4
	Worker         string // what it is called in status
	Logger         *slog.Logger

	lent    Lent
	refused string // the snapshot that could not be imported
	waits   string // what it waits for, as was told
}

// Lent is what a Hand has done.
type Lent struct {
	Name   string      `json:"name"`   // of the migration
	Worker string      `json:"worker"` // what it was called in status
	Phase  state.Phase `json:"phase"`  // of the migration, when it had nothing more to do
	Pieces int         `json:"pieces"`
	Rows   int64       `json:"rows"`
	Bytes  int64       `json:"bytes"` // of the stream of COPY
}

const (
	lookInterval = time.Second      // how often the target is asked for pieces
	tellInterval = 10 * time.Second // how often it is told what was copied
	handPatience = 5 * time.Minute  // how long a server is tried that cannot be reached
)

// Run copies what the migration's copy has left to do, under one snapshot after the other, until there is nothing: then the copy is done,
// or was given up. It may be started before the copy begins. Errors of the connection are tried again for some minutes.
func (h *Hand) Run(ctx context.Context) (Lent, error) {
	h.lent.Name, h.lent.Worker = h.Migration, h.Worker
	to, err := session.OpenLink(ctx, session.Config{DSN: h.Target, Application: "copy by " + h.Worker}, nil)
	if err != nil {
		return h.lent, err
	}
	defer to.Close()
	store := state.At(to, h.Migration)
	r, err := store.Load(ctx)
	if err == nil && r == nil {
		err = store.Missing(ctx)
	}
	if err == nil {
		err = identity.CheckSource(ctx, session.Config{DSN: h.Source, Application: "copy by " + h.Worker}, r.SystemID, r.Database)
	}
	if err != nil {
		return h.lent, err
	}
	for ctx.Err() == nil {
		var over bool
		began := time.Now()
		err := wait.Again(ctx, wait.Pauses{First: time.Second, Longest: 10 * time.Second}, func() (err error) {
			over, err = h.round(ctx, to, store)
			return err
		}, func(err error) bool { return passes(err) && time.Since(began) <= handPatience }, func(err error, pause time.Duration) {
			h.Logger.Warn("copying is tried again", "error", err.Error(), "in", pause)
		})
		if err != nil || over {
			return h.lent, err
		}
		wait.Sleep(ctx, lookInterval) //nolint:errcheck // the loop looks
	}
	return h.lent, context.Cause(ctx)
}

// round copies what is offered now; over: there will be nothing more.
func (h *Hand) round(ctx context.Context, to *session.Link, store *state.Store) (over bool, err error) {
	r, err := store.Load(ctx)
	if err != nil {
		return false, err
	}
	if r == nil {
		return true, &fail.Error{Kind: fail.Run, Problem: fmt.Sprintf("the migration %q is gone from the target", h.Migration)}
	}
	h.lent.Phase = r.Phase
	switch r.Phase {
	case state.New, state.Prepared, state.Copying:
	case state.Aborted:
		return true, &fail.Error{Kind: fail.Run, Problem: fmt.Sprintf("the migration %q was aborted", h.Migration)}
	default:
		return true, nil
	}
	var o snapshot.Offer
	var ok bool
	err = to.Do(ctx, func(conn *pgx.Conn) (err error) {
		o, ok, err = snapshot.Offered(ctx, conn, h.Migration)
		return err
	})
	switch {
	case err != nil:
		return false, err
	case !ok && !r.Alive:
		h.wait("no migrate runs; walferry migrate begins the copy, or goes on with it")
		return false, nil
	case !ok:
		h.wait("the migration has no pieces to copy at this moment")
		return false, nil
	case o.Snapshot == h.refused:
		return false, nil
	}
	h.waits = ""
	err = h.help(ctx, o)
	if lost := new(snapshot.SnapshotLostError); errors.As(err, &lost) {
		h.refused = o.Snapshot
		h.wait("the snapshot of the copy is gone with the migrate that held it; when that is run again it takes another one")
		return false, nil
	}
	return false, err
}

// passes reports whether what failed may succeed on a second try.
func passes(err error) bool {
	var (
		ours    *fail.Error
		schema  *snapshot.SchemaError
		changed *snapshot.ChangedError
		count   *snapshot.RowCountError
	)
	return catalog.Passes(err) && !errors.As(err, &ours) && !errors.As(err, &schema) && !errors.As(err, &changed) && !errors.As(err, &count)
}

// help copies pieces under a snapshot.
func (h *Hand) help(ctx context.Context, o snapshot.Offer) error {
	copier, err := snapshot.New(snapshot.Config{
		Source: h.Source, Target: h.Target, Migration: h.Migration, Snapshot: o.Snapshot, AsOf: o.AsOf, Jobs: h.Jobs, Worker: h.Worker, Logger: h.Logger,
	})
	if err != nil {
		return err
	}
	before := h.lent
	count := func() {
		pieces, rows, bytes := copier.Copied()
		h.lent.Pieces, h.lent.Rows, h.lent.Bytes = before.Pieces+pieces, before.Rows+rows, before.Bytes+bytes
	}
	h.Logger.Info("helps the copy", "migration", h.Migration, "worker", h.Worker, "as_of", o.AsOf.String())
	done := make(chan error, 1)
	go func() { done <- copier.Help(ctx) }()
	tick := time.NewTicker(tellInterval)
	defer tick.Stop()
	for {
		select {
		case err := <-done:
			count()
			return err
		case <-tick.C:
			was := h.lent.Pieces
			if count(); h.lent.Pieces != was {
				h.Logger.Info("copied", "pieces", h.lent.Pieces, "rows", h.lent.Rows, "bytes", h.lent.Bytes)
			}
		}
	}
}

// wait tells once what it waits for.
func (h *Hand) wait(what string) {
	if h.waits != what {
		h.waits = what
		h.Logger.Info("waits: " + what)
	}
}
