package fleet

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/check"
	"github.com/walferry/walferry/internal/fail"
	"github.com/walferry/walferry/internal/migration"
	"github.com/walferry/walferry/internal/session"
)

// Report is what the check of a fleet has found.
type Report struct {
	Servers   []ServerReport   `json:"servers"`
	Databases []DatabaseReport `json:"databases"`
	Problems  []string         `json:"problems"` // instances that could not be asked, of whose databases nothing is known
}

// ServerReport is whether a server has room for all migrations of the fleet together.
type ServerReport struct {
	Address   string          `json:"address"`   // host:port
	Sources   int             `json:"sources"`   // migrations that come from it
	Targets   int             `json:"targets"`   // that go to it
	Following int             `json:"following"` // those that may have a slot on it at a time
	Slots     Room            `json:"slots"`
	Senders   Room            `json:"wal_senders"`
	Connected Room            `json:"connections"`
	Origins   Room            `json:"replication_origins"`
	Findings  []check.Finding `json:"findings"`
}

// Room is how much of something a server has.
type Room struct {
	Limit int `json:"limit"` // of the server's configuration
	Used  int `json:"used"`  // by others than the fleet
	Need  int `json:"need"`  // of the fleet, at most
}

// short reports whether there is too little.
func (r Room) short() bool { return r.Limit-r.Used < r.Need }

// DatabaseReport is the usual check of one migration.
type DatabaseReport struct {
	Name     string       `json:"name"` // of the migration
	Instance string       `json:"instance"`
	Source   string       `json:"source_database"`
	Target   string       `json:"target_database"`
	Wave     int          `json:"wave"`
	Error    string       `json:"error,omitempty"` // why it could not be checked
	Report   check.Report `json:"report"`
	hint     string
	line     int
}

// Blocks reports whether anything keeps a migration of the fleet from its end.
func (r *Report) Blocks() bool {
	for _, s := range r.Servers {
		if (check.Report{Findings: s.Findings}).Blocks() {
			return true
		}
	}
	return len(r.Problems) > 0 || slices.ContainsFunc(r.Databases, func(d DatabaseReport) bool { return d.Error != "" || d.Report.Blocks() })
}

// connections are those of a migration that follows, on either side, with room for whoever looks; one that copies has those of its jobs besides.
const connections = 8

// atOnce is how many databases are asked at a time.
const atOnce = 4

// Check looks at all servers and changes nothing.
func (f *Fleet) Check(ctx context.Context) (*Report, error) {
	r := &Report{Servers: []ServerReport{}, Problems: []string{}, Databases: make([]DatabaseReport, len(f.Databases))}
	for _, p := range f.Problems {
		r.Problems = append(r.Problems, p.Err.Error())
	}
	for _, s := range f.Servers() {
		one, err := f.room(ctx, s)
		if err != nil {
			return nil, fmt.Errorf("check %s: %w", s.Address, err)
		}
		r.Servers = append(r.Servers, *one)
	}
	var group errgroup.Group
	group.SetLimit(atOnce)
	for i, d := range f.Databases {
		group.Go(func() error {
			r.Databases[i] = d.check(ctx)
			return nil
		})
	}
	group.Wait() //nolint:errcheck // what is wrong is in the reports
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	return r, nil
}

func (d *Database) check(ctx context.Context) DatabaseReport {
	one := DatabaseReport{Name: d.Name, Instance: d.Instance, Source: d.Source, Target: d.Target, Wave: d.Wave, line: d.Line, Report: check.Report{Findings: []check.Finding{}}}
	if d.missing != "" {
		one.Report.Findings = []check.Finding{{
			ID: "target-database", Severity: check.Block, On: "target", Object: catalog.Quote(d.Target),
			Seen: "the database does not exist on " + d.To.Address, Do: "create it, with the locale that it is to have", SQL: []string{d.missing},
		}}
		return one
	}
	report, err := migration.Check(ctx, d.Config)
	if err != nil {
		one.Error, one.hint = err.Error(), fail.Hint(err)
		return one
	}
	one.Report = report
	return one
}

