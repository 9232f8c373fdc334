// Package hook calls programs and addresses of the operator's at the moments of a migration, so that
// what walferry does not know (a pooler, DNS, a Kubernetes Service, a chat) is switched with it.
//
// A program is run without a shell, in a process group of its own, with the payload on its stdin; to
// an address the payload is posted. Exit code 0, or a status of 2xx, agrees. They are called one
// after the other in the order in which they were given, until the first that does not agree.
package hook

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"strings"
	"time"

	"github.com/walferry/walferry/internal/fail"
	"github.com/walferry/walferry/internal/state"
	"github.com/walferry/walferry/internal/wait"
)

// Event is a moment of a migration.
type Event string

// The events. Until the seal of a switch, a hook that does not agree to Check, Hold, Fenced or
// Redirect stops it. Nothing stops the others: Undo, Opened and Release are repeated until they are
// agreed to, and the rest is only told.
const (
	Check    Event = "check"    // before anything: would you be able to?
	Hold     Event = "hold"     // keep the clients waiting; when it returns they do
	Fenced   Event = "fenced"   // From refuses writes
	Redirect Event = "redirect" // lead those who are held to To
	Opened   Event = "opened"   // To may be written to
	Release  Event = "release"  // let those who are held continue
	Undo     Event = "undo"     // the switch was stopped before its seal: take back what Redirect did

	Phase    Event = "phase"    // the migration has come to another phase
	Finished Event = "finished" // it has ended
	Aborted  Event = "aborted"  // it was given up
	Alert    Event = "alert"    // something needs an operator
	Handed   Event = "handed"   // Target owns a group of tables now, beside what Source owns
)

// Version is that of the payload. It grows when a field changes its meaning or goes, not when one
// is added.
const Version = 1

// Payload is what a hook is told. What is not known is null.
type Payload struct {
	Version  int        `json:"version"`
	Event    Event      `json:"event"`
	Name     string     `json:"name"`                // of the migration
	Switch   string     `json:"switch,omitempty"`    // cutover or fallback; empty: it belongs to none
	Attempt  int        `json:"attempt"`             // 1, and more if it is repeated
	DryRun   bool       `json:"dry_run"`             // a check or a rehearsal: hold and release as usual, redirect nothing
	At       time.Time  `json:"at"`                  // when it was made
	Deadline *time.Time `json:"deadline"`            // when it is given up
	Source   Server     `json:"source"`              // that the clients come from
	Target   Server     `json:"target"`              // that they go to
	Open     string     `json:"open_side,omitempty"` // of release: source or target, the one that may be written to
	Phase    string     `json:"phase"`               // of the migration
	Reason   string     `json:"reason,omitempty"`    // of undo, aborted and alert
	LSN      *string    `json:"lsn"`                 // of the fence
	LagMS    *int64     `json:"lag_ms"`              // as the switch has measured it
	PauseMS  *int64     `json:"pause_ms"`            // for which writes have been refused until now
	Steps    []Step     `json:"steps"`               // of the switch, as far as they were begun
	Tables   []string   `json:"tables,omitempty"`    // of handed: schema.table, with partitions
}

// Step is a step of the switch.
type Step = state.Taken

// Server is one of the two, without its password.
type Server struct {
	Host    string  `json:"host"`
	Port    int     `json:"port"`
	DBName  string  `json:"dbname"`
	Version *string `json:"version"`
}

// DefaultTimeout is how long a hook may take if nothing else was said.
const DefaultTimeout = 10 * time.Second

// Caller calls hooks.
type Caller struct {
	Hooks   []string // paths, or addresses that begin with http:// or https://
	Secret  []byte   // signs what is posted; empty: it is not signed
	Timeout time.Duration
	Logger  *slog.Logger
	Mask    func(string) string // masks secrets in what a hook prints or answers

	Times *Times // is told how long each call has taken; nil: nobody wants to know
	// Running is told the process group of a program when it begins, and 0 when it has ended. nil:
	// nobody wants to know.
	Running func(group int)
}

// Validate returns an error of kind fail.Usage if a hook cannot be called.
func Validate(hooks []string) error {
	for _, h := range hooks {
		if err := validate(h); err != nil {
			return &fail.Error{Kind: fail.Usage, Problem: "--hook " + Show(h) + ": " + err.Error(), Advice: "give the path of a program, or an address that begins with https:// or http://"}
		}
	}
	return nil
}

func validate(hook string) error {
	if !isAddress(hook) {
		return findProgram(hook)
	}
	u, err := url.Parse(hook)
	if err == nil && u.Host == "" {
		err = fmt.Errorf("it has no host")
	} else if err != nil {
		err = fmt.Errorf("it cannot be read as an address") // the library's error quotes it
	}
	return err
}

