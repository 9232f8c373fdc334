// Package ready looks at the gates of a cutover from outside, as far as that can be done without changing anything: whoever decides sees
// them before asking for one. A cutover looks again.
package ready

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/walferry/walferry/internal/cutover"
	"github.com/walferry/walferry/internal/definitions"
	"github.com/walferry/walferry/internal/fail"
	"github.com/walferry/walferry/internal/identity"
	"github.com/walferry/walferry/internal/session"
	"github.com/walferry/walferry/internal/state"
	"github.com/walferry/walferry/internal/status"
)

// Gate is a condition of a cutover, under the name that its step has.
type Gate struct {
	Name string `json:"name"`
	OK   *bool  `json:"ok"`   // nil: only the cutover, or its rehearsal, finds out
	Says string `json:"says"` // what was seen
	Do   string `json:"do"`   // what can be done about it
}

// Report is what was found.
type Report struct {
	For   string `json:"for"`   // cutover or fallback: what may be asked for
	Ready bool   `json:"ready"` // nothing is known that would refuse it
	Gates []Gate `json:"gates"`
	// LookedAt is when both servers were looked at; nil: they were not. The gates that follow from the status are as of now.
	LookedAt *time.Time `json:"looked_at"`
}

// Looked is what a look at both servers has found.
type Looked struct {
	At     time.Time
	MaxLag time.Duration // that a cutover allows
	Gates  []Gate        // nil: the migration does not follow
}

// defaultMaxLag is that of a cutover that is given none.
const defaultMaxLag = 5 * time.Second

// Now puts together what follows from a status with what a look has found; nil: nobody has looked.
func Now(st *status.Status, looked *Looked) Report {
	if st.Phase == state.Switched {
		return back(st)
	}
	r := Report{For: "cutover"}
	maxLag := defaultMaxLag
	if looked != nil && looked.MaxLag > 0 {
		maxLag = looked.MaxLag
	}
	if st.Phase != state.Following {
		r.Gates = []Gate{phaseGate(st)}
		return r.conclude()
	}
	r.Gates = append(r.Gates, phaseGate(st), lagGate(cutover.GateLag, st.Source.Error, st.Stream.LagSeconds, maxLag), comparedGate(st))
	if looked != nil && looked.Gates != nil {
		r.Gates = append(r.Gates, looked.Gates...)
		r.LookedAt = &looked.At
	} else {
		r.Gates = append(r.Gates, Gate{Name: cutover.GateIdentity, OK: no(), Says: "nobody has looked at both servers yet"})
	}
	r.Gates = append(r.Gates, tried(st, cutover.GateActions, "what the opening runs"), tried(st, cutover.GateSequences, "the definitions of sequences"))
	return r.conclude()
}

// conclude sets Ready.
func (r Report) conclude() Report {
	r.Ready = true
	for _, g := range r.Gates {
		r.Ready = r.Ready && (g.OK == nil || *g.OK)
	}
	return r
}

func yes() *bool { return new(true) }
func no() *bool  { return new(false) }

func phaseGate(st *status.Status) Gate {
	g := Gate{Name: cutover.GatePhase, OK: no()}
	switch {
	case st.Phase == "":
		g.Says = "there is no migration yet"
	case st.Phase == state.Finished:
		g.Says = "the migration is finished: the cutover is done"
	case st.Phase != state.Following:
		g.Says, g.Do = "the migration is in phase "+string(st.Phase)+", not following", "wait until it follows"
	case !st.Running:
		g.Says, g.Do = "no migrate is running", "`walferry migrate` resumes"
	default:
		g.OK, g.Says = yes(), "it follows"
	}
	return g
}

func lagGate(name, away string, lag *float64, most time.Duration) Gate {
	g := Gate{Name: name, OK: no()}
	switch {
	case away != "":
		g.Says = "the lag is not known: " + away
	case lag == nil:
		g.Says = "the lag is not known yet"
	case *lag > most.Seconds():
		g.Says, g.Do = fmt.Sprintf("the target lags %.1f s behind; a cutover begins below %s (--max-lag)", *lag, most), "wait until it lags less, or allow more"
	default:
		g.OK, g.Says = yes(), fmt.Sprintf("%.2f s, of at most %s", *lag, most)
	}
	return g
}

func comparedGate(st *status.Status) Gate {
	g := Gate{Name: cutover.GateCompared, OK: yes(), Says: "nobody has compared both sides (`walferry verify`)"}
	if last := st.LastComparison; last != nil {
		g.Says = fmt.Sprintf("%d tables, no difference, at %s", last.Compared, last.At.UTC().Format("2006-01-02 15:04 MST"))
		if err := last.Gate(); err != nil {
			g.OK, g.Says, g.Do = no(), err.Error(), fail.Hint(err)
		}
	}
	return g
}

