package check

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/walferry/walferry/internal/catalog"
)

func (s *server) mayReplicate() bool {
	return s.Superuser || s.roleReplication || (s.rdsReplication != nil && *s.rdsReplication)
}

func (s *server) replicationRight() []Finding {
	if s.mayReplicate() {
		return nil
	}
	user := catalog.Quote(s.User)
	f := Finding{
		ID: "replication-right", Severity: Block, On: s.side, Object: user,
		Seen: "the role may not replicate", Do: "run it as a superuser", SQL: []string{"alter role " + user + " replication"},
	}
	if s.rdsReplication != nil {
		f.Do, f.SQL = "run it as a member of rds_superuser", []string{"grant rds_replication to " + user}
	}
	return []Finding{f}
}

// privileges checks what the source's role may do.
func (r *run) privileges(ctx context.Context) error {
	r.add(r.source.replicationRight()...)
	for _, s := range []*server{r.source, r.target} {
		if !s.createOnDatabase {
			r.add(s.createRight(map[string]string{"source": "a publication and the schema walferry", "target": "the schema walferry"}[s.side]))
		}
		r.activityHidden(s)
	}
	owners, err := r.source.ownership(ctx, r.tables, "publish")
	if err != nil {
		return err
	}
	r.add(owners...)
	if err := r.usage(ctx); err != nil {
		return err
	}
	return r.readable(ctx)
}

func (s *server) createRight(what string) Finding {
	return Finding{
		ID: "create-on-database", Severity: Block, On: s.side, Object: catalog.Quote(s.Database),
		Seen: s.User + " may not create " + what + " in the database",
		SQL:  []string{fmt.Sprintf("grant create on database %s to %s", catalog.Quote(s.Database), catalog.Quote(s.User))},
	}
}

// activityHidden: what holds a cutover up is named for the operator, who decides by its age.
func (r *run) activityHidden(s *server) {
	if s.readsStats {
		return
	}
	user := catalog.Quote(s.User)
	f := Finding{
		ID: "activity-hidden", Severity: Info, On: s.side, Object: user,
		Seen: "the role may not see what other roles' sessions do: one that is in the way is named without its age, state and statement",
		Do:   "nothing has to be done; to learn them, run it as a superuser",
	}
	if s.Major == 15 && !s.roleInherit {
		f.SQL = []string{"alter role " + user + " inherit"}
	}
	grant := "grant pg_read_all_stats to " + user
	if s.Major >= 16 {
		grant += " with inherit true"
	}
	f.SQL = append(f.SQL, grant)
	r.add(f)
}

// ownership of a table is required to publish it, and for the fence.
func (s *server) ownership(ctx context.Context, tables []catalog.Table, to string) (findings []Finding, err error) {
	owners := map[string][]string{}
	for i := range tables {
		if t := &tables[i]; !t.OwnerLike {
			owners[t.Owner] = append(owners[t.Owner], t.String())
		}
	}
	if len(owners) == 0 {
		return nil, nil
	}
	var members, superusers []string
	err = s.records(ctx, "roles", `select rolname::text, pg_has_role(oid, 'MEMBER')::text, rolsuper::text from pg_roles`, func(row []string) {
		if row[1] == "true" {
			members = append(members, row[0])
		}
		if row[2] == "true" {
			superusers = append(superusers, row[0])
		}
	})
	if err != nil {
		return nil, err
	}
	for _, owner := range slices.Sorted(maps.Keys(owners)) {
		f := Finding{
			ID: "table-owner", Severity: Block, On: s.side, Object: catalog.Quote(owner),
			Seen: fmt.Sprintf("%s cannot %s what %s owns: %s", s.User, to, owner, list(owners[owner])),
			Do:   "publishing a table requires its ownership: make the role a member of the owner, or connect as the owner, or --exclude them",
		}
		if slices.Contains(superusers, owner) {
			f.Do += "; the owner is a superuser, so membership grants a lot: better give the tables to an ordinary role"
		}
		grant := fmt.Sprintf("grant %s to %s", catalog.Quote(owner), catalog.Quote(s.User))
		switch {
		case s.Major >= 16:
			grant += " with inherit true"
		case slices.Contains(members, owner):
			f.Seen = fmt.Sprintf("%s is a member of %s, but does not inherit: it cannot %s %s", s.User, owner, to, list(owners[owner]))
			grant = "alter role " + catalog.Quote(s.User) + " inherit"
		case !s.roleInherit:
			f.SQL = []string{"alter role " + catalog.Quote(s.User) + " inherit"}
		}
		f.SQL = append(f.SQL, grant)
		findings = append(findings, f)
	}
	return findings, nil
}

func (r *run) schemas() []string {
	var names []string
	for i := range r.tables {
		names = append(names, r.tables[i].Schema)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

func (r *run) usage(ctx context.Context) error {
	s := r.source
	missing, err := s.texts(ctx, "schemas", `
select nspname::text from pg_namespace where nspname = any($1::text[]) and not has_schema_privilege(oid, 'USAGE') order by 1`, r.schemas())
	if err != nil {
		return err
	}
	var findings []Finding
	for _, name := range missing {
		findings = append(findings, Finding{
			ID: "schema-usage", Severity: Block, On: "source", Object: catalog.Quote(name),
			Seen: s.User + " may not use the schema",
			SQL:  []string{fmt.Sprintf("grant usage on schema %s to %s", catalog.Quote(name), catalog.Quote(s.User))},
		})
	}
	r.addEach(findings)
	return nil
}

// readable checks SELECT, and that row security hides no rows. What ownership includes is not
// reported again.
func (r *run) readable(ctx context.Context) error {
	s := r.source
	user := catalog.Quote(s.User)
	var selects []Finding
	for i := range r.tables {
		t := &r.tables[i]
		if !t.CanSelect && t.Kind == 'r' {
			selects = append(selects, Finding{
				ID: "table-select", Severity: Block, On: "source", Object: t.String(),
				Seen: s.User + " may not read the table", SQL: []string{fmt.Sprintf("grant select on %s to %s", t, user)},
			})
		}
	}
	r.addEach(selects)
	r.addEach(s.rowSecurity(r.tables))
	all, err := catalog.Sequences(ctx, s.tx)
	if err != nil {
		return fmt.Errorf("check the source: %w", err)
	}
	var sequences []Finding
	for _, q := range catalog.SequencesOf(all, r.tables) {
		if !q.CanSelect {
			sequences = append(sequences, Finding{
				ID: "sequence-select", Severity: Block, On: "source", Object: q.String(),
				Seen: s.User + " may not read the sequence, and could not set it on the target",
				SQL:  []string{fmt.Sprintf("grant select on sequence %s to %s", q, user)},
			})
		}
	}
	r.addEach(sequences)
	return nil
}

// rowSecurity hides rows from a role: it could neither read nor change them.
func (s *server) rowSecurity(tables []catalog.Table) (findings []Finding) {
	for i := range tables {
		t := &tables[i]
		if !t.RowSecurity || s.Superuser || s.roleBypassRLS || (t.OwnerLike && !t.ForceRowSecurity) {
			continue
		}
		f := Finding{
			ID: "row-security", Severity: Block, On: s.side, Object: t.String(),
			Seen: "row security hides rows from " + s.User,
			Do:   "let the role see every row, or make it a member of the owner; walferry reads with row_security = off and would fail",
			SQL:  []string{fmt.Sprintf("alter role %s bypassrls", catalog.Quote(s.User))},
		}
		if t.OwnerLike {
			f.Seen = "row security is forced, so it hides rows from the owner, too"
		}
		findings = append(findings, f)
	}
	return findings
}
