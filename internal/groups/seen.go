package groups

import (
	"cmp"
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/walferry/walferry/decoder"
	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/state"
	"github.com/walferry/walferry/internal/wait"
)

// Evidence is what the stream has shown of which tables are written together.
type Evidence struct {
	Since        time.Time  `json:"since"`        // the first transaction that counts
	Transactions int64      `json:"transactions"` // that have written to tables of the migration
	Together     []Together `json:"together"`
}

// Together are two tables to which the same transactions have written.
type Together struct {
	Tables [2]catalog.Name `json:"tables"`
	Count  int64           `json:"count"`
	XID    uint32          `json:"xid"` // of the last one
	LSN    decoder.LSN     `json:"lsn"` // where its commit record starts
	At     time.Time       `json:"at"`  // by the clock of its server
}

const (
	// allPairs is how many tables of a transaction count each with each. Of more of them each counts with the first: that joins the same
	// ones.
	allPairs = 8
	// maxPairs bounds what is kept. Past it only what joins tables that nothing has joined yet is added.
	maxPairs = 2000

	recent = 64
)

// Seen counts which tables are written together, in the streams of a migration, each of which has a Stream of it.
type Seen struct {
	store *state.Store
	log   *slog.Logger
	every time.Duration

	mu           sync.Mutex
	since        time.Time
	transactions int64
	changed      bool // since it was kept
	nodes        []*node
	named        map[catalog.Name]*node
	pairs        map[[2]int]*Together
	above        map[catalog.Name]catalog.Name // of a partition: the topmost table

	// What was looked up last, by the low bits of its key.
	recentPairs [recent]struct {
		a, b *node
		t    *Together
	}
}

// node is a table, partitions as their topmost parent.
type node struct {
	name   catalog.Name
	number int // its index in nodes
	joined int // another node that something has joined it with; its own number: none but those that point to it
}

// NewSeen returns a count that goes on from what is kept in store. tables are the migration's.
func NewSeen(ctx context.Context, store *state.Store, tables []state.Table, every time.Duration, log *slog.Logger) (*Seen, error) {
	var was Evidence
	if _, err := store.Values().Get(ctx, state.Seen, &was); err != nil {
		return nil, err
	}
	s := newSeen(tables, was)
	s.store, s.every, s.log = store, every, log
	return s, nil
}

func newSeen(tables []state.Table, was Evidence) *Seen {
	s := &Seen{
		since: was.Since, transactions: was.Transactions, above: roots(tables),
		named: map[catalog.Name]*node{}, pairs: map[[2]int]*Together{},
	}
	for _, t := range was.Together {
		s.pair(s.node(t.Tables[0]), s.node(t.Tables[1]), t)
	}
	return s
}

// roots returns the topmost parent of each partition.
func roots(tables []state.Table) map[catalog.Name]catalog.Name {
	parents, named := map[string]string{}, map[string]catalog.Name{}
	for i := range tables {
		t := &tables[i]
		named[t.Name.String()] = t.Name
		if t.Place != nil && t.Place.Bound != "" && len(t.Place.Parents) == 1 {
			parents[t.Name.String()] = t.Place.Parents[0]
		}
	}
	above := map[catalog.Name]catalog.Name{}
	for table := range parents {
		top := table
		for up, ok := parents[top]; ok; up, ok = parents[top] {
			top = up
		}
		if root, ok := named[top]; ok {
			above[named[table]] = root
		}
	}
	return above
}

// node returns the one of a table.
func (s *Seen) node(name catalog.Name) *node {
	if root, ok := s.above[name]; ok {
		name = root
	}
	n := s.named[name]
	if n == nil {
		n = &node{name: name, number: len(s.nodes), joined: len(s.nodes)}
		s.named[name], s.nodes = n, append(s.nodes, n)
	}
	return n
}

// together counts a pair of tables.
func (s *Seen) together(a, b *node, tx *decoder.Tx) {
	last := &s.recentPairs[(a.number*7+b.number)%recent]
	if last.a != a || last.b != b {
		last.a, last.b, last.t = a, b, s.pairs[key(a, b)]
	}
	if t := last.t; t != nil {
		t.Count++
		t.XID, t.LSN, t.At = tx.XID, tx.CommitLSN, tx.CommitTime
		return
	}
	last.a = nil
	s.pair(a, b, Together{Count: 1, XID: tx.XID, LSN: tx.CommitLSN, At: tx.CommitTime})
}

// pair adds a pair of tables.
func (s *Seen) pair(a, b *node, t Together) {
	first, second := s.top(a), s.top(b)
	if a == b || first == second && len(s.pairs) >= maxPairs {
		return
	}
	first.joined = second.number
	t.Tables = [2]catalog.Name{a.name, b.name}
	s.pairs[key(a, b)] = &t
}

// top returns the node that all have in common that something has joined with n.
func (s *Seen) top(n *node) *node {
	for n.joined != n.number {
		up := s.nodes[n.joined]
		n.joined = up.joined // half of the way for the next one
		n = up
	}
	return n
}

func key(a, b *node) [2]int {
	if b.number < a.number {
		a, b = b, a
	}
	return [2]int{a.number, b.number}
}

// Evidence returns what was counted so far.
func (s *Seen) Evidence() Evidence {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := Evidence{Since: s.since, Transactions: s.transactions, Together: []Together{}}
	for _, t := range s.pairs {
		e.Together = append(e.Together, *t)
	}
	slices.SortFunc(e.Together, func(a, b Together) int {
		return cmp.Or(compareNames(a.Tables[0], b.Tables[0]), compareNames(a.Tables[1], b.Tables[1]))
	})
	return e
}

func compareNames(a, b catalog.Name) int {
	return cmp.Or(cmp.Compare(a.Schema, b.Schema), cmp.Compare(a.Name, b.Name))
}

// Keep is a helper of a flow: it keeps what was counted, now and then and at the end.
func (s *Seen) Keep(ctx context.Context, _ context.CancelCauseFunc) {
	tick := time.NewTicker(s.every)
	defer tick.Stop()
	for ctx.Err() == nil {
		wait.Tick(ctx, tick)
		if err := wait.Within(ctx, 5*time.Second, s.Flush); err != nil {
			s.log.Debug("keep which tables are written together", "error", err)
		}
	}
}

// Flush keeps what was counted, unless that is kept already.
func (s *Seen) Flush(ctx context.Context) error {
	s.mu.Lock()
	changed := s.changed
	s.changed = false
	s.mu.Unlock()
	if !changed {
		return nil
	}
	err := s.store.Values().Put(ctx, state.Seen, s.Evidence())
	if err != nil {
		s.mu.Lock()
		s.changed = true
		s.mu.Unlock()
	}
	return err
}
