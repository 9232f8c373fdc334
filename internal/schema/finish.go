package schema

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/internal/catalog"
)

// stage is when Finish creates an entry; within a stage the archive's order holds.
type stage int

const (
	elsewhere    stage = iota // before the data, or by ForeignKeys
	structure                 // missing indexes and constraints, statistics objects, rules
	guard                     // triggers, policies, row security: none may act on what comes before
	privilege                 // after owners: a privilege is given in the owner's name
	matview                   // rows of materialized views, read with their owners' rights; their order is that of their dependencies
	ofMatview                 // their indexes
	remark                    // comments and security labels, of those indexes too
	eventTrigger              // last: they would see what we do
)

func (d *Dump) stage(e *entry) stage {
	switch e.kind {
	case "FK CONSTRAINT", "INDEX ATTACH":
		return elsewhere
	case "MATERIALIZED VIEW DATA":
		return matview
	case "TRIGGER", "POLICY", "ROW SECURITY":
		return guard
	case "ACL", "DEFAULT ACL", "COMMENT", "SECURITY LABEL":
		if strings.HasPrefix(e.tag, "EVENT TRIGGER ") {
			return eventTrigger
		}
		if e.kind == "ACL" && strings.HasPrefix(e.tag, "SCHEMA ") {
			return elsewhere // with the owners
		}
		if e.kind == "COMMENT" || e.kind == "SECURITY LABEL" {
			return remark
		}
		return privilege
	case "EVENT TRIGGER":
		return eventTrigger
	}
	if table, _, _, ok := e.target(); ok && slices.Contains(d.matviews, table) {
		return ofMatview
	}
	if e.section == sectionPostData {
		return structure
	}
	return elsewhere
}

// finish is one run of Finish.
type finish struct {
	dump    *Dump
	conn    *pgx.Conn
	do      func(ctx context.Context, sql string) error // runs an entry's SQL, all of it or nothing
	present Present
	roles   *roles
	report  Report
	denied  map[string][]string // why -> what; reported once, as there may be thousands
	out     map[int]bool        // entries that are left out, with what the target has refused
	failed  []error
}

// Finish creates the rest, in this order: indexes, constraints, statistics objects and rules that
// are still missing; triggers with their states, policies, row security; owners; privileges,
// default privileges; the rows and indexes of the materialized views that the source has filled;
// comments, security labels; event triggers. Foreign keys are left to ForeignKeys.
//
// It is called when every table has its rows. What is there is skipped, so that it can be repeated.
// Roles that the target lacks, owners that the connected role cannot give objects to, and what it
// has no right to create are reported. Everything is tried; the error joins the *ObjectErrors of
// what failed for other reasons, see Refusals. What was refused before the data is tried again, and
// is in the report, with what depends on it, if it is refused again.
func (d *Dump) Finish(ctx context.Context, conn *pgx.Conn) (Report, error) {
	f := &finish{dump: d, conn: conn, denied: map[string][]string{}, out: map[int]bool{}}
	f.do = func(ctx context.Context, sql string) error { return d.do(ctx, conn, sql) }
	f.report.Skipped = append(f.report.Skipped, d.left...)
	if err := f.run(ctx); err != nil {
		f.failed = append(f.failed, err)
	}
	f.reportDenied()
	return f.report, errors.Join(f.failed...)
}

func (f *finish) run(ctx context.Context) (err error) {
	if f.present, err = LoadPresent(ctx, f.conn); err != nil {
		return err
	}
	if f.roles, err = loadRoles(ctx, f.conn); err != nil {
		return err
	}
	if err := f.late(ctx); err != nil {
		return err
	}
	if err := f.all(ctx, structure); err != nil {
		return err
	}
	for _, err := range flat(f.dump.attach(ctx, f.conn)) {
		if err := f.failing(ctx, err); err != nil {
			return err
		}
	}
	if err := f.all(ctx, guard); err != nil {
		return err
	}
	if err := f.owners(ctx); err != nil {
		return err
	}
	for s := privilege; s <= eventTrigger; s++ {
		if err := f.all(ctx, s); err != nil {
			return err
		}
	}
	return nil
}

// all creates the entries of a stage. Its error means that no more can be done.
func (f *finish) all(ctx context.Context, s stage) error {
	for _, e := range f.dump.entries {
		if f.dump.stage(e) != s || f.out[e.id] || s == remark && f.ofLateKey(e) {
			continue
		}
		var err error
		switch {
		case e.kind == "ACL" || e.kind == "DEFAULT ACL":
			err = f.privileges(ctx, e)
		case isIndex(e):
			table, name, _, _ := e.target()
			err = Index{Table: table, Name: name, dump: f.dump, entry: e}.build(ctx, f.conn, f.present)
		default:
			err = f.create(ctx, e)
		}
		if err == nil && e.kind == "EVENT TRIGGER" {
			err = f.own(ctx, e)
		}
		if err := f.failing(ctx, err); err != nil {
			return err
		}
	}
	return nil
}

// ofLateKey reports whether e is the comment on a foreign key that is not there: LateForeignKeys brings it.
func (f *finish) ofLateKey(e *entry) bool {
	if e.kind != "COMMENT" || len(e.deps) != 1 {
		return false
	}
	at := slices.IndexFunc(f.dump.entries, func(k *entry) bool { return k.id == e.deps[0] && k.kind == "FK CONSTRAINT" })
	if at < 0 {
		return false
	}
	_, there := f.present[f.dump.entries[at].key()]
	return !there
}

// late tries again what the target has refused before the data: a function that it needs may have
// been fixed there, or somebody has created it by hand.
func (f *finish) late(ctx context.Context) error {
	for _, e := range f.dump.late() {
		if f.out[e.id] {
			continue
		}
		there, err := e.exists(ctx, f.conn)
		if err != nil {
			return err
		}
		if there {
			continue
		}
		err = f.create(ctx, e)
		var object *ObjectError
		if errors.As(err, &object) && catalog.LastWord(object.Err) {
			f.report.Refused = append(f.report.Refused, f.dump.leave(f.out, e, object.why())...)
			continue
		}
		if err := f.failing(ctx, err); err != nil {
			return err
		}
	}
	return nil
}

// failing keeps an error of one object for later, and returns one that ends the run.
func (f *finish) failing(ctx context.Context, err error) error {
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case f.conn.IsClosed():
		return err
	}
	f.failed = append(f.failed, err)
	return nil
}

// create creates one entry, unless it is there.
func (f *finish) create(ctx context.Context, e *entry) error {
	k := e.key()
	if s, ok := f.present[k]; ok && (s.ok || k.kind == "CONSTRAINT") && !f.dump.ambiguous[k] {
		return nil
	}
	sql := e.sql
	if e.kind == "MATERIALIZED VIEW DATA" {
		sql = asItsOwner + sql
	}
	err := f.do(ctx, sql)
	switch {
	case err == nil || present(err):
		return nil
	case tolerable(err) || (e.kind == "SECURITY LABEL" && catalog.State(err) == catalog.InvalidParameterValue):
		f.report.skip(e.String(), why(err))
		return nil
	}
	return objectError(e, e.sql, err)
}
