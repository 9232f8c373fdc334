package status

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/walferry/walferry/internal/online"
	"github.com/walferry/walferry/internal/state"
)

// Request is what the running migrate was asked for and has not answered, or a cutover that it makes by
// itself.
type Request struct {
	Kind string `json:"kind"` // cutover, fallback, rehearsal of either, verify, finish, abort

	// AskedSeconds is how long ago it was asked for; nil: nobody has.
	AskedSeconds *float64 `json:"asked_seconds"`
	Begun        bool     `json:"begun"` // otherwise it waits for those before it, or, with holders, has not asked yet

	Step    string   `json:"step,omitempty"`      // of a cutover or rehearsal that has begun
	For     string   `json:"waits_for,omitempty"` // what it waits for, up to the holders
	Holders []Holder `json:"holders"`             // whom it waits for
}

// Holder is a session that is waited for. What the role may not see of it is empty or null.
type Holder struct {
	PID         int32    `json:"pid"` // 0: a prepared transaction
	Role        string   `json:"role"`
	Application string   `json:"application"`
	Seconds     *float64 `json:"transaction_seconds"`
	State       string   `json:"state"`
	Statement   string   `json:"statement"` // its kind, such as UPDATE
}

// Holding is for whom it waits, for people; empty: it is not known to wait.
func (r *Request) Holding() string {
	if len(r.Holders) == 0 {
		return ""
	}
	w := online.Wait{For: r.For}
	for _, h := range r.Holders {
		holder := online.Holder{PID: h.PID, User: h.Role, Application: h.Application, Seconds: -1, State: h.State, Query: h.Statement}
		if h.Seconds != nil {
			holder.Seconds = *h.Seconds
		}
		w.Holders = append(w.Holders, holder)
	}
	return w.String()
}

// readRequests reads what the running migrate was asked for.
func (st *Status) readRequests(ctx context.Context, s *state.Store, r *state.Record) error {
	open, err := s.Mailbox().Open(ctx)
	if err == nil {
		kind := "cutover"
		if r.Phase == state.Switched {
			kind = "fallback"
		}
		st.Requests = requests(open, r.Live.Under, kind)
	}
	return err
}

// requests puts together what was asked and what is under way: a switch of a kind. What waits before it asks is last.
func requests(open []state.Open, under *state.Under, kind string) []Request {
	list := []Request{}
	var before []Request // that are not asked yet
	for _, o := range open {
		r := Request{Kind: o.What(), AskedSeconds: &o.Seconds, Begun: o.Taken, For: o.WaitsFor, Holders: holders(o.Holders)}
		switch {
		case o.Kind == "release": // which lets the applier go on
		case len(o.Holders) > 0:
			before = append(before, r)
		default:
			list = append(list, r)
		}
	}
	return append(addUnder(list, under, kind), before...)
}

// addUnder adds the switch that is under way to what was asked.
func addUnder(list []Request, under *state.Under, kind string) []Request {
	if under == nil {
		return list
	}
	if under.DryRun {
		kind = "rehearsal"
	}
	at := slices.IndexFunc(list, func(r Request) bool { return r.Begun && r.Kind == kind })
	if at < 0 && under.Asked {
		return list // it was answered since the runner has said so
	}
	if at < 0 {
		list, at = slices.Insert(list, 0, Request{Kind: kind, Begun: true, Holders: []Holder{}}), 0
	}
	list[at].Step, list[at].For, list[at].Holders = under.Step, under.WaitsFor, holders(under.Holders)
	return list
}

// holders returns sessions as programs read them.
func holders(of []online.Holder) []Holder {
	list := []Holder{}
	for _, h := range of {
		holder := Holder{PID: h.PID, Role: h.User, Application: h.Application, State: h.State, Statement: h.Query}
		if h.Seconds >= 0 {
			holder.Seconds = &h.Seconds
		}
		list = append(list, holder)
	}
	return list
}

// older returns holders as they are now: an age grows, whoever looked last.
func older(u *state.Under, now time.Time) *state.Under {
	if u == nil || len(u.Holders) == 0 {
		return u
	}
	passed, aged := max(0, now.Sub(u.Looked).Seconds()), *u
	aged.Looked, aged.Holders = now, slices.Clone(u.Holders)
	for i := range aged.Holders {
		if aged.Holders[i].Seconds >= 0 {
			aged.Holders[i].Seconds += passed
		}
	}
	return &aged
}

// WaitsFor notes whom a cutover waits for, as of now.
func (st *Status) WaitsFor(w online.Wait) {
	if st.Under == nil {
		return
	}
	under := *st.Under // which others may be reading
	under.WaitsFor, under.Holders, under.Looked = w.For, w.Holders, time.Now()
	st.Under = &under
}

// Begins notes that a cutover takes a step, and for whom the one before waited does not matter any more.
func (st *Status) Begins(t state.Taken) {
	if st.Under == nil {
		return
	}
	step := t.Name
	if t.Outcome != state.Begun {
		step = cmp.Or(st.Under.Step, step)
	}
	st.Under = &state.Under{Asked: st.Under.Asked, DryRun: st.Under.DryRun, Step: step}
}
