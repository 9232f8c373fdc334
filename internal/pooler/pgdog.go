package pooler

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/walferry/walferry/internal/wait"
)

// PgDog is driven by the same steps as PgBouncer, with other verbs: MAINTENANCE ON and OFF hold and release the clients of all its
// databases, and RELOAD reads pgdog.toml, which a hook has to change. None of this was tried with a PgDog: it is
// read out of its documentation (https://docs.pgdog.dev/administration/maintenance_mode) and of its admin
// commands (https://github.com/pgdogdev/pgdog, pgdog/src/admin). What differs:
//
//   - MAINTENANCE ON returns at once, and lets open transactions end. When they have, SHOW POOLS has no active connection.
//   - Nothing shows that it is on, and to switch it off twice does no harm: so it is switched off whatever is known.
//   - There is no SHOW DATABASES. SHOW POOLS has host and port of a database, and not its name on the server.
//   - Clients who are held have no connection to a server, and logins do not fail beside it: no settings have to be calmed.

// adminDatabase is the database of PgDog's admin console, if its file does not say otherwise.
const adminDatabase = "admin"

// dogEntry is entry for PgDog: the primary of a database, which is at one place for all users and shards, or unknown.
func (c *Console) dogEntry(ctx context.Context, name string) (*entry, error) {
	pools, err := c.run(ctx, "show pools")
	if err != nil {
		return nil, err
	}
	return placeOfPools(pools, name)
}

func placeOfPools(pools []row, name string) (found *entry, err error) {
	for _, p := range pools {
		if p["database"] != name || p["role"] == "replica" {
			continue
		}
		port, _ := strconv.Atoi(p["port"])
		place := Place{Host: p["addr"], Port: port}
		if found != nil && found.Place != place {
			return nil, fmt.Errorf("PgDog has database %s in more than one place: walferry moves one", name)
		}
		if found == nil || p["pool_mode"] == "session" {
			found = &entry{Place: place, mode: p["pool_mode"], row: row{}}
		}
	}
	return found, nil
}

// dogHold holds the clients, and returns when no transaction is open.
func (c *Console) dogHold(ctx context.Context, names []string) error {
	if _, err := c.run(ctx, "maintenance on"); err != nil {
		return err
	}
	return wait.Until(ctx, wait.Every(5*time.Millisecond), func() (bool, error) {
		pools, err := c.run(ctx, "show pools")
		return err == nil && !busy(pools, names), err
	})
}

// busy reports whether a transaction of the databases is open.
func busy(pools []row, names []string) bool {
	return slices.ContainsFunc(pools, func(p row) bool {
		active, err := strconv.Atoi(p["sv_active"])
		return slices.Contains(names, p["database"]) && (err != nil || active > 0)
	})
}

// dogInspect is inspect for PgDog.
func (c *Console) dogInspect(ctx context.Context, f *Fleet, x Expected, places map[string]Place) (problems []Problem) {
	blocks := func(do, format string, args ...any) {
		problems = append(problems, Problem{Seen: fmt.Sprintf(format, args...), Do: do, Blocks: true})
	}
	problems = append(problems, Problem{
		Seen: "it is PgDog, with which walferry was not tried; clients of all its databases are held",
		Do:   "rehearse it somewhere else first",
	})
	if len(f.Files) > 0 {
		blocks("leave out --pgbouncer-ini, and give a --hook that changes pgdog.toml at redirect and undo", "walferry does not change PgDog's file")
	}
	for _, name := range f.Names {
		e, err := c.dogEntry(ctx, name)
		switch want := x.From[name]; {
		case err != nil:
			blocks("give --pgbouncer PgDog's admin database: postgres://admin@host:6432/admin", "%v", err)
		case e == nil:
			blocks("give --pgbouncer-database a database of pgdog.toml that has a user", "it has no database %s", name)
		case e.mode == "session":
			blocks("set pooler_mode = \"transaction\"", "database %s is pooled by session: a client's connection is never free", name)
		case e.Port != want.Port || !sameHost(ctx, e.Host, want.Host):
			blocks("give --pgbouncer-database the one that leads to "+want.String(), "its database %s leads to %s:%d, not to %s", name, e.Host, e.Port, want)
		case x.To[name].Host == want.Host && x.To[name].Port == want.Port:
			blocks("do without --pgbouncer", "old and new server of %s have one host and port: PgDog does not show which database it leads to", name)
		default:
			places[name] = e.Place
		}
	}
	return problems
}
