package groups

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/internal/session"
	"github.com/walferry/walferry/internal/state"
	"github.com/walferry/walferry/internal/wait"
)

const (
	// minutes is how many whole ones are counted, beside the one that has begun.
	minutes = 5

	recentCommits = 1024
	ofCommit      = 4    // tables of a commit that are remembered with who has made it
	maxOpen       = 4096 // transactions that were caught and have not come through the stream
	maxWriters    = 1000 // whom is counted for in a minute
	shownTables   = 50
	shownWriters  = 20

	// enough is how many caught commits it takes to speak of shares.
	enough = 10
)

// who is a role and the application_name of its sessions.
type who struct{ role, application string }

// sample is what a look at a server's sessions has found: how many who has, or that one of them writes in a transaction.
type sample struct {
	who
	xid      uint32 // 0: none
	sessions int
}

// writes are the commits of a stream of late: by table, and as far as they were caught by who has made them.
type writes struct {
	began    time.Time // of the minutes that are counted; zero: there was no look yet
	counted  [minutes + 1]minute
	now      int // the one that has begun
	since    time.Time
	commits  [recentCommits]commit // by the low bits of their xid
	open     map[uint32]who        // that were caught and have not come
	sessions map[who]int
}

// minute is what was counted in one.
type minute struct {
	began   time.Time
	commits int64
	tables  []int64 // by node.number
	caught  map[who]*caught
}

// caught are commits of somebody that were seen while they were open.
type caught struct {
	commits int64
	tables  map[*node]bool
	last    time.Time
}

// commit is one that has come through the stream.
type commit struct {
	xid     uint32
	counted bool // as caught
	tables  [ofCommit]*node
}

// committed counts a transaction that has changed tables.
func (w *writes) committed(xid uint32, tables []*node) {
	m := &w.counted[w.now]
	m.commits++
	for _, n := range tables {
		for len(m.tables) <= n.number {
			m.tables = append(m.tables, 0)
		}
		m.tables[n.number]++
	}
	c := &w.commits[xid%recentCommits]
	*c = commit{xid: xid}
	copy(c.tables[:], tables)
	if len(w.open) == 0 {
		return
	}
	if by, ok := w.open[xid]; ok {
		delete(w.open, xid)
		m.caught = w.caughtBy(m.caught, by, c)
	}
}

// caughtBy counts a commit that was caught.
func (w *writes) caughtBy(all map[who]*caught, by who, c *commit) map[who]*caught {
	if all == nil {
		all = map[who]*caught{}
	}
	c.counted = true
	k := all[by]
	if k == nil {
		if len(all) >= maxWriters {
			return all
		}
		k = &caught{tables: map[*node]bool{}}
		all[by] = k
	}
	k.commits++
	k.last = w.since
	for _, n := range c.tables {
		if n != nil {
			k.tables[n] = true
		}
	}
	return all
}

// look takes a look at the sessions into account. A transaction may come through the stream before the look at it is known, and after.
func (w *writes) look(now time.Time, found []sample) {
	w.turn(now)
	w.sessions = map[who]int{}
	if w.open == nil {
		w.open = map[uint32]who{}
	}
	if len(w.open) > maxOpen { // of tables that are not followed, or of flows
		clear(w.open)
	}
	m := &w.counted[w.now]
	for _, s := range found {
		w.sessions[s.who] += s.sessions
		if s.xid == 0 {
			continue
		}
		if c := &w.commits[s.xid%recentCommits]; c.xid != s.xid {
			w.open[s.xid] = s.who
		} else if !c.counted {
			m.caught = w.caughtBy(m.caught, s.who, c)
		}
	}
}

// turn begins another minute when it is time.
func (w *writes) turn(now time.Time) {
	if w.began.IsZero() {
		w.began, w.counted[w.now].began = now, now
	}
	w.since = now
	if now.Sub(w.counted[w.now].began) < time.Minute {
		return
	}
	w.now = (w.now + 1) % len(w.counted)
	w.counted[w.now] = minute{began: now}
	if next := w.counted[(w.now+1)%len(w.counted)].began; !next.IsZero() {
		w.began = next
	}
}

