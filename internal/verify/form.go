package verify

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/internal/catalog"
)

// binary are the built-in types whose send function writes the same bytes for the same value on all
// versions. Excluded are those whose binary form contains OIDs (reg*), depends on the server (xml)
// or may change (jsonpath, tid, snapshots).
var binary = []uint32{
	16, 17, 18, 19, 20, 21, 23, 25, 26, 28, // bool bytea "char" name int8 int2 int4 text oid xid
	114, 3802, // json jsonb
	600, 601, 602, 603, 604, 628, 718, // point lseg path box polygon line circle
	650, 869, 829, 774, // cidr inet macaddr macaddr8
	700, 701, 790, 1700, // float4 float8 money numeric
	1042, 1043, 1560, 1562, // bpchar varchar bit varbit
	1082, 1083, 1114, 1184, 1186, 1266, // date time timestamp timestamptz interval timetz
	2950, 3220, 3614, 3615, 5069, // uuid pg_lsn tsvector tsquery xid8
	3904, 3906, 3908, 3910, 3912, 3926, // ranges
	4451, 4532, 4533, 4534, 4535, 4536, // multiranges
}

// ordered are the types that all servers sort the same way. Text is not among them: collations
// differ.
var ordered = []uint32{20, 21, 23, 26, 1082, 1114, 1184, 1700, 2950} // int8 int2 int4 oid date timestamp timestamptz numeric uuid

// typeInfo describes what underlies a column's type.
type typeInfo struct {
	base     uint32 // the type itself, or the ultimate base type of a domain
	baseName string
	domain   bool
	element  uint32 // of an array (the base): its elements' type; else 0
	lsn      bool   // it contains a pg_lsn somewhere
}

func (t typeInfo) isBinary() bool {
	if t.element != 0 {
		return slices.Contains(binary, t.element)
	}
	return slices.Contains(binary, t.base)
}

const selectTypes = `
with recursive t(oid, base) as (
    select o, o from unnest($1::oid[]) o
    union all
    select t.oid, d.typbasetype from t join pg_type d on d.oid = t.base where d.typtype = 'd'),
parts(oid, part) as (
    select o, o from unnest($1::oid[]) o
    union
    select p.oid, x.part from parts p join pg_type d on d.oid = p.part cross join lateral (
        select d.typbasetype union all select d.typelem union all select r.rngsubtype from pg_range r where r.rngtypid = d.oid
        union all select a.atttypid from pg_attribute a where a.attrelid = d.typrelid and a.attnum > 0 and not a.attisdropped) x(part)
     where x.part <> 0)
select t.oid, b.oid, format_type(b.oid, -1), case when b.typcategory = 'A' then b.typelem else 0 end,
       exists(select from parts where parts.oid = t.oid and part = 'pg_lsn'::regtype)
  from t join pg_type b on b.oid = t.base where b.typtype <> 'd'`

// types reads the typeInfo of the types with these OIDs.
func types(ctx context.Context, q catalog.Querier, oids []uint32) (map[uint32]typeInfo, error) {
	slices.Sort(oids)
	rows, err := q.Query(ctx, selectTypes, slices.Compact(oids))
	if err != nil {
		return nil, fmt.Errorf("read types: %w", err)
	}
	found := map[uint32]typeInfo{}
	var oid uint32
	var info typeInfo
	if _, err := pgx.ForEachRow(rows, []any{&oid, &info.base, &info.baseName, &info.element, &info.lsn}, func() error {
		info.domain = info.base != oid
		found[oid] = info
		return nil
	}); err != nil {
		return nil, fmt.Errorf("read types: %w", err)
	}
	return found, nil
}

// columnForm returns the SQL expression for a column that is hashed, the same on both sides.
// record_send writes it in binary, after the OID of its type and its length, with text in the
// client's encoding:
//
//   - built-in types, and arrays of them, as they are; so a float is compared bit
//     by bit, although versions up to 11 write it with other digits than later ones;
//   - a domain as what it is over, because its OID differs from server to server. (The
//     server makes no call of that cast, and ignores casts that somebody has made of a domain);
//   - every other type (enums, composites, extensions' types, user-defined ranges, xml), and
//     a column that has another type on the target, as its output function writes it. Where that
//     holds floats and exactly one of the sides is older than 12, they are compared by 15 digits
//     (float4: 6), the longest form that both write; see Verifier.settle. Where it holds a
//     pg_lsn and exactly one of the sides is older than 19, that of the other is written as before.
func columnForm(name string, source, target typeInfo, otherLSN bool) string {
	quoted := catalog.Quote(name)
	switch {
	case (source.base != target.base || !source.isBinary()) && otherLSN && (source.lsn || target.lsn):
		return "case when " + quoted + " is distinct from null then " + olderLSN("concat("+quoted+")") + " end"
	case source.base != target.base || !source.isBinary():
		return output(quoted)
	case source.domain || target.domain:
		return quoted + "::" + source.baseName
	}
	return quoted
}

// olderLSN writes the positions in a text as versions up to 18 do: 19 pads their second half to
// eight digits.
func olderLSN(text string) string {
	return "case when current_setting('server_version_num')::int < 190000 then " + text + " else regexp_replace(" + text + `, '/(?=[0-9A-F]{8}(?![0-9A-Za-z]))0{1,7}', '/', 'g') end`
}

// output returns the expression for a value as its type's output function writes it, which is what
// is copied and what every client sees. A cast to text may be user-defined: it may return anything,
// and would run with walferry's rights. concat calls the output function of any argument; a row of
// NULLs is not NULL for IS DISTINCT FROM.
func output(expression string) string {
	return "case when " + expression + " is distinct from null then concat(" + expression + ") end"
}

// rowBytes returns the expression for all forms in one bytea.
func rowBytes(forms []string) string {
	if len(forms) == 0 {
		return `'\x'::bytea`
	}
	return "record_send(row(" + strings.Join(forms, ", ") + "))"
}

// digest returns the expression for a row's hash: 128 bits as 32 characters.
func digest(forms []string) string { return "md5(" + rowBytes(forms) + ")" }

// number turns the first 16 digits of a digest into 64 bits for summing. The servers' own hash
// functions would be a tenth faster, but they are not guaranteed to stay the same.
func number(digest string) string { return "('x' || " + digest + ")::bit(64)::int8" }
