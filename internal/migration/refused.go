package migration

import (
	"context"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/check"
	"github.com/walferry/walferry/internal/schema"
	"github.com/walferry/walferry/internal/state"
)

// keepRefused records what the target does not take of the source's schema, in the place of
// what was recorded before, and tells it.
func (r *runner) keepRefused(ctx context.Context, q catalog.Querier, refused []schema.Refused) error {
	for _, o := range refused {
		r.c.Logger.Warn("schema: the target refuses " + o.String())
	}
	return r.store.Values().PutIn(ctx, q, state.Refused, append([]schema.Refused{}, refused...))
}

// refused reads what the target does not take.
func refused(ctx context.Context, s *state.Store) (refused []schema.Refused, err error) {
	_, err = s.Values().Get(ctx, state.Refused, &refused)
	return refused, err
}

func refusedNames(refused []schema.Refused) (names []string) {
	for _, o := range refused {
		names = append(names, o.Object)
	}
	return names
}

// distinctRefused leaves out what two steps have met.
func distinctRefused(refused []schema.Refused) (distinct []schema.Refused) {
	for _, o := range refused {
		if !slices.ContainsFunc(distinct, func(d schema.Refused) bool { return d.Object == o.Object }) {
			distinct = append(distinct, o)
		}
	}
	return distinct
}

// missing are the objects that the target has refused and still lacks.
func (r *runner) missing(ctx context.Context) (missing []schema.Refused, err error) {
	refused, err := refused(ctx, r.store)
	if err != nil || len(refused) == 0 {
		return nil, err
	}
	dump, err := r.archive(ctx)
	if err != nil {
		return nil, err
	}
	err = r.target.Do(ctx, func(conn *pgx.Conn) (err error) {
		missing, err = dump.Missing(ctx, conn, refused)
		return err
	})
	return missing, err
}

// missingGate: nothing of the source's schema is missing but what the operator goes without.
// lost are indexes and constraints.
func (r *runner) missingGate(ctx context.Context, lost []schema.Loss, without []string) error {
	var names, texts []string
	add := func(name, text string) {
		if !slices.Contains(without, name) && !slices.Contains(names, name) {
			names, texts = append(names, name), append(texts, text)
		}
	}
	if r.c.Schema != "none" {
		missing, err := r.missing(ctx)
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
	logins, err := r.missingLogins(ctx)
	if err != nil {
		return err
	}
	for _, role := range logins {
		add("role:"+role, "role "+catalog.Quote(role)+", which has sessions on the source, cannot log in")
	}
	if len(names) == 0 {
		return nil
	}
	return &GateError{Problem: "the target lacks objects of the source: " + list(texts), Advice: "create them on the target by hand, as the source has them, and ask again; or go without them: walferry cutover --without " + strings.Join(quoted(names), " --without ")}
}

// missingLogins are the roles that have sessions on the source and cannot log in to the target.
func (r *runner) missingLogins(ctx context.Context) (missing []string, err error) {
	err = r.source.Do(ctx, func(conn *pgx.Conn) (err error) {
		missing, err = check.Logins(ctx, conn)
		return err
	})
	if err != nil || len(missing) == 0 {
		return nil, err
	}
	err = r.target.Do(ctx, func(conn *pgx.Conn) (err error) {
		missing, err = check.MissingLogins(ctx, conn, missing)
		return err
	})
	return missing, err
}

// quoted writes words for a shell.
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
