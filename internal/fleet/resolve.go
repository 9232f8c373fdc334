package fleet

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/internal/config"
	"github.com/walferry/walferry/internal/fail"
	"github.com/walferry/walferry/internal/session"
)

// Fleet is a file with what its patterns choose on the servers.
type Fleet struct {
	*File
	Databases []*Database // in the order in which they begin: by wave, then as in the file
	Problems  []Problem   // of instances that are left out of Databases

	servers map[string]*Server
}

// Problem is why nothing is known of an instance.
type Problem struct {
	Instance *Instance
	Err      error
}

// Database is a database to be moved.
type Database struct {
	Name     string // of the migration
	Instance string
	Line     int // of the file
	Source   string
	Target   string // the database there
	Wave     int
	Config   config.Migration

	From, To *Server
	missing  string // SQL that creates the target's database; empty: it is there

	instance *Instance
	options  options
}

// Server is a server of the fleet. Two addresses of one server are one.
type Server struct {
	ID      string // the system identifier; where the role may not read it, the address
	Address string // host:port, of the first instance that has named it
	dsn     string
	names   []string // databases that can be connected to
	create  map[string]string
}

// management are databases that a pattern with * or ? does not choose, only their names.
var management = []string{"postgres", "rdsadmin", "cloudsqladmin", "alloydbadmin", "azure_maintenance", "azure_sys"}

// Resolve asks the servers which databases the file is about. What the file cannot mean is an error of usage; an instance that cannot
// be asked is one of Problems, and holds up no other.
func Resolve(ctx context.Context, f *File, o Options) (*Fleet, error) {
	fleet := &Fleet{File: f, servers: map[string]*Server{}}
	type pair struct {
		from, to *Server
		err      error
	}
	pairs := make([]pair, len(f.Instances))
	var wait sync.WaitGroup
	for i, instance := range f.Instances {
		wait.Go(func() {
			p := &pairs[i]
			if p.from, p.err = look(ctx, instance.Source); p.err != nil {
				p.err = fmt.Errorf("source of instance %s: %w", instance.Name, p.err)
			} else if p.to, p.err = look(ctx, instance.Target); p.err != nil {
				p.err = fmt.Errorf("target of instance %s: %w", instance.Name, p.err)
			}
		})
	}
	wait.Wait()
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	for i, instance := range f.Instances {
		if p := pairs[i]; p.err != nil {
			fleet.Problems = append(fleet.Problems, Problem{instance, p.err})
		} else if err := fleet.add(instance, p.from, p.to, o); err != nil {
			return nil, err
		}
	}
	if err := fleet.distinct(); err != nil {
		return nil, err
	}
	slices.SortStableFunc(fleet.Databases, func(a, b *Database) int { return cmp.Compare(a.Wave, b.Wave) })
	return fleet, nil
}

