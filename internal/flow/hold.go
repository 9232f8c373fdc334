package flow

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/walferry/walferry/decoder"
	"github.com/walferry/walferry/internal/fail"
	"github.com/walferry/walferry/internal/state"
	"github.com/walferry/walferry/internal/wait"
)

// HoldLimit is how long an applier stays held for a verify that has died: one that lives asks again
// in time.
const HoldLimit = 2 * time.Minute

// Holder is whom the applier is held for: a verify. Nobody else may move it or release it: the
// comparison would no longer be of one position.
type Holder struct {
	Token string // of one verify
	Name  string // for people
}

// hold has the applier stand still for one caller at a time.
type hold struct {
	turn chan struct{} // full while somebody has it

	mu    sync.Mutex
	by    *held // nil: the applier is held for nobody who has asked
	alone bool  // a cutover is under way: the applier is held for nobody, and no other cutover begins
}

type held struct {
	Holder
	until time.Time
}

func newHold() hold { return hold{turn: make(chan struct{}, 1)} }

// holder returns whom the applier is held for, or nil.
func (h *hold) holder() *held {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.by
}

// take waits for the turn to have the applier stand still.
func (h *hold) take(ctx context.Context) error {
	select {
	case h.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// may reports why the applier cannot be held, or advanced while it is, for the caller. holder is
// another one that it is held for.
func (h *hold) may(who Holder, advance bool) (holder string, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case h.alone:
		return "", &fail.Error{Kind: fail.Gate, Problem: "a cutover is under way", Advice: "compare after it"}
	case advance && (h.by == nil || h.by.Token != who.Token):
		return "", &fail.Error{Kind: fail.Gate, Problem: "the applier is no longer held for this verify", Advice: "verify again"}
	case h.by != nil && h.by.Token != who.Token:
		return h.by.Name, &fail.Error{Kind: fail.Gate, Problem: h.by.Name + " holds the applier", Advice: "verify again when it has released it"}
	}
	return "", nil
}

// exclude is Running.Alone.
func (h *hold) exclude(ctx context.Context) (end func(), err error) {
	err = wait.Until(ctx, wait.Every(100*time.Millisecond), func() (free bool, _ error) {
		h.mu.Lock()
		defer h.mu.Unlock()
		free = h.by == nil && !h.alone
		h.alone = h.alone || free
		return free, nil
	})
	if err != nil {
		return nil, err
	}
	return func() {
		h.mu.Lock()
		h.alone = false
		h.mu.Unlock()
	}, nil
}

// Alone keeps everybody from holding the applier, and from another cutover, until the returned
// function is called. It waits for whoever does either now.
func (r *Running) Alone(ctx context.Context) (end func(), err error) { return r.hold.exclude(ctx) }

// Hold has the applier stand still where it is, for a caller that moves it by Advance and ends the
// hold by Release. holder is another one that it is held for: try again later.
func (r *Running) Hold(ctx context.Context, who Holder) (at state.Progress, holder string, err error) {
	return r.stop(ctx, who, false, 0)
}

// Advance moves a held applier to where it has applied exactly what committed before lsn.
func (r *Running) Advance(ctx context.Context, who Holder, lsn decoder.LSN) (at state.Progress, err error) {
	at, _, err = r.stop(ctx, who, true, lsn)
	return at, err
}

func (r *Running) stop(ctx context.Context, who Holder, advance bool, lsn decoder.LSN) (at state.Progress, holder string, err error) {
	if holder, err = r.hold.may(who, advance); err != nil {
		return at, holder, err
	}
	ctx, cancel := context.WithTimeout(ctx, HoldLimit)
	defer cancel()
	if r.hold.holder() == nil {
		if err := r.hold.take(ctx); err != nil {
			return at, "", fmt.Errorf("hold the applier: another one holds it: %w", err)
		}
	}
	if err := r.pause(ctx, lsn); err != nil {
		r.letGo()
		return at, "", fmt.Errorf("hold the applier: %w", err)
	}
	r.hold.mu.Lock()
	r.hold.by = &held{who, time.Now().Add(HoldLimit)}
	r.hold.mu.Unlock()
	if at, err = state.ReadProgress(ctx, r.flow.To.Link.Row, r.flow.Name.String()); err != nil {
		r.letGo()
	}
	return at, "", err
}

// Release lets the applier resume, if it is held for that token.
func (r *Running) Release(token string) {
	if by := r.hold.holder(); by != nil && by.Token == token {
		r.letGo()
	}
}

// Held reports whether the applier is held for somebody. A hold that was not released in time has
// ended.
// any more.
func (r *Running) Held() bool {
	by := r.hold.holder()
	if by != nil && time.Now().After(by.until) {
		r.flow.Logger.Warn(by.Name + " has not released the applier in time: following again")
		r.Release(by.Token)
		return false
	}
	return by != nil
}

// StandStill keeps the applier from applying anything until the returned function is called, if it
// can be held within a moment.
func (r *Running) StandStill(ctx context.Context, moment time.Duration) (goOn func()) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), moment)
	defer cancel()
	if r.hold.take(ctx) != nil {
		return func() {}
	}
	if err := r.pause(ctx, 0); err != nil {
		r.letGo()
		return func() {}
	}
	return r.letGo
}

// pause has the applier stand still where it is, with 0, or once it has applied exactly what
// committed before lsn. The caller has the turn.
func (r *Running) pause(ctx context.Context, lsn decoder.LSN) error {
	if lsn != 0 {
		// Only something at or past lsn shows that nothing before it is still to come.
		beat, err := r.pulse.write(ctx)
		if err != nil {
			return err
		}
		defer r.pulse.forget(beat)
	}
	_, err := r.applier.Pause(ctx, lsn)
	return err
}

// letGo is for the caller that has the turn.
func (r *Running) letGo() {
	r.applier.Resume()
	r.hold.mu.Lock()
	r.hold.by = nil
	r.hold.mu.Unlock()
	<-r.hold.turn
}
