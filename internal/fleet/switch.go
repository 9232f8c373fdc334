package fleet

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/walferry/walferry/internal/fail"
	"github.com/walferry/walferry/internal/migration"
	"github.com/walferry/walferry/internal/wait"
)

// SwitchConfig says how a wave is switched.
type SwitchConfig struct {
	// Approved names who has approved of a wave whose file does not.
	Approved string
	// Ready switches those databases of the wave that follow, and leaves the others where they are.
	Ready bool
	// DryRun rehearses each cutover, and needs neither approval nor window.
	DryRun bool
	// Unasked means that nobody has asked: what has failed before, or was switched back, is left to a person.
	Unasked bool
	// Step is told what is done; nil: nobody is. Several databases may be at work at a time.
	Step func(migration, text string)
	// Now is the time, for the window; nil: time.Now.
	Now func() time.Time
}

// Switched is what has become of a wave.
type Switched struct {
	Wave      int              `json:"wave"`
	Databases []SwitchedOne    `json:"databases"` // in the order of the file
	Failed    int              `json:"failed"`    // how many were not switched, or only with an error
	Left      int              `json:"left"`      // how many were left as they are, as others had failed
	errors    map[string]error // by migration
}

// SwitchedOne is what has become of one database.
type SwitchedOne struct {
	Name    string `json:"name"`               // of the migration
	State   string `json:"state"`              // done; already: it was done before; failed: see error, everything is as before unless pause_ms is there; left: not tried
	PauseMS *int64 `json:"pause_ms,omitempty"` // how long writes were refused
	Error   string `json:"error,omitempty"`
}

func gate(advice, problem string, args ...any) error {
	return &fail.Error{Kind: fail.Gate, Problem: fmt.Sprintf(problem, args...), Advice: advice}
}

// wave returns a wave that exists.
func (f *Fleet) wave(number int) (*Wave, error) {
	if w := f.Wave(number); w != nil {
		return w, nil
	}
	var numbers []string
	for _, w := range f.Waves {
		numbers = append(numbers, fmt.Sprint(w.Number))
	}
	return nil, &fail.Error{Kind: fail.Usage, Problem: fmt.Sprintf("there is no wave %d", number), Advice: "the file has: " + listed(numbers)}
}

