package check

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/fail"
)

// What a way back is to the operator, as in Config.FallBack.
const (
	FallBackOff     = "off"     // the zero value's meaning: it is only said whether one could be had
	FallBackAuto    = "auto"    // what keeps it from being had is a warning
	FallBackRequire = "require" // and blocks
	FallBackKept    = "kept"    // there is one: nothing is looked for
)

// Arming is what a flow is to be armed for, between two servers that have its tables.
type Arming struct {
	From, To string // connection strings of the server that changes are to come from, and of the one that they go to
	Name     string // of the flow
	Back     bool   // From is the new server, To the old one
	Tables   []catalog.Name
	Inserts  []catalog.Name // of --insert-only

	// MaxRetainedWAL is how many bytes of WAL the slot may hold back on From. Zero or less: none was given.
	MaxRetainedWAL int64
}

// Gate returns an error of kind fail.Gate if a flow cannot be armed: for what blocks a way back in Run.
func (a Arming) Gate(ctx context.Context) error {
	findings, err := a.look(ctx)
	if err != nil {
		return err
	}
	blocks := slices.DeleteFunc(findings, func(f Finding) bool { return f.Severity != Block })
	if len(blocks) == 0 {
		return nil
	}
	gate := &fail.Error{Kind: fail.Gate}
	for i, f := range blocks {
		if i == each {
			gate.Problem += fmt.Sprintf("; and %d more", len(blocks)-each)
			break
		}
		if gate.Problem != "" {
			gate.Problem, gate.Advice = gate.Problem+"; ", gate.Advice+"; "
		}
		where := named(f.On)
		gate.Problem += where + ": "
		if f.Object != "" && !strings.Contains(f.Seen, f.Object) {
			gate.Problem += f.Object + ": "
		}
		gate.Problem += f.Seen
		gate.Advice += "on " + where + ": "
		if f.Do != "" {
			gate.Advice += f.Do
		}
		for n, sql := range f.SQL {
			if n > 0 || f.Do != "" {
				gate.Advice += ": "
			}
			gate.Advice += "`" + sql + "`"
		}
	}
	return gate
}

func (a Arming) look(ctx context.Context) ([]Finding, error) {
	w := &way{back: a.Back, begun: true, budget: a.MaxRetainedWAL, name: a.Name}
	from, to := "source", "target"
	if a.Back {
		from, to = to, from
	}
	for _, end := range []struct {
		side, dsn string
		server    **server
		tables    *[]catalog.Table
	}{{from, a.From, &w.from, &w.fromAll}, {to, a.To, &w.to, &w.toAll}} {
		s, err := (&run{}).open(ctx, end.side, end.dsn)
		if err != nil {
			return nil, err
		}
		defer s.close(context.WithoutCancel(ctx))
		*end.server = s
		if *end.tables, err = catalog.Tables(ctx, s.tx); err != nil {
			return nil, fmt.Errorf("check the %s: %w", s.side, err)
		}
	}
	w.wanted, w.inserts = slices.Concat(a.Tables, a.Inserts), a.Inserts
	if err := w.look(ctx); err != nil {
		return nil, err
	}
	return w.findings, nil
}

// named is what a side of the migration is called where both directions are meant.
func named(side string) string {
	switch side {
	case "source":
		return "the old server"
	case "target":
		return "the new server"
	}
	return side
}

// way is a flow that is to be armed. Findings about it are those of the migration's own direction, where they are the same, with fb- before
// their id.
type way struct {
	from, to       *server
	back           bool // to the old server
	begun          bool // the tables and the objects of the migration may be there
	budget         int64
	longWriter     time.Duration
	fromAll, toAll []catalog.Table
	wanted         []catalog.Name
	inserts        []catalog.Name // those of them of --insert-only

	tables, at []catalog.Table // those of wanted that the two servers have
	name       string          // its objects are named after it
	findings   []Finding
}

// fallBack checks what a way back needs, and says what is found as the operator has asked for one.
func (r *run) fallBack(ctx context.Context) error {
	if r.c.FallBack == FallBackKept {
		return nil
	}
	w := &way{
		from: r.target, to: r.source, back: true, begun: r.c.Resuming, budget: r.c.MaxRetainedWALTarget, longWriter: r.c.LongWriter, name: r.c.Name + "_back",
		toAll: r.all,
	}
	var err error
	if r.c.Resuming || r.c.Schema == "none" {
		if w.fromAll, err = catalog.Tables(ctx, r.target.tx); err != nil {
			return fmt.Errorf("check the target: %w", err)
		}
	}
	for i := range r.tables {
		w.wanted = append(w.wanted, r.tables[i].Name)
		if r.insertOnly[r.tables[i].OID] {
			w.inserts = append(w.inserts, r.tables[i].Name)
		}
	}
	if err := w.look(ctx); err != nil {
		return err
	}
	r.weigh(w.findings)
	return nil
}

