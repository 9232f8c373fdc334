package check

import (
	"context"
	"fmt"
	"regexp"

	"github.com/walferry/walferry/internal/catalog"
)

// tsvector is the type of what to_tsvector returns.
const tsvector = 3614

// toTSVector matches a call of to_tsvector with its configuration, as the server prints it.
var toTSVector = regexp.MustCompile(`to_tsvector\((?:'((?:[^']|'')*)'::regconfig)?`)

// stems reports whether an expression may compute lexemes with a stemmer: it calls to_tsvector with
// a configuration other than simple, or is a tsvector that some other function makes.
func stems(expression string, vector bool) bool {
	calls := toTSVector.FindAllStringSubmatch(expression, -1)
	for _, call := range calls {
		if call[1] != "simple" && call[1] != "pg_catalog.simple" {
			return true
		}
	}
	return vector && len(calls) == 0
}

// stemmers finds lexemes that the stemmers before version 19 have made, and that are searched for
// with those of version 19, or are made by both.
func (r *run) stemmers(ctx context.Context) error {
	if r.source.Major >= 19 || r.target.Major < 19 {
		return nil
	}
	computed, err := r.lexemes(ctx)
	if err != nil {
		return err
	}
	const changed = ", and version 19 has other stemmers (of Dutch above all, some words of English, French, German, Swedish and others)"
	const old = "`create text search dictionary dutch_old (template = snowball, language = dutch_porter, stopwords = dutch)` there has the old Dutch one"
	var findings []Finding
	for i := range r.tables {
		t := &r.tables[i]
		if t.IsPartition {
			continue // reported for the table that it is a partition of
		}
		var plain []string
		for j := range t.Columns {
			if c := &t.Columns[j]; c.TypeOID == tsvector && c.Generated == 0 {
				plain = append(plain, catalog.Quote(c.Name))
			}
		}
		if len(plain) > 0 {
			findings = append(findings, Finding{
				ID: "stemmers-stored", Severity: Warn, On: "source", Object: t.String(),
				Seen: fmt.Sprintf("column %s holds lexemes that version %d has made%s: searches on the target miss rows where they differ", list(plain), r.source.Major, changed),
				Do:   "after the cutover let the application, or the trigger that fills it, compute it again for every row; nothing if its configuration has no stemmer, as simple. Or search with the old one: " + old,
			})
		}
		if what := computed[t.OID]; len(what) > 0 {
			findings = append(findings, Finding{
				ID: "stemmers-computed", Severity: Warn, On: "source", Object: t.String(),
				Seen: fmt.Sprintf("%s: computed by each server for itself%s: searches on the target may find other rows than on the source, and verify reports such columns as different", list(what), changed),
				Do:   "nothing if the application may find other rows; otherwise, after the cutover, compute it with a configuration that has the old stemmer: " + old,
			})
		}
	}
	r.addEach(findings)
	return nil
}

// lexemes returns, by table of the source, its generated columns and indexes that a stemmer may have
// a part in.
func (r *run) lexemes(ctx context.Context) (map[uint32][]string, error) {
	generated := `false`
	if r.source.Major >= 12 {
		generated = `a.attgenerated <> ''`
	}
	byOID := map[string]uint32{}
	for i := range r.tables {
		byOID[fmt.Sprint(r.tables[i].OID)] = r.tables[i].OID
	}
	computed := map[uint32][]string{}
	err := r.source.records(ctx, "text search expressions", `
select c.oid::text, 'generated column', a.attname::text, pg_get_expr(d.adbin, d.adrelid), (a.atttypid = 'tsvector'::regtype)::text
  from pg_attrdef d join pg_class c on c.oid = d.adrelid join pg_attribute a on a.attrelid = d.adrelid and a.attnum = d.adnum
 where `+generated+` and c.oid = any($1::oid[])
union all
select c.oid::text, 'index', x.relname::text, pg_get_indexdef(i.indexrelid), 'false'
  from pg_index i join pg_class c on c.oid = i.indrelid join pg_class x on x.oid = i.indexrelid
 where i.indexprs is not null and c.oid = any($1::oid[])
 order by 1, 2, 3`, func(row []string) {
		if stems(row[3], row[4] == "true") {
			oid := byOID[row[0]]
			computed[oid] = append(computed[oid], row[1]+" "+catalog.Quote(row[2]))
		}
	}, r.oids())
	return computed, err
}
