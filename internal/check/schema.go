package check

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/fail"
	"github.com/walferry/walferry/internal/schema"
)

// schema checks how the target gets its schema: from pg_dump, or from the user.
func (r *run) schema(ctx context.Context) error {
	if r.c.Resuming {
		return nil // the copy has begun: it is there
	}
	if r.c.Schema == "none" {
		return r.compare(ctx)
	}
	if err := r.functionSettings(ctx); err != nil {
		return err
	}
	_, err := schema.Find(ctx, r.source.Major, r.target.Major)
	if err != nil && ctx.Err() == nil {
		r.add(Finding{ID: "pg-dump", Severity: Block, On: "tool", Seen: err.Error(), Do: fail.Hint(err)})
		return nil
	}
	return err
}

// functionSettings finds functions with a setting that version 19 no longer has, or no longer
// allows to be off: it rejects them.
func (r *run) functionSettings(ctx context.Context) error {
	if r.target.Major < 19 || r.source.Major >= 19 {
		return nil
	}
	rows, err := r.source.tx.Query(ctx, `
select p.oid::regprocedure::text, split_part(c.setting, '=', 1), p.prokind = 'p'
  from (select oid, pronamespace, proconfig, coalesce(to_jsonb(pg_proc) ->> 'prokind', 'f') as prokind from pg_proc where proconfig is not null) p
  join pg_namespace n on n.oid = p.pronamespace cross join unnest(p.proconfig) as c(setting)
 where `+catalog.NotOurs+` and (c.setting ~* '^escape_string_warning=' or c.setting ~* '^standard_conforming_strings=(off|false|no|0)$')
 order by 1`)
	if err != nil {
		return fmt.Errorf("look for settings of functions: %w", err)
	}
	var findings []Finding
	var function, setting string
	var procedure bool
	if _, err := pgx.ForEachRow(rows, []any{&function, &setting, &procedure}, func() error {
		kind := "function"
		if procedure {
			kind = "procedure"
		}
		findings = append(findings, Finding{
			ID: "function-setting", Severity: Block, On: "source", Object: function,
			Seen: fmt.Sprintf("it sets %s, which version %d of the target does not accept", setting, r.target.Major),
			Do:   "reset the setting, and make sure that the body does not rely on it",
			SQL:  []string{fmt.Sprintf("alter %s %s reset %s", kind, function, setting)},
		})
		return nil
	}); err != nil {
		return fmt.Errorf("look for settings of functions: %w", err)
	}
	r.addEach(findings)
	return nil
}

// compare compares the user's schema with the source's. A table that is missing altogether has been
// reported by broughtTables.
func (r *run) compare(ctx context.Context) error {
	differences, err := schema.Compare(ctx, r.source.tx, r.target.tx, r.tables)
	if err != nil {
		return err
	}
	missing := map[string]bool{}
	for _, f := range r.findings {
		if f.ID == "target-table-missing" {
			missing[f.Object] = true
		}
	}
	var findings []Finding
	for _, d := range differences {
		if missing[d.Table] {
			continue
		}
		f := Finding{
			ID: "schema-difference", Severity: Block, On: "target", Object: d.Table, Seen: d.Problem,
			Do: "make the table the same, or let --schema dump create it",
		}
		if d.Column != "" {
			f.Seen = "column " + catalog.Quote(d.Column) + ": " + d.Problem
		}
		if d.SQL != "" {
			f.SQL = []string{d.SQL}
		}
		findings = append(findings, f)
	}
	r.addEach(findings)
	stricter, err := schema.Stricter(ctx, r.source.tx, r.target.tx, r.tables)
	if err != nil {
		return err
	}
	findings = nil
	for _, d := range stricter {
		findings = append(findings, Finding{
			ID: "target-stricter", Severity: Warn, On: "target", Object: d.Table, Seen: d.Problem,
			Do: "on such a row copy or applier stop: drop it until the cutover, or make sure that the source has no such rows", SQL: []string{d.SQL},
		})
	}
	r.addEach(findings)
	return nil
}

// extensions of the source must be available on the target.
func (r *run) extensions(ctx context.Context) error {
	versions := map[string]string{}
	var names []string
	err := r.source.records(ctx, "extensions", `
select extname::text, extversion from pg_extension where extname <> 'plpgsql' order by 1`, func(row []string) {
		names = append(names, row[0])
		versions[row[0]] = row[1]
	})
	if err != nil || len(names) == 0 {
		return err
	}
	available, installed, restricted := map[string]string{}, map[string]string{}, map[string]bool{}
	err = r.target.records(ctx, "extensions", `
select e.name::text, coalesce(e.default_version, ''), coalesce(e.installed_version, ''),
       coalesce(bool_or(v.superuser and coalesce((to_jsonb(v) ->> 'trusted')::bool, false) is false), false)::text
  from pg_available_extensions e left join pg_available_extension_versions v on v.name = e.name and v.version = e.default_version
 where e.name = any($1::text[]) group by 1, 2, 3`, func(row []string) {
		available[row[0]], installed[row[0]], restricted[row[0]] = row[1], row[2], row[3] == "true"
	}, names)
	if err != nil {
		return err
	}
	for _, name := range names {
		has, there := available[name]
		if installed[name] != "" {
			has = installed[name]
		}
		f := Finding{On: "target", Object: catalog.Quote(name)}
		switch {
		case !there:
			f.ID, f.Severity = "extension-missing", Block
			f.Seen = fmt.Sprintf("the extension, %s on the source, is not available", versions[name])
			f.Do = "install its package (on RDS and Aurora see which are supported), or drop it on the source"
			if r.c.Schema == "none" {
				f.Severity = Warn
			}
		case installed[name] == "" && r.c.Schema != "none" && restricted[name] && !r.target.Superuser && r.target.Platform == "":
			f.ID, f.Severity = "extension-not-permitted", Block
			f.Seen = "the extension is not trusted: only a superuser may create it"
			f.Do, f.SQL = "have a superuser create it", []string{"create extension " + catalog.Quote(name)}
		case installed[name] == "" && r.c.Schema == "none":
			f.ID, f.Severity = "extension-not-created", Warn
			f.Seen = fmt.Sprintf("the extension, %s on the source, is not in the database", versions[name])
			f.SQL = []string{"create extension " + catalog.Quote(name)}
		case older(has, versions[name]):
			f.ID, f.Severity = "extension-older", Warn
			f.Seen = fmt.Sprintf("the extension is version %s, on the source %s", has, versions[name])
			f.Do = "what the newer one added may be missing: install a newer package"
			if installed[name] != "" && !older(available[name], versions[name]) {
				f.SQL = []string{"alter extension " + catalog.Quote(name) + " update"}
			}
		default:
			continue
		}
		r.add(f)
	}
	return nil
}

// older compares versions of numbers with dots; others are never older.
func older(a, b string) bool {
	x, y := strings.Split(a, "."), strings.Split(b, ".")
	for i := range min(len(x), len(y)) {
		m, err := strconv.Atoi(x[i])
		n, err2 := strconv.Atoi(y[i])
		if err != nil || err2 != nil {
			return false
		}
		if m != n {
			return m < n
		}
	}
	return len(x) < len(y)
}
