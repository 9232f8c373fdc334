package clients

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/internal/cutover"
	"github.com/walferry/walferry/internal/fail"
	"github.com/walferry/walferry/internal/hook"
	"github.com/walferry/walferry/internal/pooler"
	"github.com/walferry/walferry/internal/session"
	"github.com/walferry/walferry/internal/state"
)

// The ways that a switch goes, as hooks are told.
const (
	Cutover  = "cutover"
	Fallback = "fallback"
)

// Steering steers the clients of a migration for its switches in one direction. It is a
// cutover.Clients.
type Steering struct {
	Config
	Name     string // of the migration
	Switch   string // Cutover or Fallback
	From, To session.End
	Store    *state.Store // has what is held
	// Other has what was held for switches in the other direction: where the pooler had its database
	// before it was led here.
	Other  *state.Store
	Phase  func() string
	Within time.Duration // that a switch may take
	Order  Order         // that a guard gets
	Times  *hook.Times   // of hooks; nil: nobody wants to know
	Logger *slog.Logger

	mu       sync.Mutex
	fleet    *pooler.Fleet
	caller   *hook.Caller
	guard    *guard
	was      map[string]pooler.Place // where the databases are; nil: not known yet
	kill     bool
	versions map[string]string // of both servers, by their connection strings
	held     *Held             // nil: nobody is
	undone   bool              // the hooks were told of it
	owes     bool              // somebody may be held still, whom nobody could let go
	teller   *hook.Teller
}

// Held is what is recorded of clients who are held.
type Held struct {
	Since    time.Time               `json:"since"`
	Switch   string                  `json:"switch"`
	DryRun   bool                    `json:"dry_run,omitempty"`
	Poolers  []string                `json:"poolers,omitempty"`  // their addresses
	Commands string                  `json:"commands,omitempty"` // that let the clients continue
	Settings pooler.Settings         `json:"settings,omitempty"` // that the poolers had
	Was      map[string]pooler.Place `json:"was,omitempty"`      // where their databases were
	To       map[string]pooler.Place `json:"to,omitempty"`       // where they are led
	Kill     bool                    `json:"kill,omitempty"`
	Hooks    bool                    `json:"hooks,omitempty"` // hooks may hold some, too
	Over     bool                    `json:"over,omitempty"`  // they were let go
}

// open makes what is needed.
func (s *Steering) open() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.caller != nil {
		return
	}
	secrets := append(s.Secrets(), session.Secrets(s.From.DSN)...)
	secrets = append(secrets, session.Secrets(s.To.DSN)...)
	s.caller = &hook.Caller{
		Hooks: s.Hooks, Secret: s.HookSecret, Timeout: s.HookTimeout, Times: s.Times, Logger: s.Logger,
		Mask: session.NewRedactor(secrets...).Text,
		Running: func(group int) {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.guard.hook(group)
		},
	}
	var names []string
	for _, d := range s.Databases {
		name, _, err := parseDatabase(d)
		if err == nil { // which Validate has made sure of
			names = append(names, name)
		}
	}
	s.fleet = pooler.New(s.PgBouncer, names, s.Files)
}

// Tell tells hooks what they cannot change, and does not wait for them. It must not be called while or after Close is.
func (s *Steering) Tell(e hook.Event, reason string) {
	if len(s.Hooks) == 0 {
		return
	}
	p := s.payload(e, cutover.Moment{})
	p.Switch, p.Reason = "", reason
	s.tell(p)
}

// TellHanded tells hooks that tables have another owner: those that the clients come from, and go to, are the servers of that switch.
func (s *Steering) TellHanded(kind string, tables []string) {
	if len(s.Hooks) == 0 {
		return
	}
	p := s.payload(hook.Handed, cutover.Moment{})
	if p.Tables = tables; p.Switch != kind {
		p.Switch, p.Source, p.Target = kind, p.Target, p.Source
	}
	s.tell(p)
}

func (s *Steering) tell(p hook.Payload) {
	s.open()
	s.mu.Lock()
	if s.teller == nil {
		s.teller = hook.NewTeller(s.caller)
	}
	s.mu.Unlock()
	s.teller.Tell(p)
}