// tried is a gate that changes something for a moment: what the last rehearsal has found of it.
func tried(st *status.Status, name, what string) Gate {
	g := Gate{Name: name, Says: what + ": only a rehearsal shows it (`walferry cutover --dry-run`)"}
	for i := len(st.Switches) - 1; i >= 0; i-- {
		for _, s := range st.Switches[i].Steps {
			if s.Name != name {
				continue
			}
			when := st.Switches[i].At.UTC().Format("2006-01-02 15:04 MST")
			if s.Outcome == state.Done || s.Outcome == state.Undone && st.Switches[i].Error == "" {
				g.OK, g.Says = yes(), what+": passed at "+when
			} else {
				g.Says = what + ": not passed at " + when + ": " + st.Switches[i].Error
			}
			return g
		}
	}
	return g
}

// back is what is known of the switch back.
func back(st *status.Status) Report {
	w := &st.WayBack
	phase := Gate{Name: cutover.GatePhase, OK: no(), Says: "the way back is " + string(w.State), Do: w.Do}
	switch {
	case w.State == state.BackFollowing && st.Running:
		phase.OK, phase.Says = yes(), "the old server follows"
	case w.State == state.BackFollowing:
		phase.Says, phase.Do = "no migrate is running", "`walferry migrate` resumes"
	case w.Reason != "":
		phase.Says += ": " + w.Reason
	}
	r := Report{For: "fallback", Gates: []Gate{phase, lagGate(cutover.GateLag, cmp.Or(st.Source.Error, st.Target.Error), w.Stream.LagSeconds, defaultMaxLag), comparedGate(st)}}
	if w.Unfenced != nil {
		g := Gate{Name: cutover.GateWriters, OK: yes(), Says: "the old server refuses writes"}
		if *w.Unfenced != "" {
			g.OK, g.Says = no(), "the old server accepts writes: "+*w.Unfenced
		}
		r.Gates = append(r.Gates, g)
	}
	if n := len(w.Unidentified); n > 0 {
		r.Gates = append(r.Gates, Gate{Name: cutover.GateIdentity, OK: no(), Says: fmt.Sprintf("%d tables of the new server have lost their replica identity", n), Do: w.Unidentified[0].SQL})
	}
	return r.conclude()
}

// Look looks at both servers.
func Look(ctx context.Context, source, target session.Config, name string) (*Looked, error) {
	to, err := session.OpenLink(ctx, target, nil)
	if err != nil {
		return nil, err
	}
	defer to.Close()
	store := state.At(to, name)
	var r *state.Record
	if err := store.Read(ctx, func() (err error) { r, err = store.Load(ctx); return err }); err != nil {
		return nil, err
	}
	looked := &Looked{At: time.Now().UTC().Truncate(time.Second)}
	if r == nil {
		return looked, nil
	}
	looked.MaxLag = time.Duration(r.Options.MaxLag * float64(time.Second))
	if r.Phase != state.Following {
		return looked, nil
	}
	from, err := session.OpenLink(ctx, source, nil)
	if err != nil {
		return nil, err
	}
	defer from.Close()
	return looked, looked.look(ctx, session.End{DSN: source.DSN, Link: from}, session.End{DSN: target.DSN, Link: to}, store, r)
}

// look passes the gates that change nothing.
func (l *Looked) look(ctx context.Context, from, to session.End, store *state.Store, r *state.Record) error {
	silent := slog.New(slog.DiscardHandler)
	brought := r.Options.Schema == "none"
	tables := &identity.Tables{
		From: from.Link, To: to.Link, Store: store, Looks: true, Logger: silent,
		Selection: identity.Selection{Include: r.Options.Include, Exclude: r.Options.Exclude, Brought: brought, Lenient: r.Options.OnNewTable == "ignore"},
	}
	tables.Remember(r.Tables)
	if err := tables.Select(ctx, true); err != nil {
		return err
	}
	carrier := &definitions.Carrier{From: from, To: to, Store: store, Tables: tables.Selected, Brought: brought, Step: func(string) {}, Jobs: 1, Logger: silent}
	s := &cutover.Switch{Name: store.Name(), From: from, To: to, Tables: tables.Selected}
	for _, gate := range []struct {
		name, fine string
		look       func(context.Context) error
	}{
		{cutover.GateIdentity, "tables and publications are what they were", func(ctx context.Context) error {
			_, err := tables.Gate(ctx, from.Link)
			return err
		}},
		{cutover.GateWriters, "nobody can write past the fence", s.WritersGate},
		{cutover.GateStatistics, "the target has statistics of every table", s.LookForStatistics},
		{cutover.GateSchema, "the definitions of both sides fit", func(ctx context.Context) error { return carrier.Gate(ctx, tables.Remembered(), r.Options.Without) }},
	} {
		g := Gate{Name: gate.name, OK: yes(), Says: gate.fine}
		if err := gate.look(ctx); err != nil {
			if !fail.Is(err, fail.Gate) {
				return fmt.Errorf("look at the gate %s: %w", gate.name, err)
			}
			g.OK, g.Says, g.Do = no(), err.Error(), fail.Hint(err)
			if gate.name == cutover.GateStatistics {
				g.OK = nil // which a cutover gathers
			}
		}
		l.Gates = append(l.Gates, g)
	}
	return nil
}

// Fails adds a gate that does not pass.
func (r *Report) Fails(name, says string) {
	r.Gates, r.Ready = append(r.Gates, Gate{Name: name, OK: no(), Says: says}), false
}
