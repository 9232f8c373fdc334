package flow

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"time"

	"github.com/walferry/walferry/decoder"
	"github.com/walferry/walferry/internal/fail"
	"github.com/walferry/walferry/internal/online"
	"github.com/walferry/walferry/internal/state"
	"github.com/walferry/walferry/internal/wait"
	"github.com/walferry/walferry/slot"
)

// Sides are the sessions of a comparison of both servers.
type Sides interface {
	Connect(ctx context.Context) error
	// OpenSource gives the sessions of the server that the flow comes from a snapshot.
	OpenSource(ctx context.Context, snapshot string) error
	// OpenTarget opens the snapshots of the other side's sessions.
	OpenTarget(ctx context.Context) error
	// UnderTarget runs a query of one row under these.
	UnderTarget(ctx context.Context, sql string, args []any, into ...any) error
}

// Meet opens the sessions of both sides so that they see the same, at the position that it returns.
// Another process runs the flow, and is asked through store to hold its applier; held is how long
// it did. Old transactions that would prolong the hold are waited for before it, for as long as
// patience.
func (f *Flow) Meet(ctx context.Context, store *state.Store, sides Sides, patience time.Duration) (at decoder.LSN, held time.Duration, err error) {
	m := &meeting{f, store, state.Args{Token: fmt.Sprintf("%016x", rand.Uint64()), Asker: asker(), Flow: f.Name.String()}}
	exported, since, err := m.export(ctx, sides, patience)
	if err != nil {
		return 0, 0, err
	}
	defer func() {
		m.release(ctx)
		held = time.Since(since)
	}()
	defer exported.Close(context.WithoutCancel(ctx)) //nolint:errcheck // the temporary slot ends with it either way
	if err := sides.OpenSource(ctx, exported.Name); err != nil {
		return 0, 0, err
	}
	at = exported.ConsistentPoint
	m.me.LSN = at.String()
	there, err := store.Mailbox().Ask(ctx, "advance", m.me, nil)
	if err != nil {
		return at, 0, err
	}
	if err := sides.OpenTarget(ctx); err != nil {
		return at, 0, err
	}
	// Whatever may have let the applier resume, or another one begin: what the snapshots show is of
	// that position, or nothing is compared.
	seen, err := state.ReadProgress(ctx, sides.UnderTarget, f.Name.String())
	if err != nil {
		return at, 0, err
	}
	if seen != there.Progress {
		return at, 0, &fail.Error{Kind: fail.Gate, Problem: fmt.Sprintf("the target has moved on from %s to %s before it could be compared", there.Progress.Applied, seen.Applied), Advice: "verify again"}
	}
	return at, 0, nil
}

// meeting is what Meet asks of the process that runs the flow.
type meeting struct {
	f     *Flow
	store *state.Store
	me    state.Args
}

// export has the applier held, since the time that it returns, and makes a snapshot of the server
// that the flow comes from.
func (m *meeting) export(ctx context.Context, sides Sides, patience time.Duration) (exported *slot.Exported, since time.Time, err error) {
	log := m.f.Logger
	shown := m.store.Mailbox().Announce()
	defer shown.End(ctx)
	tell := func(w online.Wait, say bool) {
		shown.Show(ctx, w)
		if say {
			log.Warn(w.String())
		}
	}
	for _, wait := range []time.Duration{5 * time.Second, 10 * time.Second, 30 * time.Second} {
		if err := m.f.ClearWay(ctx, patience, tell); err != nil {
			return nil, since, err
		}
		shown.End(ctx)
		if err := sides.Connect(ctx); err != nil {
			return nil, since, err
		}
		if err := m.hold(ctx); err != nil {
			return nil, since, err
		}
		since = time.Now()
		exported, err = slot.ExportTemporary(ctx, m.f.From.DSN, "verify", slot.ExportConfig{Wait: wait, Logger: log})
		if err == nil {
			return exported, since, nil
		}
		m.release(ctx)
		// Somebody has written since: wait for them without the applier, too.
		if blocked := new(slot.BlockedError); !errors.As(err, &blocked) {
			break
		}
	}
	return nil, since, err
}

// hold has the applier held, after whoever holds it now: a moment, unless that process has died,
// and then HoldLimit.
func (m *meeting) hold(ctx context.Context) error {
	for began, told := time.Now(), false; ; told = true {
		a, err := m.store.Mailbox().Ask(ctx, "hold", m.me, func(text string) { m.f.Logger.Info(text) })
		if err == nil || a.Holder == "" || time.Since(began) > 2*HoldLimit {
			return err
		}
		if !told {
			m.f.Logger.Info(a.Holder + " holds the applier: waiting for it")
		}
		if err := wait.Sleep(ctx, 200*time.Millisecond); err != nil {
			return err
		}
	}
}

// release lets the applier resume, also when ctx has ended.
func (m *meeting) release(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 20*time.Second)
	defer cancel()
	if _, err := m.store.Mailbox().Ask(ctx, "release", m.me, nil); err != nil {
		m.f.Logger.Warn("release the applier", "error", err)
	}
}

// asker names this process to those whom it keeps waiting.
func asker() string {
	host, _ := os.Hostname()
	return fmt.Sprintf("a verify on %s (pid %d)", host, os.Getpid())
}