// report returns what is counted now. nodes are those of the Seen.
func (w *writes) report(nodes []*node, now time.Time) *state.Writes {
	r := &state.Writes{Seconds: now.Sub(w.began).Seconds(), Tables: []state.TableWrites{}, Writers: []state.Writer{}}
	if r.Seconds <= 0 {
		r.Seconds = 0
		return r
	}
	rate := func(n int64) float64 { return float64(n) * 60 / r.Seconds }
	tables := make([]int64, len(nodes))
	by := map[who]*caught{}
	for i := range w.counted {
		m := &w.counted[i]
		r.Commits += m.commits
		for n, commits := range m.tables {
			tables[n] += commits
		}
		for who, c := range m.caught {
			r.Caught += c.commits
			sum := cmp.Or(by[who], &caught{tables: map[*node]bool{}})
			sum.commits += c.commits
			maps.Copy(sum.tables, c.tables)
			if c.last.After(sum.last) {
				sum.last = c.last
			}
			by[who] = sum
		}
	}
	r.Rate = rate(r.Commits)
	for n, commits := range tables {
		if commits > 0 {
			r.Tables = append(r.Tables, state.TableWrites{Table: nodes[n].name.Plain(), Rate: rate(commits)})
		}
	}
	slices.SortFunc(r.Tables, func(a, b state.TableWrites) int {
		return cmp.Or(cmp.Compare(b.Rate, a.Rate), cmp.Compare(a.Table, b.Table))
	})
	r.Tables = r.Tables[:min(len(r.Tables), shownTables)]
	r.Writers = w.writers(by, r)
	if more := len(r.Writers) - shownWriters; more > 0 {
		r.Writers, r.More = r.Writers[:shownWriters], more
	}
	return r
}

// writers lists who has sessions, or was caught.
func (w *writes) writers(by map[who]*caught, r *state.Writes) []state.Writer {
	all := []state.Writer{}
	for who := range w.sessions {
		if by[who] == nil {
			by[who] = &caught{}
		}
	}
	for who, c := range by {
		s := state.Writer{Role: who.role, Application: who.application, Sessions: w.sessions[who], Caught: c.commits, Tables: []string{}}
		if r.Caught >= enough {
			share := r.Rate * float64(c.commits) / float64(r.Caught)
			s.Rate = &share
		}
		if c.commits > 0 {
			last := c.last.UTC()
			s.Last = &last
		}
		for n := range c.tables {
			s.Tables = append(s.Tables, n.name.Plain())
		}
		slices.Sort(s.Tables)
		all = append(all, s)
	}
	slices.SortFunc(all, func(a, b state.Writer) int {
		return cmp.Or(cmp.Compare(b.Caught, a.Caught), cmp.Compare(b.Sessions, a.Sessions), cmp.Compare(a.Role, b.Role), cmp.Compare(a.Application, b.Application))
	})
	return all
}

// sessionsSQL lists the sessions of the database that are not walferry's. Every role sees these columns of all sessions.
const sessionsSQL = `
select coalesce(usename::text, ''), coalesce(application_name, ''), coalesce(backend_xid::text::int8, 0), count(*)
  from pg_stat_activity
 where datname = current_database() and coalesce(application_name, '') !~ '^walferry( |$)' and pid <> pg_backend_pid() and backend_type is distinct from 'walsender'
 group by 1, 2, 3`

func readSamples(ctx context.Context, conn *pgx.Conn) (all []sample, err error) {
	rows, err := conn.Query(ctx, sessionsSQL)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (s sample, err error) {
		return s, row.Scan(&s.role, &s.application, &s.xid, &s.sessions)
	})
}

// Watch is a helper of a flow: it looks every interval at the sessions of the server that the stream comes from, and tells what is written
// there. When it ends it tells nil.
func (t *Stream) Watch(ctx context.Context, from *session.Link, interval time.Duration, tell func(*state.Writes)) {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	defer tell(nil)
	for ; ctx.Err() == nil; wait.Tick(ctx, tick) {
		var found []sample
		err := wait.Within(ctx, 5*time.Second, func(ctx context.Context) error {
			return from.Do(ctx, func(conn *pgx.Conn) (err error) {
				found, err = readSamples(ctx, conn)
				return err
			})
		})
		if err != nil {
			if ctx.Err() == nil {
				t.seen.log.Debug("look who writes", "error", err)
			}
			continue
		}
		tell(t.looked(time.Now(), found))
	}
}

func (t *Stream) looked(now time.Time, found []sample) *state.Writes {
	t.seen.mu.Lock()
	defer t.seen.mu.Unlock()
	t.writes.look(now, found)
	return t.writes.report(t.seen.nodes, now)
}
