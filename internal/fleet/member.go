package fleet

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/walferry/walferry/internal/check"
	"github.com/walferry/walferry/internal/fail"
	"github.com/walferry/walferry/internal/flow"
	"github.com/walferry/walferry/internal/identity"
	"github.com/walferry/walferry/internal/migration"
	"github.com/walferry/walferry/internal/session"
	"github.com/walferry/walferry/internal/state"
	"github.com/walferry/walferry/internal/wait"
	"github.com/walferry/walferry/slot"
)

// member is one migration of a run.
type member struct {
	*Database
	r    *runner
	rank int
	log  *slog.Logger
	told map[[3]string]bool // findings that were logged

	first *entry // asked before the first attempt; nil: it was not, or that is over

	mu     sync.Mutex
	copies []place // that it has
	slot   []place
	back   bool // the slot is on the target
}

// run runs the migration until it has come to its end, or ctx ends.
func (m *member) run(ctx context.Context) {
	defer m.leave()
	for failures := 0; ctx.Err() == nil; failures++ {
		began := time.Now()
		ended, err := m.attempt(ctx)
		if ended {
			return
		}
		if ctx.Err() != nil {
			return
		}
		if err == nil { // such as a migrate that another process has stopped
			err = errors.New("migrate has ended before its end")
		}
		if time.Since(began) > m.r.c.Retry.Longest {
			failures = 0 // it has worked since the last one
		}
		pause := m.r.c.Retry.After(failures)
		m.log.Error(oneLine(err), "hint", fail.Hint(err), "again_in", pause.Round(time.Second))
		if wait.Sleep(ctx, pause) != nil {
			return
		}
	}
}

// attempt runs the migration once. It reports whether that was its end.
func (m *member) attempt(ctx context.Context) (ended bool, err error) {
	e := m.first
	m.first = nil
	if e == nil {
		e = &entry{}
		if e.phase, err = m.phase(ctx); err != nil {
			return false, err
		}
	}
	phase := e.phase
	c := m.Config
	c.Logger = m.log
	if phase == migration.Finished {
		if _, err := migration.Migrate(ctx, c, migration.Observer{}); err != nil { // which does what is left
			m.log.Warn(oneLine(err), "hint", fail.Hint(err))
		}
	}
	if phase == migration.Finished || phase == migration.Aborted {
		return m.conclude(ctx, phase)
	}
	if e.waiter == nil {
		e.waiter = m.r.places.ask(m.rank, m.wants(phase))
	}
	if err := m.enter(ctx, e); err != nil {
		return false, err
	}
	watching, stop := context.WithCancel(context.WithoutCancel(ctx))
	var watched sync.WaitGroup
	outcome, err := migration.Migrate(ctx, c, migration.Observer{
		Checked: m.checked,
		Started: func(watch func() migration.Status) { watched.Go(func() { m.watch(watching, watch) }) },
	})
	stop()
	watched.Wait()
	m.rest(context.WithoutCancel(ctx))
	var blocked *migration.CheckError
	switch {
	case outcome.Stopped:
		return false, err
	case outcome.Cutover != nil && outcome.Cutover.FinishedAt != nil: // whatever err says of it
		if err != nil {
			m.log.Error(oneLine(err), "hint", fail.Hint(err))
		}
		return m.conclude(context.WithoutCancel(ctx), migration.Finished)
	case outcome.Phase == migration.Finished && err == nil:
		return m.conclude(context.WithoutCancel(ctx), migration.Finished)
	case outcome.Phase == migration.Aborted:
		if err != nil {
			m.log.Error(oneLine(err), "hint", fail.Hint(err))
		}
		return m.conclude(context.WithoutCancel(ctx), migration.Aborted)
	case errors.As(err, &blocked):
		err = &fail.Error{Kind: fail.Gate, Problem: "the preflight blocks: " + said(blocked.Report), Advice: "`walferry fleet check` says more; once that is fixed it goes on by itself", Err: err}
	}
	return false, err
}

// said is what blocks, in one line.
func said(r check.Report) string {
	var texts []string
	for _, f := range r.Findings {
		if f.Severity == check.Block {
			texts = append(texts, strings.TrimSpace(f.Object+" "+f.Seen))
		}
	}
	return strings.Join(texts, "; ")
}

func oneLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }

// checked logs what the preflight has found, once for all attempts.
func (m *member) checked(r check.Report) {
	for _, f := range r.Findings {
		key := [3]string{f.ID, f.Object, f.Seen}
		if f.Severity == check.Warn && !m.told[key] {
			m.told[key] = true
			m.log.Warn(f.Seen, "finding", f.ID, "on", f.On, "object", f.Object)
		}
	}
}

