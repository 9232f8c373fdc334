package pooler

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Problem is something that is in the way, or that has to be known.
type Problem struct {
	On     string // which instance, or file
	Seen   string
	Do     string
	Blocks bool
}

// Expected is what Preflight holds the instances against.
type Expected struct {
	From map[string]Place // where the databases have to be
	// Backend reports whether a process is a connection of From's to its database: it decides where
	// the pooler knows the server by another name. nil: only the address does.
	Backend func(ctx context.Context, pid int) (bool, error)
	To      map[string]Place
	// FromMajor and ToMajor are the servers' versions.
	FromMajor, ToMajor int
	Wait               time.Duration // for which clients may be held
}

// MustKill reports whether the clients' connections have to be ended when they are led from one
// server to another: from 1.26 on PgBouncer keeps every parameter that a server has reported, and sets it on the
// next one; an older server does not know those of a newer one and refuses all clients, old and new.
func MustKill(version, fromMajor, toMajor int) bool {
	return version >= 126 && fromMajor >= 16 && toMajor < 16
}

// Preflight looks for what would keep clients from being held, led elsewhere and let go. It changes
// nothing. places are where the databases are now.
func (f *Fleet) Preflight(ctx context.Context, x Expected) (problems []Problem, places map[string]Place, kill bool) {
	blocks := func(on, do, format string, args ...any) {
		problems = append(problems, Problem{On: on, Seen: fmt.Sprintf(format, args...), Do: do, Blocks: true})
	}
	places = map[string]Place{}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range f.Consoles {
		add := func(p Problem) { p.On = c.Address(); problems = append(problems, p) }
		version, err := c.version(ctx)
		if err != nil {
			blocks(c.Address(), "give --pgbouncer the address of its admin console: postgres://user@host:6432/pgbouncer, the user one of admin_users", "%v", err)
			continue
		}
		if c.dog {
			for _, p := range c.dogInspect(ctx, f, x, places) {
				add(p)
			}
			continue
		}
		if version < 110 {
			blocks(c.Address(), "update PgBouncer, or write a hook", "it is version %d.%d, and walferry knows 1.10 and newer", version/100, version%100)
		}
		if MustKill(version, x.FromMajor, x.ToMajor) {
			kill = true
			add(Problem{
				Seen: fmt.Sprintf("it is version %d.%d and keeps settings of version %d that version %d does not know: when its clients are led there their connections are ended, each with one error", version/100, version%100, x.FromMajor, x.ToMajor),
				Do:   "let applications reconnect after an error; PgBouncer up to 1.25 keeps them connected",
			})
		}
		for _, p := range c.inspect(ctx, f.Names, x, places) {
			add(p)
		}
	}
	if len(f.Files) > 0 {
		if _, err := placeIn(f.Files, x.To, true); err != nil {
			blocks("--pgbouncer-ini", "let walferry's user write the file and its folder and keep its owner, or lead the clients elsewhere by a hook for redirect", "it could not be changed: %v", err)
		}
	}
	return problems, places, kill
}

// inspect looks at one instance.
func (c *Console) inspect(ctx context.Context, names []string, x Expected, places map[string]Place) (problems []Problem) {
	blocks := func(do, format string, args ...any) {
		problems = append(problems, Problem{Seen: fmt.Sprintf(format, args...), Do: do, Blocks: true})
	}
	fails := func(err error) []Problem {
		blocks("give --pgbouncer a user of its admin_users", "%v", err)
		return problems
	}
	settings, err := c.settings(ctx)
	if err != nil {
		return fails(err)
	}
	// Only admin_users may: the value stays as it is.
	if err := c.set(ctx, "server_login_retry", settings["server_login_retry"]); err != nil {
		return fails(err)
	}
	problems = append(problems, c.siblings(ctx, settings)...)
	problems = append(problems, tooShort("", settings["query_wait_timeout"], x.Wait)...)
	users, err := c.run(ctx, "show users")
	if err != nil {
		return fails(err)
	}
	for _, u := range users {
		problems = append(problems, tooShort(" of user "+u["name"], u["query_wait_timeout"], x.Wait)...)
	}
	pools, err := c.run(ctx, "show pools")
	if err != nil {
		return fails(err)
	}
	for _, name := range names {
		e, err := c.entry(ctx, name)
		if err != nil {
			return fails(err)
		}
		if e == nil {
			blocks("give --pgbouncer-database a name of its section [databases]", "it has no database %s", name)
			continue
		}
		places[name] = e.Place
		if e.paused {
			blocks("resume it (RESUME "+identifier(name)+"), or ask whoever has paused it", "the clients of %s are held by somebody else", name)
		}
		problems = append(problems, tooShort(" of "+name, e.row["query_wait_timeout"], x.Wait)...)
		problems = append(problems, bySession(name, e, settings, pools, users)...)
		if why, err := c.elsewhere(ctx, name, e.Place, x.From[name], x.Backend); err != nil {
			return fails(err)
		} else if why != "" {
			blocks("give --pgbouncer-database the one that leads to "+x.From[name].String()+", or write its address in --source or --target as PgBouncer's file has it", "%s", why)
		}
	}
	return problems
}