func isAddress(hook string) bool {
	return strings.HasPrefix(hook, "http://") || strings.HasPrefix(hook, "https://")
}

// Show names a hook without what may be secret in an address.
func Show(hook string) string {
	if !isAddress(hook) {
		return hook
	}
	u, err := url.Parse(hook)
	if err != nil {
		return "(an address)"
	}
	// The path of a webhook is often its secret.
	return u.Scheme + "://" + u.Host + "/…"
}

// RefusedError says that a hook did not agree.
type RefusedError struct {
	Hook  string
	Event Event
	Err   error
}

func (e *RefusedError) Error() string {
	return fmt.Sprintf("hook %s does not agree to %s: %v", Show(e.Hook), e.Event, e.Err)
}

func (e *RefusedError) Unwrap() error { return e.Err }

// Hint returns what the operator can do.
func (e *RefusedError) Hint() string { return "the log has what it printed; mend it, or leave it out" }

// None reports whether there is no hook.
func (c *Caller) None() bool { return c == nil || len(c.Hooks) == 0 }

// Call calls the hooks in their order, until one does not agree.
func (c *Caller) Call(ctx context.Context, p Payload) error {
	if c.None() {
		return nil
	}
	for _, h := range c.Hooks {
		if err := c.call(ctx, h, p); err != nil {
			return err
		}
	}
	return nil
}

// All calls every hook, and returns the errors of those that do not agree.
func (c *Caller) All(ctx context.Context, p Payload) (errs []error) {
	if c.None() {
		return nil
	}
	for _, h := range c.Hooks {
		if err := c.call(ctx, h, p); err != nil {
			errs = append(errs, err)
		}
	}
	return errs
}

// insistPauses are the pauses between the attempts of Insist, and waitedPause is the longest while clients wait for its end.
var insistPauses = wait.Pauses{First: 250 * time.Millisecond, Longest: 15 * time.Second, Random: true}

const waitedPause = 2 * time.Second

// Insist calls the hooks until each has agreed, or ctx ends. One that does not agree keeps no other from being called. tell is told of
// what has failed.
func (c *Caller) Insist(ctx context.Context, p Payload, tell func(string)) error {
	if c.None() {
		return nil
	}
	pauses := insistPauses
	if p.Event == Release || p.Event == Undo {
		pauses.Longest = waitedPause
	}
	left := c.Hooks
	p.Attempt = 0
	var failed []error
	err := wait.Again(ctx, pauses, func() error {
		p.Attempt++
		var again []string
		failed = nil
		for _, h := range left {
			if err := c.call(ctx, h, p); err != nil {
				again, failed = append(again, h), append(failed, err)
			}
		}
		left = again
		return errors.Join(failed...)
	}, func(error) bool { return true }, func(_ error, pause time.Duration) {
		for _, err := range failed {
			tell(fmt.Sprintf("%v; again in %s", err, pause.Round(100*time.Millisecond)))
		}
	})
	if err != nil {
		shown := make([]string, len(left))
		for i, h := range left {
			shown[i] = Show(h)
		}
		return fmt.Errorf("hook %s has not agreed to %s: %w", strings.Join(shown, ", "), p.Event, err)
	}
	return nil
}

// call calls one hook.
func (c *Caller) call(ctx context.Context, hook string, p Payload) error {
	ctx, cancel := context.WithTimeout(ctx, c.timeout())
	defer cancel()
	p.Version, p.At, p.Attempt = Version, time.Now(), max(1, p.Attempt)
	if deadline, ok := ctx.Deadline(); ok {
		p.Deadline = &deadline
	}
	if p.Steps == nil {
		p.Steps = []Step{}
	}
	body, err := json.Marshal(p)
	if err != nil {
		return err
	}
	began := time.Now()
	if isAddress(hook) {
		err = c.post(ctx, hook, p, body)
	} else {
		err = c.run(ctx, hook, p, body)
	}
	c.Times.observe(p.Event, time.Since(began))
	if err != nil {
		return &RefusedError{Hook: hook, Event: p.Event, Err: err}
	}
	c.Logger.Debug("hook agreed", "hook", Show(hook), "event", string(p.Event), "ms", time.Since(began).Milliseconds())
	return nil
}

func (c *Caller) timeout() time.Duration {
	if c.Timeout > 0 {
		return c.Timeout
	}
	return DefaultTimeout
}

// mask masks secrets, and keeps what is printed to one line.
func (c *Caller) mask(text string) string {
	if c.Mask != nil {
		text = c.Mask(text)
	}
	return strings.Join(strings.Fields(text), " ")
}