// phase is how far the migration is by its record; New if there is none.
func (m *member) phase(ctx context.Context) (phase migration.Phase, err error) {
	target, err := session.OpenLink(ctx, session.Config{DSN: m.Config.Target, Application: m.Name + " fleet"}, nil)
	if err != nil {
		return "", err
	}
	defer target.Close()
	phase = migration.New
	s := state.At(target, m.Name)
	err = s.Read(ctx, func() error {
		r, err := s.Load(ctx)
		if err == nil && r != nil {
			phase = r.Phase
		}
		return err
	})
	return phase, err
}

// copies reports whether there is work before following in a phase.
func copies(phase migration.Phase) bool {
	return slices.Contains([]migration.Phase{migration.New, migration.Prepared, migration.Copying, migration.Indexing}, phase)
}

// wants are the places that the migration needs from a phase on, and does not have.
func (m *member) wants(phase migration.Phase) (want []place) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.slot == nil {
		want = m.following(false)
	}
	if copies(phase) {
		want = append(want, m.copying()...)
	}
	return want
}

// enter waits for the places that the migration has asked for.
func (m *member) enter(ctx context.Context, e *entry) error {
	if err := m.r.places.wait(ctx, e.waiter); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.slot == nil {
		m.slot, m.back = m.following(false), false
	}
	if copies(e.phase) {
		m.copies = m.copying()
	}
	return nil
}

// watchEvery is how soon a place is free after a copy has ended.
const watchEvery = 200 * time.Millisecond

// watch gives places back as the migration goes on.
func (m *member) watch(ctx context.Context, now func() migration.Status) {
	for ctx.Err() == nil {
		switch phase := now().Phase; {
		case phase == migration.Switched:
			m.copied()
			m.moved(true)
		case phase == migration.Following:
			m.copied()
			m.moved(false)
		}
		wait.Sleep(ctx, watchEvery) //nolint:errcheck // the loop looks
	}
}

// copied gives the places of the copy back.
func (m *member) copied() {
	m.mu.Lock()
	had := m.copies
	m.copies = nil
	m.mu.Unlock()
	m.r.places.free(had)
}

// moved notes that the migration has its slot on the source, or on the target.
func (m *member) moved(back bool) {
	m.mu.Lock()
	had := m.slot
	if had != nil && m.back == back {
		m.mu.Unlock()
		return
	}
	m.slot, m.back = m.following(back), back
	now := m.slot
	m.mu.Unlock()
	m.r.places.force(now)
	m.r.places.free(had)
}

// rest gives back what the migration does not need while it does not run: all, if it has no slot.
func (m *member) rest(ctx context.Context) {
	m.copied()
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for _, s := range []struct {
		dsn  string
		name flow.Name
	}{{m.Config.Source, flow.Name{Migration: m.Name}}, {m.Config.Target, flow.Name{Migration: m.Name}.Reverse()}} {
		there := true
		conn, err := session.Open(ctx, session.Config{DSN: s.dsn, Application: m.Name + " fleet"})
		if err == nil {
			err = conn.QueryRow(ctx, `select exists (select from pg_replication_slots where slot_name = $1)`, s.name.Source().Slot).Scan(&there)
			conn.Close(context.WithoutCancel(ctx))
		}
		if err != nil || there {
			return
		}
	}
	m.leave()
}

// leave gives all places back.
func (m *member) leave() {
	m.copied()
	m.mu.Lock()
	had := m.slot
	m.slot = nil
	m.mu.Unlock()
	m.r.places.free(had)
}

// conclude ends the member. The slot of a migration that is finished would hold back the WAL of a server that others still use: it goes.
func (m *member) conclude(ctx context.Context, phase migration.Phase) (bool, error) {
	if phase == migration.Finished {
		if err := m.dropSlot(ctx); err != nil {
			return false, fmt.Errorf("drop the slot of a migration that is finished: %w", err)
		}
	}
	m.leave()
	m.r.ended.Store(m.Name, phase)
	m.log.Info("over: " + string(phase))
	return true, nil
}

// dropSlot drops the slot of a finished migration from its source, if that still is the one that it was.
func (m *member) dropSlot(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	source := session.Config{DSN: m.Config.Source, Application: m.Name + " fleet"}
	target, err := session.OpenLink(ctx, session.Config{DSN: m.Config.Target, Application: m.Name + " fleet"}, nil)
	if err != nil {
		return err
	}
	defer target.Close()
	s := state.At(target, m.Name)
	var record *state.Record
	if err = s.Read(ctx, func() error {
		record, err = s.Load(ctx)
		return err
	}); err != nil || record == nil || record.Phase != migration.Finished {
		return err
	}
	if err := identity.CheckSource(ctx, source, record.SystemID, record.Database); err != nil {
		return err
	}
	conn, err := session.Open(ctx, source)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	return slot.Drop(ctx, conn, flow.Name{Migration: m.Name}.Source().Slot)
}