// Cutover asks the migrations of a wave to cut over, and waits for them: one after the other on each source instance, until as many have
// failed as the wave allows. An error of kind fail.Gate: nothing was asked for.
func (f *Fleet) Cutover(ctx context.Context, number int, c SwitchConfig) (*Switched, error) {
	w, err := f.wave(number)
	if err != nil {
		return nil, err
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	st, err := f.read(ctx, func(d *Database) bool { return d.Wave == number || d.Wave == w.After })
	if err != nil {
		return nil, err
	}
	if err := f.gates(w, st, c); err != nil {
		return nil, err
	}
	what := part{ask: migration.Cutover, stopAfter: w.StopAfter, done: done, window: w.Window, now: c.Now}
	if c.DryRun {
		what.window, what.done = nil, func(p migration.Phase) bool { return p != migration.Following }
	}
	return f.each(ctx, number, st, c, what)
}

// done reports whether a migration is over its cutover.
func done(p migration.Phase) bool { return p == migration.Finished || p == migration.Switched }

// gates are looked at before anything is asked for.
func (f *Fleet) gates(w *Wave, st *Status, c SwitchConfig) error {
	if !c.DryRun {
		if w.After != 0 {
			var behind []string
			for _, d := range st.Databases {
				if d.Wave == w.After && !done(d.Phase) && d.Phase != migration.Aborted {
					behind = append(behind, d.Name)
				}
			}
			if len(behind) > 0 {
				return gate("cut that one over first", "wave %d comes after wave %d, of which %d are not switched: %s", w.Number, w.After, len(behind), listed(behind))
			}
		}
		if w.Approve == Manual && w.Approved == "" && c.Approved == "" {
			return gate("put approved: with who has approved, into the file, or give --approved", "wave %d is not approved", w.Number)
		}
		if !w.Window.Open(c.Now()) {
			return gate("wait for it, or change the file", "wave %d may be cut over %s, and it is %s", w.Number, w.Window.Text, c.Now().In(w.Window.zone).Format("Mon 15:04 MST"))
		}
	}
	var not []string
	for _, d := range st.Databases {
		if c.Unasked && d.Wave == w.Number && d.person {
			return gate("`walferry fleet cutover --wave` tries again", "a cutover of %s has failed, or was taken back", d.Name)
		}
		if d.Wave == w.Number && !done(d.Phase) && !(d.Phase == migration.Following && d.Running) {
			not = append(not, d.Name+" ("+d.state()+")")
		}
	}
	if len(not) > 0 && !c.Ready {
		return gate("`walferry fleet status` shows them; --ready cuts over those that follow", "%d of wave %d do not follow: %s", len(not), w.Number, listed(not))
	}
	return nil
}

// Fallback asks the migrations of a wave to switch back, and waits for them. Neither approval nor window is needed, and one that fails
// does not keep the others from it.
func (f *Fleet) Fallback(ctx context.Context, number int, c SwitchConfig) (*Switched, error) {
	if _, err := f.wave(number); err != nil {
		return nil, err
	}
	st, err := f.read(ctx, func(d *Database) bool { return d.Wave == number })
	if err != nil {
		return nil, err
	}
	found := false
	for _, d := range st.Databases {
		found = found || d.Wave == number && d.Phase == migration.Switched
	}
	if !found {
		return nil, gate("`walferry fleet status` shows where each is; a way back is kept with fall-back: auto or require", "no database of wave %d has a way back", number)
	}
	return f.each(ctx, number, st, c, part{ask: migration.Fallback, done: func(p migration.Phase) bool { return p != migration.Switched }})
}

// part is what is asked of each database of a wave.
type part struct {
	ask       func(context.Context, migration.Config, func(string)) (*migration.CutoverResult, error)
	done      func(migration.Phase) bool
	stopAfter int // 0: never
	window    *Window
	now       func() time.Time
}

// each asks the databases of a wave: those of one source one after the other, as they may share their clients' poolers.
func (f *Fleet) each(ctx context.Context, number int, st *Status, c SwitchConfig, p part) (*Switched, error) {
	s := &Switched{Wave: number, errors: map[string]error{}, Databases: []SwitchedOne{}}
	at := map[string][]*SwitchedOne{} // by source
	databases := map[string]*Database{}
	for _, d := range f.In(number) {
		s.Databases = append(s.Databases, SwitchedOne{Name: d.Name, State: "left"})
		databases[d.Name] = d
	}
	var mu sync.Mutex
	left := func() bool {
		mu.Lock()
		defer mu.Unlock()
		return p.stopAfter > 0 && s.Failed >= p.stopAfter || p.window != nil && !p.window.Open(p.now()) || ctx.Err() != nil
	}
	for i := range s.Databases {
		one := &s.Databases[i]
		switch now := st.of(one.Name); {
		case p.done(now.Phase):
			one.State = "already"
		case now.Phase == migration.Following && now.Running, now.Phase == migration.Switched && now.Running:
			at[databases[one.Name].From.ID] = append(at[databases[one.Name].From.ID], one)
		}
	}
	var group errgroup.Group
	for _, list := range at {
		group.Go(func() error {
			for _, one := range list {
				if left() {
					return nil
				}
				config := databases[one.Name].Config
				config.Cut.DryRun = c.DryRun
				result, err := p.ask(ctx, config, func(text string) {
					if c.Step != nil {
						c.Step(one.Name, text)
					}
				})
				mu.Lock()
				one.report(result, err)
				if err != nil {
					s.Failed++
					s.errors[one.Name] = err
				}
				mu.Unlock()
			}
			return nil
		})
	}
	group.Wait() //nolint:errcheck // what has failed is in the result
	for _, one := range s.Databases {
		if one.State == "left" {
			s.Left++
		}
	}
	return s, s.verdict(ctx)
}

func (one *SwitchedOne) report(result *migration.CutoverResult, err error) {
	one.State = "done"
	if result != nil {
		one.PauseMS = &result.PauseMS
	}
	if err != nil {
		one.State, one.Error = "failed", oneLine(err)
	}
}

// verdict is the error of a wave that is not switched whole: its kind is that of the first database that has failed.
func (s *Switched) verdict(ctx context.Context) error {
	if s.Failed == 0 && s.Left == 0 {
		return nil
	}
	if s.Failed == 0 && ctx.Err() != nil {
		return &fail.Error{Kind: fail.Stopped, Problem: fmt.Sprintf("stopped by a signal; %d of wave %d were left as they are", s.Left, s.Wave), Advice: "the same command goes on"}
	}
	kind, texts := fail.Gate, []string{}
	for _, one := range s.Databases {
		if err := s.errors[one.Name]; err != nil {
			texts = append(texts, one.Name+": "+oneLine(err))
			switch {
			case fail.Is(err, fail.Difference):
				kind = fail.Difference
			case !fail.Is(err, fail.Gate):
				kind = fail.Run
			}
		}
	}
	problem := fmt.Sprintf("%d of wave %d have failed, %d were left as they are", s.Failed, s.Wave, s.Left)
	if len(texts) > 0 {
		problem += ": " + strings.Join(texts, "; ")
	}
	return &fail.Error{Kind: kind, Problem: problem, Advice: "see to what has failed, then give the same command again: those that are switched stay so"}
}

// conduct cuts over the waves that do not wait to be asked for. One in which a cutover has failed is for a person to look at, also after a
// restart: what has failed is in the records of the migrations.
func (r *runner) conduct(ctx context.Context) {
	over := map[int]bool{}
	for ctx.Err() == nil {
		for _, w := range r.fleet.Load().Waves {
			if w.Approve == Auto && !over[w.Number] && w.Window.Open(time.Now()) && ctx.Err() == nil {
				over[w.Number] = r.cutOver(ctx, w)
			}
		}
		wait.Sleep(ctx, conductEvery) //nolint:errcheck // the loop looks
	}
}

// cutOver cuts a wave over, if it can be now. It reports whether there is nothing more to do.
func (r *runner) cutOver(ctx context.Context, w *Wave) bool {
	log := r.c.Logger.With("wave", w.Number)
	s, err := r.fleet.Load().Cutover(ctx, w.Number, SwitchConfig{Unasked: true}) // the migrations log their steps
	switch {
	case ctx.Err() != nil:
		return false
	case s == nil && fail.Is(err, fail.Gate):
		return false // not yet
	case s == nil:
		log.Warn("look whether the wave can be cut over: " + oneLine(err))
		return false
	case s.Failed > 0:
		log.Error(oneLine(err), "hint", fmt.Sprintf("`walferry fleet cutover --wave %d` tries again", w.Number))
	case s.Left > 0:
		return false // its window has closed
	default:
		log.Info("the wave is cut over")
	}
	return true
}

// conductEvery is how often waves are looked at that do not wait to be asked for.
const conductEvery = 3 * time.Second

// Abort gives one migration up.
func (f *Fleet) Abort(ctx context.Context, name string) error {
	d, err := f.Find(name)
	if err != nil {
		return err
	}
	return migration.Abort(ctx, d.Config)
}

// Done is what has become of a database that something was done to.
type Done struct {
	Name  string
	Other string // why nothing was done; empty: it was
	Err   error
}

// Each calls do for every database of a wave that is in one of some phases, one after the other, and goes on where one fails.
func (f *Fleet) Each(ctx context.Context, number int, phases []migration.Phase, do func(*Database) error) (all []Done, err error) {
	if _, err := f.wave(number); err != nil {
		return nil, err
	}
	st, err := f.read(ctx, func(d *Database) bool { return d.Wave == number })
	if err != nil {
		return nil, err
	}
	for _, d := range f.In(number) {
		one := Done{Name: d.Name}
		switch now := st.of(d.Name); {
		case ctx.Err() != nil:
			return all, context.Cause(ctx)
		case now.Phase == "" && now.Error != "":
			one.Err = errors.New(now.Error)
		case !slices.Contains(phases, now.Phase):
			one.Other = now.state()
		default:
			one.Err = do(d)
		}
		all = append(all, one)
	}
	return all, nil
}
