package pooler

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/walferry/walferry/internal/fail"
	"github.com/walferry/walferry/internal/wait"
)

// Fleet are the instances that the clients of a database come through: each of them. A single one that
// is left out lets its clients through while the others hold theirs.
type Fleet struct {
	Consoles []*Console
	Names    []string // the databases of PgBouncer, as in its section [databases]
	Files    []string // that have them; empty: somebody else leads them elsewhere

	mu sync.Mutex // one at a time has the consoles
}

// New returns the instances at these addresses.
func New(urls, names, files []string) *Fleet {
	f := &Fleet{Names: names, Files: files}
	for _, url := range urls {
		f.Consoles = append(f.Consoles, &Console{URL: url})
	}
	return f
}

// Close closes the connections. What is held stays held.
func (f *Fleet) Close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range f.Consoles {
		c.Close()
	}
}

// each does something with every instance at the same time, and returns all errors.
func (f *Fleet) each(ctx context.Context, do func(c *Console) error) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	errs := make([]error, len(f.Consoles))
	var group errgroup.Group
	for i, c := range f.Consoles {
		group.Go(func() error {
			if errs[i] = c.connect(ctx); errs[i] == nil { // it tells what it is
				errs[i] = do(c)
			}
			return nil
		})
	}
	group.Wait() //nolint:errcheck // they are in errs
	return errors.Join(errs...)
}

// Settings are what the instances had before they were calmed, by their addresses.
type Settings map[string]map[string]string

// calm are the settings while clients are held. A PAUSE that comes while a connection logs in to the
// server makes PgBouncer take the login for failed, and all clients get that error until
// server_login_retry is over (https://github.com/pgbouncer/pgbouncer/issues/498): so nothing is to
// log in for its age, and if it happens all the same it is over at once.
var calm = map[string]string{"server_lifetime": "86400", "server_idle_timeout": "86400", "server_login_retry": "0"}

// Originals reads what Calm replaces. An instance that is calm already, since somebody has died, has
// its originals in before.
func (f *Fleet) Originals(ctx context.Context, before Settings) (Settings, error) {
	all := Settings{}
	var mu sync.Mutex
	err := f.each(ctx, func(c *Console) error {
		now, err := c.settings(ctx)
		if err != nil {
			return err
		}
		own := map[string]string{}
		for name := range calm {
			own[name] = now[name]
		}
		mu.Lock()
		defer mu.Unlock()
		if was := before[c.Address()]; was != nil && maps.EqualFunc(own, calm, func(a, b string) bool { return strings.TrimSuffix(a, ".0") == b }) {
			own = was
		}
		all[c.Address()] = own
		return nil
	})
	return all, err
}

// loginPatience is how long Hold waits for connections that log in.
const loginPatience = time.Second

// Hold has all clients wait, and returns when no transaction of theirs is open and they do. It waits for open
// transactions until ctx ends. After an error some may be held: Release.
func (f *Fleet) Hold(ctx context.Context) error {
	return f.each(ctx, func(c *Console) error {
		err := f.hold(ctx, c)
		if err == nil || ctx.Err() == nil {
			return err
		}
		return &fail.Error{
			Kind: fail.Gate, Problem: fmt.Sprintf("PgBouncer at %s did not hold its clients in time (%v): most likely a transaction of theirs is open for longer", c.Address(), context.Cause(ctx)),
			Advice: "end it, or ask again when there is none so long; --hold-timeout is how long clients may be kept waiting for it", Err: err,
		}
	})
}

// hold is Hold at one instance.
func (f *Fleet) hold(ctx context.Context, c *Console) error {
	if c.dog {
		return c.dogHold(ctx, f.Names)
	}
	for name, value := range calm {
		if err := c.set(ctx, name, value); err != nil {
			return err
		}
	}
	soon, cancel := context.WithTimeout(ctx, loginPatience)
	defer cancel()
	err := wait.Until(soon, wait.Every(5*time.Millisecond), func() (bool, error) {
		for _, name := range f.Names {
			if n, err := c.logins(ctx, name); err != nil || n > 0 {
				return false, err
			}
		}
		return true, nil
	})
	if err != nil && soon.Err() == nil {
		return err
	}
	for _, name := range f.Names {
		if _, err := c.run(ctx, "pause "+identifier(name)); err != nil {
			return err
		}
	}
	return f.paused(ctx, c)
}

func (f *Fleet) paused(ctx context.Context, c *Console) error {
	if c.dog {
		return nil // it does not say
	}
	for _, name := range f.Names {
		e, err := c.entry(ctx, name)
		if err != nil {
			return err
		}
		if e == nil || !e.paused {
			return fmt.Errorf("PgBouncer at %s does not hold the clients of %s any more: it was restarted, or somebody else has resumed them", c.Address(), name)
		}
	}
	return nil
}

// Lead makes sure that the databases are in their places: in the files, if there are any, and in
// every instance. again is false where nothing is to be read again if everything is as it ought to be.
func (f *Fleet) Lead(ctx context.Context, places map[string]Place, again bool) error {
	changed, err := f.write(places)
	if err != nil {
		return err
	}
	return f.each(ctx, func(c *Console) error { return f.lead(ctx, c, places, again || changed) })
}

// LeadHeld is Lead for clients who must not get through: an instance that does not hold them, as it was restarted, is
// an error.
func (f *Fleet) LeadHeld(ctx context.Context, places map[string]Place) error {
	if err := f.each(ctx, func(c *Console) error { return f.paused(ctx, c) }); err != nil {
		return err
	}
	if err := f.Lead(ctx, places, true); err != nil {
		return err
	}
	return f.each(ctx, func(c *Console) error { return f.paused(ctx, c) })
}

