package cutover

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/fail"
	"github.com/walferry/walferry/internal/online"
	"github.com/walferry/walferry/internal/schema"
	"github.com/walferry/walferry/internal/wait"
)

// IdentityGate: From is what it is known as.
func (s *Switch) IdentityGate(ctx context.Context) (err error) {
	s.mark, err = s.Identity(ctx, s.From.Link)
	return err
}

// LagGate: what is committed on the source comes through soon enough.
func (s *Switch) LagGate(ctx context.Context) error {
	soon, cancel := context.WithTimeout(ctx, s.MaxLag)
	lag, err := s.Flow.Canary(soon)
	late := context.Cause(soon)
	cancel()
	switch {
	case err == nil && lag <= s.MaxLag:
		s.result.LagMS = lag.Milliseconds()
		return nil
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case err != nil && err != late: //nolint:errorlint // what has failed before the time was over may be wrapped around that
		return &fail.Error{Kind: fail.Gate, Problem: "the lag cannot be measured: " + err.Error(), Advice: cmp.Or(fail.Hint(err), "see that both servers answer, and ask again"), Err: err}
	}
	gate := &fail.Error{Kind: fail.Gate, Problem: fmt.Sprintf("the %s lags: what was committed on the %s had not come through after %s (--max-lag)", s.Sides.To(), s.Sides.From(), s.MaxLag), Advice: "wait until `walferry status` shows less lag, or allow more"}
	if holders := s.Flow.InApplierWay(ctx); len(holders) > 0 {
		gate.Problem += fmt.Sprintf("; the applier waits for a lock on the %s, held by %s", s.Sides.To(), online.List(holders))
		gate.Advice = "on the " + s.Sides.To() + ", " + online.EndHint(holders) + "; then ask again"
	}
	return gate
}

// WritersGate: nobody can change rows of the tables unseen by the fence, and no writer is too old.
func (s *Switch) WritersGate(ctx context.Context) error {
	return s.From.Link.Do(ctx, func(conn *pgx.Conn) error {
		if err := s.noPrepared(ctx, conn); err != nil {
			return err
		}
		return s.writersUnseen(ctx, conn)
	})
}

// noPrepared: From has no prepared transaction.
func (s *Switch) noPrepared(ctx context.Context, conn *pgx.Conn) error {
	var prepared []string
	if err := conn.QueryRow(ctx, `select coalesce(array_agg(gid order by prepared), '{}') from pg_prepared_xacts where database = current_database()`).Scan(&prepared); err != nil {
		return fmt.Errorf("look for prepared transactions: %w", err)
	}
	if len(prepared) > 0 {
		return &fail.Error{Kind: fail.Gate, Problem: "the " + s.Sides.From() + " has prepared transactions: " + catalog.List(prepared), Advice: "COMMIT PREPARED or ROLLBACK PREPARED them"}
	}
	return nil
}

// writersUnseen: nobody can change rows of the tables unseen by the fence.
func (s *Switch) writersUnseen(ctx context.Context, conn *pgx.Conn) error {
	fence, subscriptions, err := NewFence(ctx, conn, s.Name, s.Tables())
	if err != nil {
		return err
	}
	var feeds, stop []string
	for _, sub := range subscriptions {
		if sub.Enabled {
			feeds = append(feeds, fmt.Sprintf("%s (into %s)", catalog.Quote(sub.Name), catalog.List(sub.Tables)))
			stop = append(stop, "`"+sub.StopSQL()+"`")
		}
	}
	if len(feeds) > 0 {
		return &fail.Error{
			Kind:    fail.Gate,
			Problem: fmt.Sprintf("the %s has subscriptions that write to migrated tables, and would do so after the %s: %s", s.Sides.From(), s.Sides.Switch(), catalog.List(feeds)),
			Advice:  fmt.Sprintf("on the %s %s, or drop them; then ask again: the publisher keeps what comes meanwhile, for a subscription of the %s's", s.Sides.From(), strings.Join(stop, ", "), s.Sides.To()),
		}
	}
	var above []string
	for _, p := range fence.Parents {
		if !p.OwnerLike {
			above = append(above, fmt.Sprintf("%s (of %s)", p, p.Owner))
		}
	}
	if len(above) > 0 {
		return &fail.Error{Kind: fail.Gate, Problem: "a statement on a table that is not migrated would change rows of its children, which are, past the fence: " + catalog.List(above), Advice: "walferry fences such parents, too, and must own them for it: make its role a member of their owner, or detach the children"}
	}
	return nil
}