// room counts what all migrations of a fleet need together on a server.
func (f *Fleet) room(ctx context.Context, s *Server) (*ServerReport, error) {
	conn, err := session.Open(ctx, session.Config{DSN: s.dsn, Application: "fleet check"})
	if err != nil {
		return nil, err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	r := &ServerReport{Address: s.Address, Findings: []check.Finding{}}
	var ours []string
	for _, d := range f.Databases {
		ours = append(ours, "walferry_"+d.Name, "walferry_"+d.Name+"_back")
	}
	origins, workers := 0, 0
	err = conn.QueryRow(ctx, `
select current_setting('max_replication_slots')::int,
       (select count(*) from pg_replication_slots where slot_name <> all ($1::name[]) and not temporary),
       current_setting('max_wal_senders')::int, (select count(*) from pg_stat_replication where application_name not like 'walferry %'),
       current_setting('max_connections')::int - case when r.rolsuper then 0 else
         current_setting('superuser_reserved_connections')::int + coalesce(current_setting('reserved_connections', true)::int, 0) end,
       (select count(*) from pg_stat_activity where datid is not null and application_name not like 'walferry %'),
       coalesce(current_setting('max_active_replication_origins', true)::int, current_setting('max_replication_slots')::int),
       current_setting('max_parallel_workers')::int
  from pg_roles r where r.rolname = current_user`, ours).Scan(
		&r.Slots.Limit, &r.Slots.Used, &r.Senders.Limit, &r.Senders.Used, &r.Connected.Limit, &r.Connected.Used, &origins, &workers)
	if err != nil {
		return nil, err
	}
	r.Origins.Limit = origins
	f.needs(s, r)
	r.Findings = append(r.Findings, r.findings(f.Limits, workers)...)
	return r, nil
}

// needs sums up what the limits allow at a time.
func (f *Fleet) needs(s *Server, r *ServerReport) {
	var from, to []int // connections of each migration that copies, the most first
	back := 0
	for _, d := range f.Databases {
		jobs := cmp.Or(d.Config.Jobs, 4)
		if d.From == s {
			from = append(from, jobs)
		}
		if d.To == s {
			to = append(to, jobs+cmp.Or(d.Config.IndexJobs, jobs))
			if d.Config.FallBack != "" && d.Config.FallBack != migration.NoFallBack {
				back++
			}
		}
	}
	r.Sources, r.Targets = len(from), len(to)
	following := least(len(from), f.Limits.PerSource.Following, f.Limits.All.Following)
	behind := least(back, f.Limits.PerTarget.Following)
	r.Following = following + behind
	r.Slots.Need, r.Senders.Need = r.Following, r.Following
	if r.Following > 0 {
		// A comparison, and a copy that goes on after an interruption, have a temporary one.
		r.Slots.Need, r.Senders.Need = r.Slots.Need+1, r.Senders.Need+1
	}
	arriving := least(len(to), f.Limits.All.Following)
	r.Origins.Need = arriving + following*min(1, back)
	r.Connected.Need = connections*(following+arriving) + most(from, least(len(from), f.Limits.PerSource.Copying, f.Limits.All.Copying)) +
		most(to, least(len(to), f.Limits.PerTarget.Copying, f.Limits.All.Copying))
}

// least is n, or the least limit that there is.
func least(n int, limits ...int) int {
	for _, limit := range limits {
		if limit > 0 {
			n = min(n, limit)
		}
	}
	return n
}

// most sums up the n largest.
func most(list []int, n int) (sum int) {
	slices.Sort(list)
	for _, each := range list[len(list)-n:] {
		sum += each
	}
	return sum
}

// findings says what is too little.
func (r *ServerReport) findings(l Limits, workers int) (all []check.Finding) {
	add := func(id, setting string, room Room, severity check.Severity, do string) {
		if room.Need == 0 || !room.short() {
			return
		}
		all = append(all, check.Finding{
			ID: id, Severity: severity, On: r.Address,
			Seen: fmt.Sprintf("%s is %d, others have %d, and the fleet needs up to %d", setting, room.Limit, room.Used, room.Need),
			Do:   do,
		})
	}
	limit := "lower limits: per-source: following"
	if l.PerSource.Following == 0 {
		limit = "set limits: per-source: following"
	}
	restart := ", or raise the setting (restart)"
	add("fleet-slots", "max_replication_slots", r.Slots, check.Block, limit+restart)
	add("fleet-senders", "max_wal_senders", r.Senders, check.Block, limit+restart)
	add("fleet-connections", "max_connections", r.Connected, check.Block, "lower jobs, or limits: copying or following"+restart)
	if r.Origins.Limit == r.Slots.Limit {
		add("fleet-origins", "max_replication_slots", r.Origins, check.Warn, "each migration to the server has a replication origin, or does without; to have them all, raise the setting (restart)")
	} else {
		add("fleet-origins", "max_active_replication_origins", r.Origins, check.Warn, "each migration to the server has a replication origin, or does without; to have them all, raise the setting (restart)")
	}
	if r.Following > followersWorthAWord && l.PerSource.Following == 0 {
		all = append(all, check.Finding{
			ID: "fleet-followers", Severity: check.Warn, On: r.Address,
			Seen: fmt.Sprintf("up to %d slots would be read at a time, each of which reads all WAL of the server", r.Following),
			Do:   "set limits: per-source: following, and switch in waves: a wave that is done makes room for the next",
		})
	}
	if r.Targets > 0 && workers == 0 {
		all = append(all, check.Finding{ID: "fleet-workers", Severity: check.Info, On: r.Address, Seen: "max_parallel_workers is 0: every index is built by one process"})
	}
	return all
}

// followersWorthAWord is from where on the cost of slots is seen: some 9 ms of CPU for each MB of WAL and slot.
const followersWorthAWord = 10

// Shared are findings of several databases that say the same, and whose they are.
type Shared struct {
	check.Finding
	Names []string
}

// Shared returns what the checks of the databases have found, each once. Those that are merely informative are left out.
func (r *Report) Shared() (all []Shared) {
	at := map[string]int{}
	for _, d := range r.Databases {
		found := d.Report.Findings
		if d.Error != "" {
			found = append(slices.Clone(found), check.Finding{ID: "check", Severity: check.Block, On: "tool", Seen: d.Error, Do: d.hint})
		}
		for _, one := range found {
			if one.Severity == check.Info {
				continue
			}
			key := strings.Join([]string{one.ID, string(one.Severity), one.On, one.Object, one.Seen, one.Do, strings.Join(one.SQL, ";")}, "\x00")
			i, known := at[key]
			if !known {
				i = len(all)
				at[key] = i
				all = append(all, Shared{Finding: one})
			}
			all[i].Names = append(all[i].Names, d.Name)
		}
	}
	slices.SortStableFunc(all, func(a, b Shared) int {
		rank := map[check.Severity]int{check.Block: 0, check.Warn: 1}
		return rank[a.Severity] - rank[b.Severity]
	})
	return all
}
