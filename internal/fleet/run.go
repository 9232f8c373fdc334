package fleet

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"

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

// RunConfig says how the migrations of a fleet are run.
type RunConfig struct {
	Logger *slog.Logger // of which every migration has one with its name
	// Retry are the pauses after which a migration that has failed is started again. The zero value: from 5 s to 5 min.
	Retry wait.Pauses
	// Options are those that the file was read with: instances that could not be asked are asked again.
	Options Options
}

// Ended is how the run of a fleet has ended.
type Ended struct {
	Finished, Aborted int
	Left              []string // migrations that are neither, as the run was stopped
	Unknown           []string // instances that have never answered
}

// runner is one run of a fleet.
type runner struct {
	c      RunConfig
	places *places
	fleet  atomic.Pointer[Fleet] // as far as it is known: replaced, not changed
	work   sync.WaitGroup        // of members, and of those who wait for instances
	ended  sync.Map              // names of migrations that have come to their end, with their phases
}

// Run runs every migration of the fleet within its limits, until each has come to its end or ctx ends; those that fail are started again,
// and instances that do not answer are asked again. Which migrations have begun it sees from the servers, so that it may be started anywhere and at any time.
func (f *Fleet) Run(ctx context.Context, c RunConfig) (Ended, error) {
	if c.Retry.First == 0 {
		c.Retry = wait.Pauses{First: 5 * time.Second, Longest: 5 * time.Minute, Random: true}
	}
	r := &runner{c: c, places: newPlaces(f.Limits)}
	r.fleet.Store(f)
	if err := r.begin(ctx, f.Databases); err != nil {
		return Ended{}, err
	}
	if len(f.Problems) > 0 {
		r.work.Go(func() { r.await(ctx, f.Problems) })
	}
	conducting, stop := context.WithCancel(ctx)
	var conductor sync.WaitGroup
	conductor.Go(func() { r.conduct(conducting) })
	r.work.Wait()
	stop()
	conductor.Wait()
	var ended Ended
	for _, d := range r.fleet.Load().Databases {
		switch phase, _ := r.ended.Load(d.Name); phase {
		case migration.Finished:
			ended.Finished++
		case migration.Aborted:
			ended.Aborted++
		default:
			ended.Left = append(ended.Left, d.Name)
		}
	}
	for _, p := range r.fleet.Load().Problems {
		ended.Unknown = append(ended.Unknown, p.Instance.Name)
	}
	return ended, nil
}

// begin begins to run migrations. Those that have begun before have their places at once, whatever the limits are.
func (r *runner) begin(ctx context.Context, databases []*Database) error {
	slots, err := slots(ctx, databases)
	if err != nil {
		return err
	}
	var members []*member
	for i, d := range databases {
		m := &member{Database: d, r: r, rank: d.Wave*ranks + i, log: r.c.Logger.With("migration", d.Name), told: map[[3]string]bool{}}
		name := flow.Name{Migration: d.Name}
		if begun, back := slots[d.From.ID][name.Source().Slot], slots[d.To.ID][name.Reverse().Source().Slot]; begun || back {
			m.rank = i // before all others: its slot holds WAL back
			m.moved(!begun)
		}
		members = append(members, m)
	}
	for _, m := range members {
		r.work.Go(func() { m.run(ctx) })
	}
	return nil
}

// ranks is more than a wave has databases.
const ranks = 1 << 20

// await asks instances that did not answer again, and runs their migrations once they do.
func (r *runner) await(ctx context.Context, problems []Problem) {
	for failures := 0; len(problems) > 0; failures++ {
		for _, p := range problems {
			r.c.Logger.Error(oneLine(p.Err), "instance", p.Instance.Name, "hint", fail.Hint(p.Err))
		}
		if wait.Sleep(ctx, r.c.Retry.After(failures)) != nil {
			return
		}
		next, err := Resolve(ctx, r.fleet.Load().File, r.c.Options)
		if err != nil {
			if ctx.Err() == nil {
				r.c.Logger.Error("ask all instances again: "+oneLine(err), "hint", fail.Hint(err))
			}
			continue
		}
		if problems, err = r.join(ctx, next, problems); err != nil {
			r.c.Logger.Error(oneLine(err), "hint", fail.Hint(err))
		}
	}
}

// join adds the databases of instances that answer now, and returns what is still a problem. Others that do not answer any more have begun long ago.
func (r *runner) join(ctx context.Context, next *Fleet, problems []Problem) ([]Problem, error) {
	was := r.fleet.Load()
	now := &Fleet{File: was.File, servers: maps.Clone(was.servers)}
	for _, p := range next.Problems {
		if slices.ContainsFunc(problems, func(q Problem) bool { return q.Instance == p.Instance }) {
			now.Problems = append(now.Problems, p)
		}
	}
	var added []*Database
	for _, d := range next.Databases {
		if slices.ContainsFunc(problems, func(q Problem) bool { return q.Instance.Name == d.Instance }) {
			d.From, d.To = now.server(d.From), now.server(d.To)
			added = append(added, d)
		}
	}
	now.Databases = slices.Concat(was.Databases, added)
	slices.SortStableFunc(now.Databases, func(a, b *Database) int { return cmp.Compare(a.Wave, b.Wave) })
	if err := now.distinct(); err != nil {
		return problems, err
	}
	if err := r.begin(ctx, added); err != nil {
		return problems, err
	}
	r.fleet.Store(now)
	return now.Problems, nil
}

// slots are the names of all slots of each server of some databases, by its ID.
func slots(ctx context.Context, databases []*Database) (map[string]map[string]bool, error) {
	all := map[string]map[string]bool{}
	for _, d := range databases {
		for _, s := range []*Server{d.From, d.To} {
			if all[s.ID] != nil {
				continue
			}
			names, err := s.slots(ctx)
			if err != nil {
				return nil, fmt.Errorf("list slots of %s: %w", s.Address, err)
			}
			all[s.ID] = names
		}
	}
	return all, nil
}

func (s *Server) slots(ctx context.Context) (map[string]bool, error) {
	conn, err := session.Open(ctx, session.Config{DSN: s.dsn, Application: "fleet"})
	if err != nil {
		return nil, err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	rows, err := conn.Query(ctx, `select slot_name::text from pg_replication_slots`)
	if err != nil {
		return nil, err
	}
	names := map[string]bool{}
	list, err := pgx.CollectRows(rows, pgx.RowTo[string])
	for _, name := range list {
		names[name] = true
	}
	return names, err
}

// member is one migration of a run.
type member struct {
	*Database
	r    *runner
	rank int
	log  *slog.Logger
	told map[[3]string]bool // findings that were logged

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
	phase, err := m.phase(ctx)
	if err != nil {
		return false, err
	}
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
	if err := m.enter(ctx, phase); err != nil {
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

// enter waits for the places that the migration needs from its phase on.
func (m *member) enter(ctx context.Context, phase migration.Phase) error {
	var want []place
	m.mu.Lock()
	follows := m.slot != nil
	m.mu.Unlock()
	if !follows {
		want = m.following(false)
	}
	if copies(phase) {
		want = append(want, m.copying()...)
	}
	if err := m.r.places.take(ctx, m.rank, want); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if !follows {
		m.slot, m.back = m.following(false), false
	}
	if copies(phase) {
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
