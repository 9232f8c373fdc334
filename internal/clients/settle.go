package clients

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/walferry/walferry/internal/cutover"
	"github.com/walferry/walferry/internal/state"
	"github.com/walferry/walferry/internal/wait"
)

func pause(ctx context.Context, n int) error {
	return wait.Sleep(ctx, wait.Pauses{First: 100 * time.Millisecond, Longest: 2 * time.Second, Random: true}.After(n))
}

// Settle lets go whom a run before this one has held, or this one itself and could not let go.
// switched says that To is open: otherwise From is. It is called when that is certain, and while no
// switch is under way.
func (s *Steering) Settle(ctx context.Context, switched bool) error {
	err := s.settle(ctx, switched, cutover.Moment{Tell: func(line string) { s.Logger.Info(line) }})
	if err != nil {
		s.owe(true)
		s.Logger.Error("clients may still be held; it is tried again", "reason", err)
	}
	return err
}

// Held reports whether clients are held, by whomever.
func (s *Steering) Held(ctx context.Context) (yes bool, err error) {
	h, err := s.recorded(ctx)
	return h != nil, err
}

// recorded returns what is held; nil: nothing is.
func (s *Steering) recorded(ctx context.Context) (*Held, error) {
	if rec, err := s.Store.Load(ctx); err != nil || rec == nil {
		return nil, err
	}
	var h Held
	if found, err := s.Store.Values().Get(ctx, state.Clients, &h); err != nil || !found || h.Over {
		return nil, err
	}
	return &h, nil
}

func (s *Steering) settle(ctx context.Context, switched bool, m cutover.Moment) error {
	held, err := s.recorded(ctx)
	if err != nil || held == nil {
		return err
	}
	h := *held
	s.open()
	if unknown := s.unknown(h); unknown != "" {
		s.Logger.Error("clients may still be held since "+h.Since.UTC().Format(time.DateTime)+" by a run that has died, and this one was not told how to let them go", "at", unknown,
			"do", "give this run --pgbouncer and --hook as that one had them; or by hand: "+strings.ReplaceAll(h.Commands, "\n", " "))
		return nil
	}
	s.Logger.Warn("clients are held since " + h.Since.UTC().Format(time.DateTime) + " by a run that has died, or that could not let them go: letting them continue")
	s.mu.Lock()
	s.held, s.undone = &h, false
	s.mu.Unlock()
	m.DryRun = h.DryRun
	if switched {
		return s.onward(ctx, h, m)
	}
	m.Why = errors.New("the run that had begun it is gone")
	return s.LetGo(ctx, m)
}

// unknown returns which of those who hold clients this run does not know.
func (s *Steering) unknown(h Held) string {
	var missing []string
	known := s.fleet.Addresses()
	for _, address := range h.Poolers {
		if !slices.Contains(known, address) {
			missing = append(missing, address)
		}
	}
	if h.Hooks && len(s.Hooks) == 0 {
		missing = append(missing, "hooks")
	}
	return strings.Join(missing, ", ")
}

// Retry is Settle while a migration follows, for whom a switch that was undone could not let go. It
// costs nothing if there is nobody.
func (s *Steering) Retry(ctx context.Context) {
	if s == nil || !s.owing() {
		return
	}
	if err := wait.Within(ctx, 10*time.Second, func(ctx context.Context) error { return s.Settle(ctx, false) }); err != nil {
		s.Logger.Debug("let clients continue", "error", err)
	}
}
