package cutover

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pglogrepl"

	"github.com/walferry/walferry/decoder"
	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/fail"
	"github.com/walferry/walferry/internal/state"
)

// WayBack is the flow from To to From that a switch arms before anything is refused: what is written on To from
// its opening on comes to From, so that From can take over again and has every row.
type WayBack interface {
	// Arm makes what the flow needs on both servers, and returns when a beat of To has come through it. It changes nothing
	// for anybody who writes.
	Arm(ctx context.Context, tell func(string)) error
	// Disarm takes it away again. What cannot go now is recorded for the next run: it keeps nobody from going on.
	Disarm(ctx context.Context)
	// Begin returns To's position, from which on everything flows to From, when that is durable on both servers. It is called when To
	// has the last change of From, and before To opens. An error of kind fail.Gate says
	// that somebody has written to To before.
	Begin(ctx context.Context) (decoder.LSN, error)
	// KeepAhead puts the sequences of From, which stand where those of To do, ahead of them. It is called after the seal and
	// before To opens: from then on keys are drawn there that From must not draw as well, if it has to be opened by hand.
	KeepAhead(ctx context.Context, at []Sequence) error
	// Ahead returns where KeepAhead has put them, if it was called.
	Ahead(ctx context.Context) (map[catalog.Name]Position, error)
}

// Armed is what became of the way back of a switch.
type Armed struct {
	From    *LSNText `json:"from"`               // the position that it begins at; nil: there is none, or the switch did not get there
	None    string   `json:"none,omitempty"`     // why there is none, though one was wanted
	GivenUp bool     `json:"given_up,omitempty"` // since, by finish
	ArmedMS int64    `json:"armed_ms"`           // how long it took to arm it, outside of the pause
	BeganMS int64    `json:"began_ms"`           // what its beginning added to the pause
}

// GiveUp notes that the way back was given up since, if there was one.
func (r *Result) GiveUp() {
	if r.WayBack != nil {
		r.WayBack.GivenUp = r.WayBack.From != nil
	}
}

// LSNText is a decoder.LSN that is a text in JSON.
type LSNText decoder.LSN

// MarshalText implements encoding.TextMarshaler.
func (p LSNText) MarshalText() ([]byte, error) { return []byte(decoder.LSN(p).String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (p *LSNText) UnmarshalText(text []byte) (err error) {
	*(*decoder.LSN)(p), err = pglogrepl.ParseLSN(string(text))
	return err
}

// arm makes the way back. Where that fails the switch goes on without, said loudly, or is refused.
func (s *Switch) arm(ctx context.Context) error {
	began := time.Now()
	within, cancel := context.WithTimeoutCause(ctx, s.Timeout/4, errors.New("that was not done in a quarter of --timeout"))
	defer cancel()
	err := s.Sides.Reverse().Error(s.WayBack.Arm(within, s.sayOther))
	s.result.WayBack = &Armed{ArmedMS: time.Since(began).Milliseconds()}
	if err == nil {
		s.say(fmt.Sprintf("a way back is armed (%d ms)", s.result.WayBack.ArmedMS))
		return nil
	}
	if within.Err() != nil && ctx.Err() == nil {
		err = fmt.Errorf("%w: %w", context.Cause(within), err)
	}
	if s.NeedWayBack || ctx.Err() != nil {
		return &fail.Error{
			Kind: fail.Gate, Problem: "the way back cannot be armed: " + err.Error(),
			Advice: cmp.Or(fail.Hint(err), "fix that, or switch without a way back: --fall-back off"),
		}
	}
	s.disarm(ctx)
	s.result.WayBack.None = err.Error()
	s.say("NO WAY BACK: what is written after the switch will not be on the old server: " + err.Error())
	return nil
}

// disarm gives the way back up, in this switch for good.
func (s *Switch) disarm(ctx context.Context) {
	if s.WayBack != nil {
		s.WayBack.Disarm(ctx)
		s.WayBack = nil
	}
}

// begin makes the way back begin at the position of To as of now. Until the seal it can still be given up.
func (s *Switch) begin(ctx context.Context) error {
	if s.WayBack == nil {
		return nil
	}
	began := time.Now()
	position, err := s.WayBack.Begin(ctx)
	if err != nil {
		return fmt.Errorf("begin the way back: %w", s.Sides.Reverse().Error(err))
	}
	s.result.WayBack.From, s.result.WayBack.BeganMS = (*LSNText)(&position), time.Since(began).Milliseconds()
	return nil
}

// keepAhead has the sequences of From kept ahead of those of To.
func (s *Switch) keepAhead(ctx context.Context) error {
	if s.WayBack == nil {
		return nil
	}
	err := s.Sides.Reverse().Error(s.WayBack.KeepAhead(ctx, s.Sequences.set))
	if err != nil {
		s.Logger.Warn("sequences are not ahead yet of those of the server that opens", "reason", err)
	}
	return err
}

// carryLeft carries over the sequences that are not ahead of those of To already: these were carried over.
func (s *Switch) carryLeft(ctx context.Context) (err error) {
	s.Sequences.except = nil
	if s.WayBack != nil {
		if s.Sequences.except, err = s.WayBack.Ahead(ctx); err != nil {
			return err
		}
	}
	_, err = s.Sequences.Set(ctx, s.conn)
	return err
}

// ends is the phase that a switch ends in.
func (s *Switch) ends() state.Phase {
	if s.WayBack == nil {
		return state.Finished
	}
	return s.Onward
}
