package handover

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/decoder"
	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/cutover"
	"github.com/walferry/walferry/internal/fail"
	"github.com/walferry/walferry/internal/flow"
	"github.com/walferry/walferry/internal/online"
	"github.com/walferry/walferry/internal/schema"
	"github.com/walferry/walferry/internal/session"
	"github.com/walferry/walferry/internal/state"
)

// Shape makes the switch of everything in a direction one of a group: with its tables, its fence and its record.
func (g *Groups) Shape(ctx context.Context, sw *cutover.Switch, group Group, s *Side) error {
	store, err := g.record(ctx, group, s)
	if err != nil {
		return err
	}
	other := g.Back
	if s == g.Back {
		other = g.Forth
	}
	back, err := g.record(ctx, group, other)
	if err != nil {
		return err
	}
	sw.Name, sw.Store = group.Name(s.Name), store
	sw.Tables = func() []catalog.Table { return group.Of(s.Tables.Selected()) }
	sw.Sequences.Tables, sw.Sequences.Owned = sw.Tables, !group.Rest
	sw.Definitions, sw.Opening, sw.Proof = noDefinitions{}, plainOpening{s.To, sw.Name}, nil
	sw.WayBack, sw.NeedWayBack, sw.Pass, sw.Onward = runningBack{s.To.Link, other.Sequences(), other.words(group.Has)}, true, g.Mode().Pass, state.Switched
	sw.Stands = other.standing(group.Name(other.Name), back)
	sw.Advance = func(ctx context.Context, phase state.Phase) error { return store.SetPhase(ctx, phase) }
	sw.Clients = nil // a pooler, or a hook, holds the clients of all tables
	sw.Finished = func(*cutover.Result) {}
	for i := range sw.Gates {
		if sw.Gates[i].Name == cutover.GateActions {
			sw.Gates[i].Do = func(ctx context.Context) error { return g.Plain(ctx, sw.Tables()) }
		}
	}
	return nil
}

// Plain returns an error if a group cannot be handed over because of what is on its tables, on either server: what acts on rows that are applied
// would have to be disabled where the group is not owned, and walferry does that for all tables of a server at once.
func (g *Groups) Plain(ctx context.Context, tables []catalog.Table) error {
	for name, link := range map[string]*session.Link{"old": g.Forth.From.Link, "new": g.Back.From.Link} {
		err := link.Do(ctx, func(conn *pgx.Conn) error {
			firing, err := catalog.FiringOn(ctx, conn, tables, true)
			if err != nil || len(firing) == 0 {
				return err
			}
			return &fail.Error{
				Kind: fail.Gate, Problem: "on the " + name + " server " + firing[0].Action.String() + " fires for rows that are applied",
				Advice: "a group of tables cannot have such: enable it as usual, not ALWAYS or REPLICA, or switch everything at once",
			}
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// runningBack is the way back of a group's switch: both flows run, so that nothing has to be armed or to begin.
type runningBack struct {
	to        *session.Link
	sequences *cutover.Carrier // of that flow
	words     *flow.Words      // of that flow, about what changes its owner
}

// Arm implements cutover.WayBack.
func (w runningBack) Arm(ctx context.Context, _ func(string)) error {
	return errors.Join(w.sequences.ReadEnds(ctx), w.words.Ready(ctx))
}

// Disarm implements cutover.WayBack.
func (w runningBack) Disarm(context.Context) {}

// Begin implements cutover.WayBack: the position is for people.
func (w runningBack) Begin(ctx context.Context) (at decoder.LSN, err error) {
	if err := w.words.Begin(ctx); err != nil {
		return 0, err
	}
	err = w.to.Row(ctx, `select pg_current_wal_insert_lsn()::text`, nil, &at)
	return at, err
}

// KeepAhead implements cutover.WayBack.
func (w runningBack) KeepAhead(ctx context.Context, at []cutover.Sequence) error {
	return (&cutover.Ahead{Carrier: w.sequences}).Start(ctx, at)
}

// Ahead implements cutover.WayBack.
func (w runningBack) Ahead(ctx context.Context) (map[catalog.Name]cutover.Position, error) {
	return w.sequences.Placed(ctx)
}

// noDefinitions are those of a group: foreign keys and triggers are there, as the roles may do without.
type noDefinitions struct{}

func (noDefinitions) FindKeys(context.Context) (*schema.Prepared, error) { return nil, nil }
func (noDefinitions) DropKeys(context.Context) error                     { return nil }
func (noDefinitions) RefreshViews(context.Context) (int, error)          { return 0, nil }
func (noDefinitions) ValidateKeys(context.Context, func(string)) ([]string, error) {
	return nil, nil
}

// plainOpening opens a server on which nothing of the group is disabled.
type plainOpening struct {
	to   session.End
	name string
}

// Prepare implements cutover.Opening.
func (o plainOpening) Prepare(ctx context.Context, _ func(string)) (*pgx.Conn, error) {
	conn, err := online.Open(ctx, session.Config{DSN: o.to.DSN, Application: o.name + " open"})
	if err == nil {
		_, err = conn.Exec(ctx, `begin`)
	}
	return conn, err
}

func (plainOpening) EnableEach(context.Context) (sql, recorded []string, err error) {
	return nil, nil, nil
}

func (plainOpening) Ruled(context.Context) (map[string]bool, error) { return nil, nil }

func (plainOpening) EnableRest(context.Context, time.Duration) ([]string, error) { return nil, nil }