// look asks a server for what it is and for its databases.
func look(ctx context.Context, dsn string) (*Server, error) {
	settings, err := session.Settings(dsn)
	if err != nil {
		return nil, err
	}
	if settings["dbname"] == "" && settings["service"] == "" {
		if dsn, err = session.WithDatabase(dsn, "postgres"); err != nil {
			return nil, err
		}
	}
	conn, err := session.Open(ctx, session.Config{DSN: dsn, Application: "fleet"})
	if err != nil {
		return nil, err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	s := &Server{dsn: dsn, Address: address(conn.Config()), create: map[string]string{}}
	s.ID = s.Address
	if err := conn.QueryRow(ctx, `select system_identifier::text from pg_control_system()`).Scan(&s.ID); err != nil && conn.IsClosed() {
		return nil, err
	}
	rows, err := conn.Query(ctx, `
select datname::text,
       format('create database %I template template0 encoding %L lc_collate %L lc_ctype %L', datname, pg_encoding_to_char(encoding), datcollate, datctype)
  from pg_database where datallowconn and not datistemplate order by datname`)
	if err != nil {
		return nil, fmt.Errorf("list databases: %w", err)
	}
	var name, create string
	_, err = pgx.ForEachRow(rows, []any{&name, &create}, func() error {
		s.names, s.create[name] = append(s.names, name), create
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list databases: %w", err)
	}
	return s, nil
}

func address(c *pgx.ConnConfig) string { return fmt.Sprintf("%s:%d", c.Host, c.Port) }

// server returns the one server of a fleet that a connection leads to.
func (f *Fleet) server(s *Server) *Server {
	if known := f.servers[s.ID]; known != nil {
		return known
	}
	f.servers[s.ID] = s
	return s
}

// Servers are those of the fleet, by address.
func (f *Fleet) Servers() []*Server {
	return slices.SortedFunc(maps.Values(f.servers), func(a, b *Server) int { return cmp.Or(cmp.Compare(a.Address, b.Address), cmp.Compare(a.ID, b.ID)) })
}

// add adds the databases of an instance.
func (f *Fleet) add(i *Instance, from, to *Server, o Options) error {
	there := to.names
	create := from.create
	names := from.names
	from, to = f.server(from), f.server(to)
	used := map[*Pattern]bool{}
	for _, name := range names {
		p := i.chosen(name, used)
		if p == nil || f.Wave(p.Wave).Over {
			continue
		}
		d := &Database{Name: cmp.Or(p.Name, nameOf(i.Name, name)), Instance: i.Name, Line: p.Line, Source: name, Target: cmp.Or(p.Target, name), Wave: p.Wave, From: from, To: to}
		if !slices.Contains(there, d.Target) {
			d.missing = create[name]
			if d.Target != name {
				d.missing = "" // what is to have another name is for a person to create
			}
			if d.missing == "" {
				d.missing = "create database " + pgx.Identifier{d.Target}.Sanitize()
			}
		}
		if err := d.configure(f.File, i, p, o); err != nil {
			return err
		}
		f.Databases = append(f.Databases, d)
	}
	for _, p := range i.Databases {
		if !p.Exclude && !used[p] {
			problem := fmt.Sprintf("instance %s has no database %q that could be connected to", i.Name, p.Text)
			if !p.Literal() {
				problem = fmt.Sprintf("no database of instance %s is chosen by %q", i.Name, p.Text)
			}
			return f.wrong(p.Line, problem, "the source has: "+listed(names))
		}
	}
	return nil
}

// wrong is an error of usage about a line of the file.
func (f *File) wrong(line int, problem, advice string) error {
	return &fail.Error{Kind: fail.Usage, Problem: fmt.Sprintf("fleet file %s: line %d: %s", f.Path, line, problem), Advice: advice}
}

// chosen returns the pattern that chooses a database; nil: none does. A name comes before patterns, the first pattern before others. It notes which
// patterns match anything.
func (i *Instance) chosen(name string, used map[*Pattern]bool) (by *Pattern) {
	out := false
	for _, p := range i.Databases {
		if !p.matches.MatchString(name) || !p.Literal() && slices.Contains(management, name) {
			continue
		}
		if p.Exclude {
			out = true
			continue
		}
		used[p] = true
		if by == nil || p.Literal() && !by.Literal() {
			by = p
		}
	}
	if out {
		return nil
	}
	return by
}

// configure makes the migration of a database.
func (d *Database) configure(f *File, i *Instance, p *Pattern, o Options) (err error) {
	where := lineOf(f.Path, p.Line)
	d.instance, d.options = i, p.options
	if d.Config, err = o.Make(where, p.options.values); err != nil {
		return err
	}
	c := &d.Config
	c.Name = d.Name
	if c.Source, err = session.WithDatabase(i.Source, d.Source); err != nil {
		return err
	}
	if c.Target, err = session.WithDatabase(i.Target, d.Target); err != nil {
		return err
	}
	if c.Until == config.UntilCaughtUp {
		return f.wrong(p.Line, "until is caught-up for database "+d.Source, "a slot that nobody reads would be left: leave it out")
	}
	if _, err := c.Fill(); err != nil {
		return &fail.Error{Kind: fail.Usage, Problem: fmt.Sprintf("fleet file %s: database %s: %v", where, d.Source, err), Advice: fail.Hint(err)}
	}
	return nil
}

// distinct makes sure that no two migrations have a name, a source or a target in common.
func (f *Fleet) distinct() error {
	type key struct{ kind, server, name string }
	seen := map[key]*Database{}
	for _, d := range f.Databases {
		if d.From == d.To && d.Source == d.Target {
			return f.wrong(d.Line, fmt.Sprintf("database %s is its own target", d.Source), "give it another server, or a target-database")
		}
		for _, k := range []key{{"the name", "", d.Name}, {"the source database", d.From.ID, d.Source}, {"the target database", d.To.ID, d.Target}} {
			if was := seen[k]; was != nil {
				return f.wrong(d.Line, fmt.Sprintf("database %s of instance %s has %s %s, as one of line %d has", d.Source, d.Instance, k.kind, k.name, was.Line),
					"slots and origins are named after migrations and belong to whole servers: give one a name or target-database of its own, or leave it out with !")
			}
			seen[k] = d
		}
	}
	return nil
}

// In returns the databases of a wave.
func (f *Fleet) In(wave int) (all []*Database) {
	for _, d := range f.Databases {
		if d.Wave == wave {
			all = append(all, d)
		}
	}
	return all
}

// Find returns the database of a migration's name.
func (f *Fleet) Find(name string) (*Database, error) {
	var names []string
	for _, d := range f.Databases {
		if d.Name == name {
			return d, nil
		}
		names = append(names, d.Name)
	}
	return nil, &fail.Error{Kind: fail.Usage, Problem: fmt.Sprintf("the fleet has no migration %q", name), Advice: "it has: " + listed(names)}
}

// listed joins the first few names for a sentence.
func listed(names []string) string {
	const most = 10
	text := ""
	for i, name := range names {
		if i == most {
			return text + fmt.Sprintf(" and %d more", len(names)-most)
		}
		if i > 0 {
			text += ", "
		}
		text += name
	}
	return text
}