// weigh adds what was found about a way back.
func (r *run) weigh(findings []Finding) {
	var missing []string
	for _, f := range findings {
		if f.Severity == Block && !slices.Contains(missing, f.ID) {
			missing = append(missing, f.ID)
		}
	}
	known := func(f Finding) bool { // it blocks the migration
		return slices.ContainsFunc(r.findings, func(x Finding) bool {
			return "fb-"+x.ID == f.ID && x.On == f.On && x.Object == f.Object && x.Severity == Block
		})
	}
	switch r.c.FallBack {
	case FallBackRequire, FallBackAuto:
		for _, f := range findings {
			if known(f) {
				continue
			}
			if f.Severity == Block && r.c.FallBack == FallBackAuto {
				f.Severity = Warn
				f.Seen += "; so there will be no way back"
			}
			r.add(f)
		}
	default:
		f := Finding{ID: "fall-back", Severity: Info, On: "tool", Seen: "no way back to the old server is kept after the cutover, and one could be had", Do: "--fall-back auto keeps one"}
		if len(missing) > 0 {
			f.Seen = "no way back to the old server is kept after the cutover; for one there is missing: " + list(missing)
			f.Do = "`walferry check --fall-back require` says what to do about it"
		}
		r.add(f)
	}
}

// look finds everything.
func (w *way) look(ctx context.Context) error {
	w.tables, w.at = these(w.fromAll, w.wanted), these(w.toAll, w.wanted)
	for _, subject := range []func(context.Context) error{w.decoded, w.waits, w.record, w.published, w.outgoing, w.incoming, w.applied, w.fits, w.values} {
		if err := subject(ctx); err != nil {
			return err
		}
	}
	return nil
}

// these are the tables of those names.
func these(all []catalog.Table, names []catalog.Name) (tables []catalog.Table) {
	wanted := map[catalog.Name]bool{}
	for _, name := range names {
		wanted[name] = true
	}
	for i := range all {
		if wanted[all[i].Name] {
			tables = append(tables, all[i])
		}
	}
	return tables
}

// add adds findings that one way has as the other one: with fb- before their id.
func (w *way) add(findings ...Finding) {
	for _, f := range findings {
		f.ID = "fb-" + strings.TrimPrefix(f.ID, "fb-")
		w.findings = append(w.findings, f)
	}
}

// decoded: the server that changes come from sends them.
func (w *way) decoded(ctx context.Context) error {
	s := w.from
	if w.back && s.Major == 10 {
		w.add(Finding{
			ID: "version", Severity: Block, On: s.side, Seen: "a server of version 10 does not decode TRUNCATE: there is no way back from it",
			Do: "take a newer version for the new server, or go without: --fall-back off",
		})
	}
	w.add(s.walLevel()...)
	w.add(s.outputPlugin()...)
	need := 1
	if other := w.to; !w.begun && s.SystemID != "" && s.SystemID == other.SystemID && s.started.Equal(other.started) {
		need = 2 // it is the same server, and the flow forth has one there
	}
	full := s.slots(need)
	w.add(full...)
	w.add(s.idle()...)
	if w.back {
		w.retained()
	}
	w.add(s.replicationRight()...)
	if len(full) == 0 { // otherwise that is why
		w.add(s.walsender(ctx)...)
	}
	if !s.createOnDatabase {
		w.add(s.createRight("a publication"))
	}
	messages, err := s.messages(ctx)
	w.add(messages...)
	return err
}

// retained: what the new server keeps for a way back that nobody follows must end before its disk does.
func (w *way) retained() {
	s := w.from
	limit, ok := s.number("max_slot_wal_keep_size")
	switch {
	case ok && limit >= 0:
		w.add(Finding{
			ID: "wal-budget", Severity: Info, On: s.side,
			Seen: fmt.Sprintf("max_slot_wal_keep_size is %d MB: if the old server, or walferry, is down for longer than that lasts, the way back is lost", limit),
		})
	case w.budget > 0:
	default:
		f := Finding{
			ID: "wal-budget", Severity: Block, On: s.side,
			Seen: "nothing limits the WAL that the new server keeps for a way back while the old server, or walferry, is down: its disk would fill up",
			Do:   "give --max-retained-wal-target 50GB, or what its disk can spare, with which the way back is given up then; it is looked at while migrate runs",
		}
		if ok {
			var do string
			do, f.SQL = s.reload("max_slot_wal_keep_size", "50GB")
			f.Do += strings.TrimSuffix("; or have the server see to it: "+do, ": ")
		}
		w.add(f)
	}
}

// waits: what a slot waits for, and what stands where its objects are to be.
func (w *way) waits(ctx context.Context) error {
	findings, err := w.from.activity(ctx, max(w.longWriter, time.Second))
	if err != nil {
		return err
	}
	w.add(findings...)
	// Of a migration that has begun they are replaced, if the role may.
	return w.from.records(ctx, "slots and publications", `
select 'slot', slot_name::text from pg_replication_slots where slot_name = $1 and not $2
union all select 'publication', pubname::text from pg_publication where pubname in ($1, $1 || '_insert') and not ($2 and pg_has_role(pubowner, 'USAGE')) order by 1, 2`, func(row []string) {
		f := Finding{
			ID: "fb-" + row[0] + "-exists", Severity: Block, On: w.from.side, Object: row[1],
			Seen: "there is a " + row[0] + " of that name already", Do: "drop it if it is not needed, or choose another --name",
			SQL: []string{"drop publication " + catalog.Quote(row[1])},
		}
		if row[0] == "slot" {
			f.SQL[0] = "select pg_drop_replication_slot(" + catalog.Literal(row[1]) + ")"
		}
		w.add(f)
	}, "walferry_"+w.name, w.begun)
}
