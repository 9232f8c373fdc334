package definitions

import (
	"context"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/check"
	"github.com/walferry/walferry/internal/fail"
	"github.com/walferry/walferry/internal/schema"
	"github.com/walferry/walferry/internal/session"
	"github.com/walferry/walferry/internal/state"
)

// Gate returns an error unless the source's rows fit into the target's tables, and the target has
// whatever the source has altered since the migration began, when its tables were as in was; the
// applier notices that only for tables that change after they were altered. If walferry created the
// schema, every index and constraint must be there and valid, except for foreign keys that the role
// can have only inside the fence. Every sequence that is to be set must be settable. without names
// the objects that the target need not have.
func (c *Carrier) Gate(ctx context.Context, was []state.Table, without []string) error {
	may, err := session.MaySetReplicaRole(ctx, c.To.Link)
	if err != nil {
		return err
	}
	options, err := c.options(ctx)
	if err != nil {
		return err
	}
	var found findings
	err = c.aside(ctx, func(source, target *pgx.Conn) (err error) {
		if found, err = c.compare(ctx, source, target, was); err != nil || c.Brought {
			return err
		}
		losses, err := schema.LostIndexes(ctx, source, target, options)
		for _, l := range losses {
			if l.NotValid() {
				c.Logger.Warn("cutover: " + l.String() + ", which does for new rows")
			} else if may || !strings.HasPrefix(l.Source, "foreign key") {
				found.lost = append(found.lost, l)
			}
		}
		return err
	})
	if err != nil {
		return err
	}
	if len(found.altered) > 0 {
		return &fail.Error{Kind: fail.Gate, Problem: "the tables of both sides do not fit any more: " + catalog.List(found.altered), Advice: "alter the target's as the source's were, and ask again"}
	}
	if len(found.missing) > 0 {
		return &fail.Error{Kind: fail.Gate, Problem: "the target lacks sequences: " + catalog.List(found.missing), Advice: "create them on the target as the source has them, or drop them on the source, and ask again"}
	}
	if len(found.denied) > 0 {
		return &fail.Error{Kind: fail.Gate, Problem: "the role of the target may not read and set the sequences " + catalog.List(found.denied), Advice: "GRANT SELECT, UPDATE ON SEQUENCE to it, and ask again"}
	}
	return c.missingGate(ctx, found.lost, without)
}

// findings are the differences between the definitions of both sides.
type findings struct {
	altered         []string // tables and indexes
	missing, denied []string // sequences
	lost            []schema.Loss
}

// compare compares tables and sequences.
func (c *Carrier) compare(ctx context.Context, source, target *pgx.Conn, was []state.Table) (found findings, err error) {
	tables := c.Tables()
	differences, err := schema.Compare(ctx, source, target, tables)
	if err != nil {
		return found, err
	}
	for _, d := range differences {
		found.altered = append(found.altered, d.String())
	}
	there, err := catalog.Tables(ctx, target)
	if err != nil {
		return found, err
	}
	found.altered = append(found.altered, schema.Alterations(was, tables, there, c.Brought)...)
	indexes, err := schema.AlteredIndexes(ctx, was, tables, source, target, c.Brought)
	if err != nil {
		return found, err
	}
	found.altered = append(found.altered, indexes...)
	from, err := catalog.Sequences(ctx, source)
	if err != nil {
		return found, err
	}
	to, err := catalog.Sequences(ctx, target)
	if err != nil {
		return found, err
	}
	absent, refused := catalog.Unsettable(catalog.SequencesOf(from, tables), to)
	found.missing, found.denied = names(absent), names(refused)
	return found, nil
}

func names(sequences []catalog.Sequence) (names []string) {
	for _, s := range sequences {
		names = append(names, s.String())
	}
	return names
}

// missingGate returns an error if the target lacks something of the source's schema that is not in
// without. lost are indexes and constraints.
func (c *Carrier) missingGate(ctx context.Context, lost []schema.Loss, without []string) error {
	var names, texts []string
	add := func(name, text string) {
		if !slices.Contains(without, name) && !slices.Contains(names, name) {
			names, texts = append(names, name), append(texts, text)
		}
	}
	if !c.Brought {
		missing, err := c.missing(ctx)
		if err != nil {
			return err
		}
		for _, o := range missing {
			add(o.Object, o.Object+" ("+o.Why+")")
		}
	}
	for _, l := range lost {
		add(l.Name(), l.String())
	}
	logins, err := c.missingLogins(ctx)
	if err != nil {
		return err
	}
	for _, role := range logins {
		add("role:"+role, "role "+catalog.Quote(role)+", which has sessions on the source, cannot log in")
	}
	if len(names) == 0 {
		return nil
	}
	return &fail.Error{Kind: fail.Gate, Problem: "the target lacks objects of the source: " + catalog.List(texts), Advice: "create them on the target by hand, as the source has them, and ask again; or go without them: walferry cutover --without " + strings.Join(quoted(names), " --without ")}
}

// missingLogins returns the roles that have sessions on the source and cannot log in to the target.
func (c *Carrier) missingLogins(ctx context.Context) (missing []string, err error) {
	err = c.From.Link.Do(ctx, func(conn *pgx.Conn) (err error) {
		missing, err = check.Logins(ctx, conn)
		return err
	})
	if err != nil || len(missing) == 0 {
		return nil, err
	}
	err = c.To.Link.Do(ctx, func(conn *pgx.Conn) (err error) {
		missing, err = check.MissingLogins(ctx, conn, missing)
		return err
	})
	return missing, err
}

// quoted quotes words for a shell where that is needed.
func quoted(words []string) []string {
	out := make([]string, len(words))
	for i, w := range words {
		out[i] = w
		if strings.ContainsAny(w, " \"'()$`\\*?[]<>|&;") {
			out[i] = "'" + strings.ReplaceAll(w, "'", `'\''`) + "'"
		}
	}
	return out
}

// aside runs f with a connection of its own to each side, for what reads both catalogs in turns.
func (c *Carrier) aside(ctx context.Context, f func(source, target *pgx.Conn) error) error {
	source, err := session.Open(ctx, session.Config{DSN: c.From.DSN, Application: c.Store.Name()})
	if err != nil {
		return err
	}
	defer source.Close(context.WithoutCancel(ctx)) //nolint:errcheck // it was only read
	target, err := session.Open(ctx, session.Config{DSN: c.To.DSN, Application: c.Store.Name()})
	if err != nil {
		return err
	}
	defer target.Close(context.WithoutCancel(ctx)) //nolint:errcheck // likewise
	return f(source, target)
}
