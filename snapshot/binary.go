package snapshot

import (
	"context"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"
)

// sameBinary are the built-in types whose binary form is the same in versions 10 to 19 and
// independent of the database; it has no OIDs of user types, for example. Binary saves both servers
// the conversion.
var sameBinary = func() map[uint32]bool {
	types := map[uint32]bool{}
	for _, oid := range []uint32{
		16, 1000, // bool, and its array
		17, 1001, // bytea
		18,       // "char"
		20, 1016, // int8
		21, 1005, // int2
		23, 1007, // int4
		25, 1009, // text
		114, 199, // json
		600, 601, 602, 603, 604, 628, 718, // point, lseg, path, box, polygon, line, circle
		700, 1021, // float4
		701, 1022, // float8
		829, 774, // macaddr, macaddr8
		869, 650, // inet, cidr
		1042, 1014, // bpchar
		1043, 1015, // varchar
		1082, 1182, // date
		1083, 1183, // time
		1114, 1115, // timestamp
		1184, 1185, // timestamptz
		1186, 1187, // interval
		1266, 1270, // timetz
		1560, 1562, // bit, varbit
		1700, 1231, // numeric
		2950, 2951, // uuid
		3220,       // pg_lsn
		3614,       // tsvector
		3802, 3807, // jsonb
		3904, 3906, 3908, 3910, 3912, 3926, // ranges: int4, num, ts, tstz, date, int8
	} {
		types[oid] = true
	}
	return types
}()

// The send and receive functions of types that are not built in; those of a domain are of its base
// type.
const selectForms = `
with recursive below(oid, type) as (
  select t, t from unnest($1::oid[]) t
  union all
  select b.oid, t.typbasetype from below b join pg_type t on t.oid = b.type where t.typtype = 'd')
select b.oid, b.type, t.typtype::text, s.prosrc, r.prosrc, coalesce(s.probin, ''), coalesce(r.probin, ''),
       array(select a.atttypid from pg_attribute a where a.attrelid = t.typrelid and a.attnum > 0 and not a.attisdropped order by a.attnum)
  from below b
  join pg_type t on t.oid = b.type
  join pg_proc s on s.oid = t.typsend
  join pg_proc r on r.oid = t.typreceive
 where t.typtype <> 'd'`

// binaryForms names the binary form of each type: values are copied in binary between columns whose
// types have the same form. A type whose form may differ between servers, or contains OIDs of one
// database, has none; its values are copied as text.
//
// An enum sends its labels. Types of extensions are recognized by their functions, not by their
// names: citext uses those of text. A row sends the OIDs of its columns' types, which are the same
// everywhere if they are built in. So do arrays, and therefore arrays of types that are not built
// in have no form (src/backend/utils/adt: enum.c, rowtypes.c, arrayfuncs.c;
// contrib/hstore/hstore_io.c).
func binaryForms(ctx context.Context, conn *pgx.Conn, types []uint32) (map[uint32]string, error) {
	forms := map[uint32]string{}
	var others []uint32
	for _, oid := range types {
		if sameBinary[oid] {
			forms[oid] = fmt.Sprint(oid)
		} else {
			others = append(others, oid)
		}
	}
	if len(others) == 0 {
		return forms, nil
	}
	rows, err := conn.Query(ctx, selectForms, others)
	if err != nil {
		return nil, fmt.Errorf("read types: %w", err)
	}
	var oid, below uint32
	var kind, send, receive, sendIn, receiveIn string
	var columns []uint32
	_, err = pgx.ForEachRow(rows, []any{&oid, &below, &kind, &send, &receive, &sendIn, &receiveIn, &columns}, func() error {
		switch {
		case sameBinary[below]:
			forms[oid] = fmt.Sprint(below)
		case kind == "e":
			forms[oid] = "enum"
		case kind == "b" && send == "textsend" && receive == "textrecv" && sendIn == "" && receiveIn == "":
			forms[oid] = "25"
		case kind == "b" && send == "hstore_send" && receive == "hstore_recv" && sendIn == "$libdir/hstore" && receiveIn == sendIn:
			forms[oid] = "hstore"
		case kind == "c" && !slices.ContainsFunc(columns, func(c uint32) bool { return !sameBinary[c] }):
			forms[oid] = fmt.Sprint("row ", columns)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read types: %w", err)
	}
	return forms, nil
}