// siblings: processes that share a port are reached by chance.
func (c *Console) siblings(ctx context.Context, settings map[string]string) []Problem {
	if settings["so_reuseport"] != "1" {
		return nil
	}
	if peers, err := c.run(ctx, "show peers"); err != nil || len(peers) == 0 { // 1.18 does not know them
		return []Problem{{Seen: "it shares its port (so_reuseport): if there are others like it, each needs a --pgbouncer of its own", Do: "give the unix socket of each"}}
	}
	if cfg := c.conn; cfg != nil && cfg.Conn().RemoteAddr().Network() == "unix" {
		return nil
	}
	return []Problem{{Seen: "it shares its port with others (so_reuseport): which one answers there is chance", Do: "give --pgbouncer the unix socket of each of them", Blocks: true}}
}

// tooShort: clients that wait for too long get an error.
func tooShort(whose, seconds string, wait time.Duration) []Problem {
	limit, err := strconv.ParseFloat(seconds, 64)
	const slack = 10 * time.Second
	if err != nil || limit == 0 || time.Duration(limit*float64(time.Second)) > wait+slack {
		return nil
	}
	return []Problem{{
		Seen:   fmt.Sprintf("its query_wait_timeout%s is %s s: clients that are held longer get an error, and a switch may take %s (--timeout)", whose, seconds, wait),
		Do:     fmt.Sprintf("set query_wait_timeout to more than %.0f s, or give a shorter --timeout", (wait + slack).Seconds()),
		Blocks: true,
	}}
}

// bySession: clients that have a connection to themselves are never between two transactions as PgBouncer sees it.
func bySession(name string, e *entry, settings map[string]string, pools, users []row) (problems []Problem) {
	const do = "set pool_mode = transaction; or do without --pgbouncer: clients then get one error each"
	mode := e.mode
	if mode == "" {
		mode = settings["pool_mode"]
	}
	if mode == "session" {
		problems = append(problems, Problem{Seen: fmt.Sprintf("database %s is pooled by session: PAUSE would wait until every client has disconnected", name), Do: do, Blocks: true})
	}
	for _, p := range pools {
		if p["database"] == name && p["pool_mode"] == "session" && mode != "session" {
			problems = append(problems, Problem{Seen: fmt.Sprintf("user %s of database %s is pooled by session: PAUSE would wait until it has disconnected", p["user"], name), Do: do, Blocks: true})
		}
	}
	for _, u := range users {
		pooled := slices.ContainsFunc(pools, func(p row) bool { return p["database"] == name && p["user"] == u["name"] })
		if u["pool_mode"] == "session" && mode != "session" && !pooled {
			problems = append(problems, Problem{Seen: fmt.Sprintf("user %s is pooled by session: if it comes to database %s, PAUSE waits until it has disconnected", u["name"], name), Do: do})
		}
	}
	return problems
}

// elsewhere returns why a database does not lead to the server that clients are to leave; empty: it does.
func (c *Console) elsewhere(ctx context.Context, name string, is, want Place, backend func(ctx context.Context, pid int) (bool, error)) (why string, err error) {
	if want.DBName != "" && is.DBName != want.DBName {
		return fmt.Sprintf("its database %s leads to the database %s, not to %s", name, is.DBName, want.DBName), nil
	}
	if is.Port == want.Port && sameHost(ctx, is.Host, want.Host) {
		return "", nil
	}
	// It may know the server by another name. Then its connections tell.
	servers, err := c.run(ctx, "show servers")
	if err != nil {
		return "", err
	}
	known := false
	for _, s := range servers {
		pid, _ := strconv.Atoi(s["remote_pid"])
		if s["database"] != name || pid == 0 || backend == nil || s["state"] == "login" {
			continue
		}
		if known, err = backend(ctx, pid); err != nil || !known {
			break
		}
	}
	if err != nil || known {
		return "", err
	}
	return fmt.Sprintf("its database %s leads to %s, not to %s", name, is, want), nil
}

// sameHost reports whether two names are those of one host.
func sameHost(ctx context.Context, a, b string) bool {
	local := func(h string) bool { return h == "" || strings.HasPrefix(h, "/") || strings.HasPrefix(h, "@") }
	if a == b || local(a) && local(b) {
		return true
	}
	if local(a) || local(b) {
		return isLoopback(ctx, a, local) && isLoopback(ctx, b, local)
	}
	first, err := net.DefaultResolver.LookupHost(ctx, a)
	second, err2 := net.DefaultResolver.LookupHost(ctx, b)
	if errors.Join(err, err2) != nil {
		return false
	}
	return slices.ContainsFunc(first, func(ip string) bool { return slices.Contains(second, ip) })
}

func isLoopback(ctx context.Context, host string, local func(string) bool) bool {
	if local(host) {
		return true
	}
	ips, err := net.DefaultResolver.LookupHost(ctx, host)
	return err == nil && !slices.ContainsFunc(ips, func(ip string) bool { return !net.ParseIP(ip).IsLoopback() })
}