// Close waits for hooks that are being told, and closes connections. What is held stays so.
func (s *Steering) Close() {
	if s.teller != nil {
		s.teller.Close(2 * cmp.Or(s.HookTimeout, hook.DefaultTimeout))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fleet != nil {
		s.fleet.Close()
	}
}

func (s *Steering) holdTimeout() time.Duration { return cmp.Or(s.HoldTimeout, 5*time.Second) }

// payload is what hooks are told at a moment of a switch.
func (s *Steering) payload(e hook.Event, m cutover.Moment) hook.Payload {
	p := hook.Payload{
		Event: e, Name: s.Name, Switch: s.Switch, DryRun: m.DryRun, Source: s.server(s.From), Target: s.server(s.To),
		LagMS: m.LagMS, PauseMS: m.PauseMS, Steps: m.Steps,
	}
	if s.Phase != nil {
		p.Phase = s.Phase()
	}
	if m.LSN != nil {
		lsn := m.LSN.String()
		p.LSN = &lsn
	}
	if m.Why != nil {
		p.Reason = m.Why.Error()
	}
	return p
}

func (s *Steering) server(e session.End) (server hook.Server) {
	if cfg, err := session.Parse(e.DSN); err == nil {
		server = hook.Server{Host: cfg.Host, Port: int(cfg.Port), DBName: cfg.Database}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if v, known := s.versions[e.DSN]; known {
		server.Version = &v
	}
	return server
}

// ask asks both servers for their versions.
func (s *Steering) ask(ctx context.Context) error {
	for _, e := range []session.End{s.From, s.To} {
		err := e.Link.Do(ctx, func(conn *pgx.Conn) error {
			version, _, _ := strings.Cut(conn.PgConn().ParameterStatus("server_version"), " ")
			s.mu.Lock()
			defer s.mu.Unlock()
			if s.versions == nil {
				s.versions = map[string]string{}
			}
			s.versions[e.DSN] = version
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// major returns the major version of a server; 0: it was not asked.
func (s *Steering) major(e session.End) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	version := s.versions[e.DSN]
	end := strings.IndexFunc(version, func(r rune) bool { return r < '0' || r > '9' }) // 19beta1 is 19
	if end < 0 {
		end = len(version)
	}
	n, _ := strconv.Atoi(version[:end])
	return n
}

// Ready is a gate.
func (s *Steering) Ready(ctx context.Context, m cutover.Moment) error {
	s.open()
	if err := s.ask(ctx); err != nil {
		return err
	}
	if s.owing() {
		return &fail.Error{Kind: fail.Gate, Problem: "clients of a switch that was undone may still be held", Advice: "the log says why, and what lets them continue; it is tried again and again"}
	}
	if len(s.PgBouncer) > 0 {
		problems, err := s.inspect(ctx)
		if err != nil {
			return err
		}
		var seen, do []string
		for _, p := range problems {
			if p.Blocks {
				seen, do = append(seen, p.On+": "+p.Seen), append(do, p.Do)
			} else {
				m.Tell("PgBouncer at " + p.On + ": " + p.Seen + "; " + p.Do)
			}
		}
		if len(seen) > 0 {
			return &fail.Error{Kind: fail.Gate, Problem: "clients cannot be held at PgBouncer: " + strings.Join(seen, "; "), Advice: strings.Join(do, "; ")}
		}
	}
	return refused(s.caller.Call(ctx, s.payload(hook.Check, m)))
}

// refused makes a gate of what a hook does not agree to.
func refused(err error) error {
	if err == nil {
		return nil
	}
	return &fail.Error{Kind: fail.Gate, Problem: err.Error(), Advice: fail.Hint(err), Err: err}
}

// Hold keeps the clients waiting. Before it does, it records what is to be done to let them go, and
// starts a guard that does it if this process dies.
func (s *Steering) Hold(ctx context.Context, m cutover.Moment) (since time.Time, err error) {
	if err := s.prepare(ctx, m); err != nil {
		return since, err
	}
	since = time.Now()
	soon, cancel := context.WithTimeoutCause(ctx, s.holdTimeout(), fmt.Errorf("not within %s (--hold-timeout)", s.holdTimeout()))
	defer cancel()
	if err := s.caller.Call(soon, s.payload(hook.Hold, m)); err != nil {
		return since, refused(err)
	}
	return since, s.fleet.Hold(soon)
}

// prepare is what Hold does before anybody is held.
func (s *Steering) prepare(ctx context.Context, m cutover.Moment) error {
	_, to, err := s.places(ctx)
	if err != nil {
		return err
	}
	h := &Held{Since: time.Now(), Switch: s.Switch, DryRun: m.DryRun, Hooks: len(s.Hooks) > 0, To: to}
	if len(s.PgBouncer) > 0 {
		var before Held
		if _, err := s.Store.Values().Get(ctx, state.Clients, &before); err != nil {
			return err
		}
		if h.Settings, err = s.fleet.Originals(ctx, before.Settings); err != nil {
			return err
		}
		h.Poolers, h.Commands, h.Was, h.Kill = s.fleet.Addresses(), s.fleet.Commands(), s.was, s.kill
		m.Tell("to let the clients continue by hand, in PgBouncer's console:\n" + h.Commands)
	}
	g, err := startGuard(ctx, s.Guard, s.Order)
	if err != nil {
		return &fail.Error{Kind: fail.Gate, Problem: "nobody would let the clients go if walferry died: " + err.Error(), Advice: "see the log"}
	}
	s.mu.Lock()
	s.guard = g
	s.mu.Unlock()
	if err := s.record(ctx, h); err != nil {
		s.endGuard()
		return err
	}
	s.mu.Lock()
	s.held, s.undone = h, false
	s.mu.Unlock()
	return nil
}

func (s *Steering) record(ctx context.Context, h *Held) error {
	return s.Store.Values().Put(ctx, state.Clients, h)
}

// Fenced tells hooks.
func (s *Steering) Fenced(ctx context.Context, m cutover.Moment) error {
	return refused(s.caller.Call(ctx, s.payload(hook.Fenced, m)))
}

// Redirect leads those who are held to the other server. A rehearsal tries whether it could.
func (s *Steering) Redirect(ctx context.Context, m cutover.Moment) error {
	if err := s.caller.Call(ctx, s.payload(hook.Redirect, m)); err != nil {
		return refused(err)
	}
	if m.DryRun || len(s.PgBouncer) == 0 {
		return nil // Ready has tried the file
	}
	return s.fleet.LeadHeld(ctx, s.now().To)
}

// now is what is held.
func (s *Steering) now() Held {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.held == nil {
		return Held{}
	}
	return *s.held
}

// undoPatience is how long hooks may take, together, to undo what they did.
const undoPatience = 20 * time.Second

// TakeBack leads the clients back.
func (s *Steering) TakeBack(ctx context.Context, m cutover.Moment) error {
	return errors.Join(s.undo(ctx, m), s.back(ctx))
}

// undo tells hooks that the switch was stopped, once.
func (s *Steering) undo(ctx context.Context, m cutover.Moment) error {
	s.mu.Lock()
	told := s.undone
	s.undone = true
	s.mu.Unlock()
	if told || m.DryRun && m.Why == nil {
		return nil
	}
	within, cancel := context.WithTimeoutCause(ctx, undoPatience, fmt.Errorf("not within %s", undoPatience))
	defer cancel()
	return s.caller.Insist(within, s.payload(hook.Undo, m), m.Tell)
}

// back has the poolers lead to From again.
func (s *Steering) back(ctx context.Context) error {
	h := s.now()
	if len(h.Poolers) == 0 || h.DryRun {
		return nil
	}
	return s.fleet.Lead(ctx, h.Was, false)
}

// LetGo lets the clients continue on From. Nobody is let go who would come to To: what is written
// there would be lost.
func (s *Steering) LetGo(ctx context.Context, m cutover.Moment) error {
	h := s.now()
	if h.Since.IsZero() {
		return nil
	}
	undo := s.undo(ctx, m)
	if len(h.Poolers) > 0 {
		was := h.Was
		if h.DryRun {
			was = nil // nobody was led elsewhere
		}
		if err := s.fleet.Free(ctx, was, h.Settings, false); err != nil {
			s.owe(true)
			return fmt.Errorf("%w; by hand, when it leads to the server that is open:\n%s", err, h.Commands)
		}
	}
	p := s.payload(hook.Release, m)
	p.Open = "source"
	if err := errors.Join(append(s.caller.All(ctx, p), undo)...); err != nil {
		s.owe(true)
		return err
	}
	return s.over(ctx, h)
}

// Onward lets the clients continue on To, and tells hooks that it is open.
func (s *Steering) Onward(ctx context.Context, m cutover.Moment) error {
	s.open()
	h := s.now()
	if h.Since.IsZero() { // it is not this run that has held them
		return s.settle(ctx, true, m)
	}
	return s.onward(ctx, h, m)
}

func (s *Steering) onward(ctx context.Context, h Held, m cutover.Moment) error {
	opened := make(chan error, 1)
	// Beside it: those who are held do not wait for those who are told.
	go func() { opened <- s.caller.Insist(ctx, s.payload(hook.Opened, m), m.Tell) }()
	var err error
	for n := 0; len(h.Poolers) > 0; n++ {
		if err = s.fleet.Free(ctx, h.To, h.Settings, h.Kill); err == nil {
			break
		}
		if n == 0 {
			m.Tell(fmt.Sprintf("CLIENTS ARE STILL HELD, trying again: %v; by hand, when it leads to the server that is open:\n%s", err, h.Commands))
		}
		if pause(ctx, n) != nil {
			break
		}
	}
	if err == nil {
		p := s.payload(hook.Release, m)
		p.Open = "target"
		err = s.caller.Insist(ctx, p, m.Tell)
	}
	if err = errors.Join(err, <-opened); err != nil {
		s.owe(true)
		return err
	}
	return s.over(context.WithoutCancel(ctx), h)
}

// over records that nobody is held any more.
func (s *Steering) over(ctx context.Context, h Held) error {
	h.Over = true
	err := s.record(ctx, &h)
	s.mu.Lock()
	s.held = nil
	s.mu.Unlock()
	s.owe(false)
	s.endGuard()
	return err
}

func (s *Steering) owe(yes bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.owes = yes
}

func (s *Steering) owing() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.owes
}

func (s *Steering) endGuard() {
	s.mu.Lock()
	g := s.guard
	s.guard = nil
	s.mu.Unlock()
	g.end()
}
