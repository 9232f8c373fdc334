package cutover

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/walferry/walferry/decoder"
	"github.com/walferry/walferry/internal/online"
	"github.com/walferry/walferry/internal/state"
)

// Clients are those who use the servers, as far as they can be steered: by poolers that hold them,
// and by hooks. Which way they go is known there.
type Clients interface {
	// Ready returns an error if they could not be held, led to To and let go. Nothing is changed.
	Ready(ctx context.Context, m Moment) error
	// Hold keeps them waiting, and returns since when. However it ends, LetGo or Onward follows.
	Hold(ctx context.Context, m Moment) (since time.Time, err error)
	// Fenced tells that From refuses writes.
	Fenced(ctx context.Context, m Moment) error
	// Redirect leads those who are held to To. Of what is not held nothing may be led there yet.
	Redirect(ctx context.Context, m Moment) error
	// TakeBack undoes Redirect, or what it has done of it.
	TakeBack(ctx context.Context, m Moment) error
	// LetGo lets them continue on From, after a rehearsal or a switch that was undone.
	LetGo(ctx context.Context, m Moment) error
	// Onward lets them continue on To, which is open. It tries again until it can, or ctx ends.
	Onward(ctx context.Context, m Moment) error
}

// Moment is what Clients are told of a switch. What is not known is nil.
type Moment struct {
	DryRun  bool
	Why     error        // what has stopped the switch
	LSN     *decoder.LSN // of the fence
	LagMS   *int64
	PauseMS *int64 // for which writes have been refused until now
	Steps   []state.Taken
	Tell    func(string) // tells people a line
}

// onwardPatience is how long a switch waits for clients that cannot be let go. What holds them then is
// recorded: the next run lets go of it.
const onwardPatience = 10 * time.Minute

// moment is the switch as of now.
func (s *Switch) moment(why error) Moment {
	m := Moment{DryRun: s.Rehearse, Why: why, Steps: s.recipe.Taken(), Tell: s.say}
	if s.position != 0 {
		m.LSN = &s.position
	}
	if s.result.FencedAt != nil {
		m.LagMS = &s.result.LagMS
	}
	switch {
	case s.result.FinishedAt != nil:
		m.PauseMS = &s.result.PauseMS
	case !s.since.IsZero():
		pause := time.Since(s.since).Milliseconds()
		m.PauseMS = &pause
	}
	return m
}

// clientsReady is a gate.
func (s *Switch) clientsReady(ctx context.Context) error { return s.Clients.Ready(ctx, s.moment(nil)) }

func (s *Switch) hold(ctx context.Context) error {
	s.heldAt = time.Now() // from here on they have to be let go
	since, err := s.Clients.Hold(ctx, s.moment(nil))
	if err != nil {
		return fmt.Errorf("hold clients: %w", err)
	}
	s.heldAt = since
	s.say(fmt.Sprintf("clients are held, after %d ms", time.Since(s.heldAt).Milliseconds()))
	return nil
}

func (s *Switch) tellFenced(ctx context.Context) error { return s.Clients.Fenced(ctx, s.moment(nil)) }

func (s *Switch) redirect(ctx context.Context) error {
	began := time.Now()
	if err := s.Clients.Redirect(ctx, s.moment(nil)); err != nil {
		return fmt.Errorf("redirect clients: %w", err)
	}
	s.say(fmt.Sprintf("clients are redirected, in %d ms; they are held until the target is open", time.Since(began).Milliseconds()))
	return nil
}

func (s *Switch) takeBack(ctx context.Context, why error) error {
	return s.Clients.TakeBack(ctx, s.moment(why))
}

// letGo lets clients continue on From. It is called as soon as that is open, and not only when the hold
// is undone: what is between takes its time.
func (s *Switch) letGo(ctx context.Context, why error) error {
	if s.Clients == nil || s.heldAt.IsZero() {
		return nil
	}
	if err := s.Clients.LetGo(ctx, s.moment(why)); err != nil {
		return fmt.Errorf("let clients continue: %w", err)
	}
	s.noteHeld()
	return nil
}

// undoHold is letGo until it succeeds, or ctx ends.
func (s *Switch) undoHold(ctx context.Context, why error) error {
	for n := 0; ; n++ {
		err := s.letGo(ctx, why)
		if err == nil || online.Pause(ctx, n) != nil {
			return err
		}
	}
}

// measureRedirect has it tried, after a rehearsal, whether clients could be redirected.
func (s *Switch) measureRedirect(ctx context.Context) (time.Duration, error) {
	if s.Clients == nil {
		return 0, nil
	}
	began := time.Now()
	err := s.Clients.Redirect(ctx, s.moment(nil))
	return time.Since(began), err
}

// onward lets clients continue on To. Without that the switch is done all the same.
func (s *Switch) onward(ctx context.Context) error {
	within, cancel := context.WithTimeoutCause(ctx, onwardPatience, fmt.Errorf("not in %s", onwardPatience))
	defer cancel()
	err := s.Clients.Onward(within, s.moment(nil))
	s.noteHeld()
	if err != nil && !errors.Is(err, state.ErrOvertaken) {
		s.result.StillHeld = err.Error()
		s.say("CLIENTS MAY STILL BE HELD: " + err.Error())
	}
	if err := s.keep(context.WithoutCancel(ctx), nil); err != nil {
		s.Logger.Error("record for how long clients were held", "error", err)
	}
	return err
}

// noteHeld notes for how long clients were held, once.
func (s *Switch) noteHeld() {
	if s.heldAt.IsZero() {
		return
	}
	ms := time.Since(s.heldAt).Milliseconds()
	s.heldAt, s.result.HeldMS = time.Time{}, &ms
	s.say(fmt.Sprintf("clients continue: they were held for %d ms", ms))
}