// SequencesGate: the target's sequences are what the source's have become.
func (s *Switch) SequencesGate(ctx context.Context) error {
	return s.Sequences.Gate(ctx, s.Timeout/4, s.Rehearse, s.say)
}

// StatisticsGate: the target has statistics of every table that has rows. Missing ones, as after a
// crash of the target, are gathered.
func (s *Switch) StatisticsGate(ctx context.Context) error {
	bare, err := s.withoutStatistics(ctx)
	for attempt := 0; err == nil && len(bare) > 0 && attempt < 2; attempt++ { // what tells that they were gathered may be lost
		var tables []catalog.Name
		for _, t := range s.Tables() {
			if slices.Contains(bare, t.String()) {
				tables = append(tables, t.Name)
			}
		}
		s.say("the " + s.Sides.To() + " has no statistics of some tables, as after a crash; gathering them: " + catalog.List(bare))
		if err := schema.Analyze(ctx, s.To.DSN, tables, nil, s.Jobs); err != nil {
			return &fail.Error{Kind: fail.Gate, Problem: fmt.Sprintf("tables of the %s have no statistics, and they could not be gathered: %v", s.Sides.To(), err), Advice: fmt.Sprintf("ANALYZE them on the %s: %s", s.Sides.To(), catalog.List(bare))}
		}
		bare, err = s.awaitStatistics(ctx)
	}
	if err != nil {
		return err
	}
	if len(bare) > 0 {
		return &fail.Error{Kind: fail.Gate, Problem: fmt.Sprintf("tables of the %s have no statistics: %s", s.Sides.To(), catalog.List(bare)), Advice: "ANALYZE them on the " + s.Sides.To()}
	}
	return nil
}

// statisticsPatience is how long a server may take to tell that statistics were gathered: up to 14 a process of its own collects that.
const statisticsPatience = 5 * time.Second

// awaitStatistics is withoutStatistics, after they were gathered.
func (s *Switch) awaitStatistics(ctx context.Context) (bare []string, err error) {
	soon, cancel := context.WithTimeout(ctx, statisticsPatience)
	defer cancel()
	wait.Until(soon, wait.Pauses{First: 20 * time.Millisecond, Longest: 500 * time.Millisecond}, func() (bool, error) { //nolint:errcheck // err is what has failed
		bare, err = s.withoutStatistics(ctx)
		return len(bare) == 0, err
	})
	return bare, err
}

// withoutStatistics returns the tables of the target that have rows and no statistics.
func (s *Switch) withoutStatistics(ctx context.Context) (bare []string, err error) {
	var names []string
	for _, t := range s.Tables() {
		if t.Kind == 'r' {
			names = append(names, t.String())
		}
	}
	err = s.To.Link.Row(ctx, `
select coalesce(array_agg(t.name order by t.name), '{}') from unnest($1::text[]) as t(name)
 where pg_relation_size(to_regclass(t.name)) > 0
   and exists (select from pg_attribute a where a.attrelid = to_regclass(t.name) and a.attnum > 0 and not a.attisdropped)
   and pg_stat_get_last_analyze_time(to_regclass(t.name)) is null and pg_stat_get_last_autoanalyze_time(to_regclass(t.name)) is null
   and not exists (select from pg_statistic s where s.starelid = to_regclass(t.name))`, []any{names}, &bare)
	if err != nil {
		// Only superusers may read pg_statistic; an owner sees only the times.
		err = s.To.Link.Row(ctx, `
select coalesce(array_agg(t.name order by t.name), '{}') from unnest($1::text[]) as t(name)
 where pg_relation_size(to_regclass(t.name)) > 0
   and pg_stat_get_last_analyze_time(to_regclass(t.name)) is null and pg_stat_get_last_autoanalyze_time(to_regclass(t.name)) is null`, []any{names}, &bare)
	}
	if err != nil {
		return nil, fmt.Errorf("look for statistics on the %s: %w", s.Sides.To(), err)
	}
	return bare, nil
}
