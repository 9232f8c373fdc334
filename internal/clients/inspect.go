package clients

import (
	"cmp"
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/internal/check"
	"github.com/walferry/walferry/internal/cutover"
	"github.com/walferry/walferry/internal/fail"
	"github.com/walferry/walferry/internal/hook"
	"github.com/walferry/walferry/internal/pooler"
	"github.com/walferry/walferry/internal/session"
	"github.com/walferry/walferry/internal/state"
)

// inspect looks at the poolers.
func (s *Steering) inspect(ctx context.Context) ([]pooler.Problem, error) {
	here, to, err := s.places(ctx)
	if err != nil {
		return nil, err
	}
	x := pooler.Expected{From: here, To: to, FromMajor: s.major(s.From), ToMajor: s.major(s.To), Wait: cmp.Or(s.Within, time.Minute)}
	x.Backend = func(ctx context.Context, pid int) (there bool, err error) {
		err = s.From.Link.Do(ctx, func(conn *pgx.Conn) error {
			return conn.QueryRow(ctx, `select exists(select from pg_stat_activity where pid = $1 and datname = current_database())`, pid).Scan(&there)
		})
		return there, err
	}
	problems, was, kill := s.fleet.Preflight(ctx, x)
	s.mu.Lock()
	s.was, s.kill = was, kill
	s.mu.Unlock()
	return problems, nil
}

// Findings are what would keep the clients from being switched, for a check. Hooks are asked, too.
func (s *Steering) Findings(ctx context.Context) (found []check.Finding) {
	s.open()
	add := func(severity check.Severity, object, seen, do string) {
		found = append(found, check.Finding{ID: check.Clients, Severity: severity, On: "tool", Object: object, Seen: seen, Do: do})
	}
	if held, err := s.Held(ctx); err == nil && held {
		return nil // a run before this one has died: the next one lets them go first
	}
	if err := s.ask(ctx); err != nil {
		add(check.Block, "", err.Error(), fail.Hint(err))
		return found
	}
	if len(s.PgBouncer) > 0 {
		problems, err := s.inspect(ctx)
		if err != nil {
			add(check.Block, "--pgbouncer", err.Error(), fail.Hint(err))
		}
		for _, p := range problems {
			severity := check.Warn
			if p.Blocks {
				severity = check.Block
			}
			add(severity, p.On, p.Seen, p.Do)
		}
	}
	for _, err := range s.caller.All(ctx, s.payload(hook.Check, cutover.Moment{DryRun: true})) {
		add(check.Block, "--hook", err.Error(), fail.Hint(err))
	}
	return found
}

// Complete leaves poolers out with which something has to be given that was not, such as those of an environment that has their address
// alone, and returns what a check says of that.
func (c Config) Complete() (Config, []check.Finding) {
	err := c.incomplete()
	if err == nil {
		return c, nil
	}
	found := check.Finding{ID: check.Clients, Severity: check.Block, On: "tool", Object: "--pgbouncer", Seen: err.Error() + ": the pooler was not looked at", Do: fail.Hint(err)}
	c.PgBouncer, c.Databases, c.Files = nil, nil, nil
	return c, []check.Finding{found}
}

// places returns where the databases of the poolers ought to be before and after a switch.
func (s *Steering) places(ctx context.Context) (from, to map[string]pooler.Place, err error) {
	here, err := placeOf(s.From.DSN)
	if err != nil {
		return nil, nil, err
	}
	there, err := placeOf(s.To.DSN)
	if err != nil {
		return nil, nil, err
	}
	var before Held // of the switch that has led them away from To
	if s.Other != nil {
		if _, err := s.Other.Values().Get(ctx, state.Clients, &before); err != nil {
			return nil, nil, err
		}
	}
	from, to = map[string]pooler.Place{}, map[string]pooler.Place{}
	for _, d := range s.Databases {
		name, given, err := parseDatabase(d)
		if err != nil {
			return nil, nil, err
		}
		given = pooler.Place{Host: given.Host, Port: given.Port, DBName: given.DBName}
		from[name], to[name] = here, there
		if s.Switch == Fallback {
			from[name] = over(here, given)
			if was, known := before.Was[name]; known {
				to[name] = was
			}
		} else {
			to[name] = over(there, given)
		}
	}
	return from, to, nil
}

// over returns a place with what is given of another.
func over(p, given pooler.Place) pooler.Place {
	return pooler.Place{Host: cmp.Or(given.Host, p.Host), Port: cmp.Or(given.Port, p.Port), DBName: cmp.Or(given.DBName, p.DBName)}
}

func placeOf(dsn string) (pooler.Place, error) {
	cfg, err := session.Parse(dsn)
	if err != nil {
		return pooler.Place{}, err
	}
	return pooler.Place{Host: cfg.Host, Port: int(cfg.Port), DBName: cfg.Database}, nil
}