// Free makes sure that the databases are in their places and lets the clients continue, at each instance for which that can be
// done: one that is down keeps nobody waiting at the others. places is nil if they were never led elsewhere. See Release for the
// rest.
func (f *Fleet) Free(ctx context.Context, places map[string]Place, before Settings, kill bool) error {
	ctx, cancel := context.WithTimeoutCause(ctx, freePatience, fmt.Errorf("no answer in %s", freePatience))
	defer cancel()
	var changed bool
	var unwritten error
	if places != nil {
		changed, unwritten = f.write(places)
	}
	return errors.Join(unwritten, f.each(ctx, func(c *Console) error {
		if places != nil {
			if err := f.lead(ctx, c, places, changed); err != nil {
				return err
			}
		}
		return f.release(ctx, c, before[c.Address()], kill)
	}))
}

// freePatience is how long one attempt to let clients continue may take.
const freePatience = 10 * time.Second

// write changes the files, if there are any, and reports whether one was not as it ought to be.
func (f *Fleet) write(places map[string]Place) (changed bool, err error) {
	if len(f.Files) == 0 {
		return false, nil
	}
	files, err := placeIn(f.Files, places, false)
	if err != nil {
		err = fmt.Errorf("lead PgBouncer's clients elsewhere: %w", err)
	}
	return len(files) > 0, err
}

// lead is Lead at one instance, whose file is as it ought to be.
func (f *Fleet) lead(ctx context.Context, c *Console, places map[string]Place, again bool) error {
	if wrong, err := f.misplaced(ctx, c, places); err != nil || wrong == nil && !again {
		return err
	}
	// What it says of the RELOAD decides nothing: 1.18 does not say that it has failed, and a failure is of no importance where
	// everything is in its place, as it is after a redirect that has failed.
	_, failed := c.run(ctx, "reload")
	if err := c.set(ctx, "server_login_retry", calm["server_login_retry"]); err != nil { // which the RELOAD has reset
		return errors.Join(failed, err)
	}
	wrong, err := f.misplaced(ctx, c, places)
	if wrong != nil {
		wrong = errors.Join(failed, wrong)
	}
	return errors.Join(err, wrong)
}

// MisplacedError says that an instance has a database in another place than it ought to.
type MisplacedError struct {
	Address, Name string
	Is, Want      Place
}

func (e *MisplacedError) Error() string {
	return fmt.Sprintf("PgBouncer at %s has %s at %s, not at %s: it has not read its file, or another one", e.Address, e.Name, e.Is, e.Want)
}

// Hint returns what the operator can do.
func (e *MisplacedError) Hint() string {
	return "its own log says what RELOAD did not like; the file that it reads is in SHOW CONFIG, conffile"
}

// misplaced returns an error for a database that is elsewhere; nil: none is.
func (f *Fleet) misplaced(ctx context.Context, c *Console, places map[string]Place) (wrong, err error) {
	for _, name := range f.Names {
		e, err := c.entry(ctx, name)
		if err != nil {
			return nil, err
		}
		if e == nil {
			return fmt.Errorf("PgBouncer at %s has no database %s any more", c.Address(), name), nil
		}
		want := places[name]
		if c.dog {
			want.DBName = "" // which it does not show
		}
		if e.Place != want {
			return &MisplacedError{c.Address(), name, e.Place, want}, nil
		}
	}
	return nil, nil
}

// Release lets the clients continue, and the instances have their settings again. Before it everything has to
// be in its place: Lead. kill ends the connections of all clients first, each with an error.
func (f *Fleet) Release(ctx context.Context, before Settings, kill bool) error {
	return f.each(ctx, func(c *Console) error { return f.release(ctx, c, before[c.Address()], kill) })
}

func (f *Fleet) release(ctx context.Context, c *Console, before map[string]string, kill bool) error {
	for _, name := range f.Names {
		if err := c.resume(ctx, name, kill); err != nil {
			return err
		}
	}
	for name, value := range before {
		if value == "" {
			continue
		}
		if err := c.set(ctx, name, value); err != nil {
			return err
		}
	}
	return nil
}

// resume resumes a database, if it is paused.
func (c *Console) resume(ctx context.Context, name string, kill bool) error {
	if c.dog {
		_, err := c.run(ctx, "maintenance off")
		return err
	}
	e, err := c.entry(ctx, name)
	if err != nil || e == nil || !e.paused {
		return err
	}
	if kill {
		if _, err := c.run(ctx, "kill "+identifier(name)); err != nil {
			return err
		}
	}
	if _, err := c.run(ctx, "resume "+identifier(name)); err != nil {
		return err
	}
	if e, err = c.entry(ctx, name); err == nil && e != nil && e.paused {
		err = fmt.Errorf("PgBouncer at %s still holds the clients of %s", c.Address(), name)
	}
	return err
}

// Commands are what an operator types into the consoles to let the clients continue.
func (f *Fleet) Commands() string {
	var lines []string
	for _, c := range f.Consoles {
		if c.dog {
			lines = append(lines, fmt.Sprintf("at %s: MAINTENANCE OFF;", c.Address()))
			continue
		}
		for _, name := range f.Names {
			lines = append(lines, fmt.Sprintf("at %s: RESUME %s;", c.Address(), identifier(name)))
		}
	}
	return strings.Join(lines, "\n")
}

// Addresses are those of the instances.
func (f *Fleet) Addresses() (addresses []string) {
	for _, c := range f.Consoles {
		addresses = append(addresses, c.Address())
	}
	slices.Sort(addresses)
	return addresses
}
