package fleet

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/walferry/walferry/internal/fail"
	"github.com/walferry/walferry/internal/flow"
	"github.com/walferry/walferry/internal/migration"
	"github.com/walferry/walferry/internal/session"
	"github.com/walferry/walferry/internal/wait"
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
	r.line(ctx, members)
	for _, m := range members {
		r.work.Go(func() { m.run(ctx) })
	}
	return nil
}

// lineWithin is how long a server may keep the others from being asked.
const lineWithin = 10 * time.Second

// line has migrations ask for their places in their order, not in that in which their servers answer: what comes later must not
// have the place of what is to be switched before it. One whose server does not answer asks later.
func (r *runner) line(ctx context.Context, members []*member) {
	ctx, cancel := context.WithTimeout(ctx, lineWithin)
	defer cancel()
	var group errgroup.Group
	group.SetLimit(2 * atOnce)
	for _, m := range members {
		group.Go(func() error {
			if phase, err := m.phase(ctx); err == nil && phase != migration.Finished && phase != migration.Aborted {
				m.first = &entry{phase: phase}
			}
			return nil
		})
	}
	group.Wait() //nolint:errcheck // whoever failed asks again
	for _, m := range slices.SortedFunc(slices.Values(members), func(a, b *member) int { return a.rank - b.rank }) {
		if m.first != nil {
			m.first.waiter = r.places.ask(m.rank, m.wants(m.first.phase))
		}
	}
}

// entry is a phase in which a migration asks for places.
type entry struct {
	phase  migration.Phase
	waiter *waiter
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
