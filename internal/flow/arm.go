package flow

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/applier"
	"github.com/walferry/walferry/decoder"
	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/fail"
	"github.com/walferry/walferry/internal/identity"
	"github.com/walferry/walferry/internal/session"
	"github.com/walferry/walferry/slot"
)

// Published are the tables of a flow, as they are called on the server that it comes from.
type Published struct {
	Tables  []catalog.Name
	Inserts []catalog.Name // of --insert-only: of these only inserts and truncates come
}

// Armed is what is known of a flow that was armed: what its stream must belong to, and where it can
// begin.
type Armed struct {
	Identity        decoder.Identity
	Slot            string
	ConsistentPoint decoder.LSN
}

// Arm makes what a flow needs on both servers before anything is to come through it: the
// publications and the slot on the server that it comes from, and its position on the other one. The
// tables have their rows already, on both. What an earlier attempt has left is replaced: the flow
// must not be running.
//
// The slot waits for every transaction of that server that has written; c and ctx bound that. After
// an error nothing of the flow is left, unless a server cannot be reached: the error says so, and
// Disarm is to be called again.
func (f *Flow) Arm(ctx context.Context, p Published, c slot.ExportConfig) (Armed, error) {
	a, err := f.arm(ctx, p, c)
	if err == nil {
		return a, nil
	}
	clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), disarmPatience)
	defer cancel()
	if left := f.Disarm(clean); left != nil {
		err = errors.Join(err, fmt.Errorf("remove what was made of it: %w", left))
	}
	return Armed{}, fmt.Errorf("arm the flow %s: %w", f.Name, err)
}

const disarmPatience = 45 * time.Second // more than slot.Drop takes

func (f *Flow) arm(ctx context.Context, p Published, c slot.ExportConfig) (a Armed, err error) {
	if a.Identity, err = identity.Source(ctx, session.Config{DSN: f.From.DSN, Application: f.Name.String()}); err != nil {
		return a, err
	}
	if err := f.From.Link.Do(ctx, func(conn *pgx.Conn) error { return armable(ctx, conn, f.Name.Direction, p.Tables) }); err != nil {
		return a, err
	}
	err = f.To.Link.Do(ctx, func(conn *pgx.Conn) error {
		marks, err := MakeMark(ctx, conn)
		if err == nil && len(marks) == 0 {
			err = positionless(ctx, conn)
		}
		if err != nil {
			return err
		}
		return f.Begin(ctx, conn, 0)
	})
	if err != nil {
		return a, err
	}
	// The slot first: a stream of an earlier attempt must not read publications that are gone.
	err = f.From.Link.Do(ctx, func(conn *pgx.Conn) error {
		if err := slot.Drop(ctx, conn, f.Name.Source().Slot); err != nil {
			return err
		}
		marks, err := MakeMark(ctx, conn)
		if err != nil {
			return err
		}
		if len(marks) == 0 {
			return &fail.Error{Kind: fail.Gate, Problem: "the role may not publish " + applier.ProgressTable, Advice: "connect as the role that began the migration"}
		}
		if session.Major(conn.PgConn()) == 10 { // the triggers are there, but on tables that are new
			if err := slot.CreateTruncationTriggers(ctx, conn, identifiers(slices.Concat(p.Tables, p.Inserts))); err != nil {
				return err
			}
		}
		a.Identity.Publications, err = slot.Publish(ctx, conn, f.Name.Source(), append(identifiers(p.Tables), marks...), identifiers(p.Inserts))
		return err
	})
	if err != nil {
		return a, err
	}
	exported, err := f.MakeSlot(ctx, c)
	if err != nil {
		return a, err
	}
	a.Slot, a.ConsistentPoint = exported.Slot, exported.ConsistentPoint
	if err := exported.Close(ctx); err != nil { // nobody copies under its snapshot
		return a, err
	}
	return a, f.To.Link.Do(ctx, func(conn *pgx.Conn) error { return f.Begin(ctx, conn, a.ConsistentPoint) })
}

// armable makes sure that a server can be decoded, and that its tables can be published: an
// application's UPDATE of one without a replica identity would fail.
func armable(ctx context.Context, conn *pgx.Conn, d Direction, published []catalog.Name) error {
	if d == Back && session.Major(conn.PgConn()) == 10 {
		return &fail.Error{Kind: fail.Gate, Problem: "a server of version 10 does not decode TRUNCATE", Advice: "there is no way back from a target of version 10"}
	}
	var level string
	if err := conn.QueryRow(ctx, `select current_setting('wal_level')`).Scan(&level); err != nil {
		return err
	}
	if !catalog.Decodes(session.Major(conn.PgConn()), level) {
		return &fail.Error{Kind: fail.Gate, Problem: "wal_level is " + level + " on the server that the changes are to come from", Advice: "set it to logical there, which takes a restart"}
	}
	all, err := catalog.Tables(ctx, conn)
	if err != nil {
		return err
	}
	there := map[catalog.Name]bool{}
	var bare, missing []string
	for i := range all {
		t := &all[i]
		there[t.Name] = true
		if slices.Contains(published, t.Name) && !t.HasIdentity() {
			bare = append(bare, t.Name.String())
		}
	}
	for _, name := range published {
		if !there[name] {
			missing = append(missing, name.String())
		}
	}
	if len(missing) > 0 {
		return &fail.Error{Kind: fail.Gate, Problem: "tables are not on the server that the changes are to come from: " + catalog.List(missing), Advice: "make them there, or leave them out of the migration"}
	}
	if len(bare) > 0 {
		return &fail.Error{
			Kind: fail.Gate, Problem: "tables have no replica identity on the server that the changes are to come from: " + catalog.List(bare),
			Advice: "add a primary key there, or `alter table ... replica identity full`; published without one, they could not be updated any more",
		}
	}
	return nil
}

// positionless is why the flow's position cannot be kept on a server.
func positionless(ctx context.Context, conn *pgx.Conn) error {
	var readers []string
	if err := conn.QueryRow(ctx, `select coalesce(array_agg(quote_ident(pubname) order by pubname), '{}') from pg_publication where puballtables`).Scan(&readers); err != nil {
		return err
	}
	if len(readers) == 0 {
		return &fail.Error{Kind: fail.Gate, Problem: "the role may not write to " + applier.ProgressTable + " on the server that the changes are to go to", Advice: "connect as the role that began the migration"}
	}
	return &fail.Error{
		Kind:    fail.Gate,
		Problem: "publications FOR ALL TABLES would publish " + applier.ProgressTable + " on the server that the changes are to go to: " + strings.Join(readers, ", "),
		Advice:  "make that table on every subscriber, then on this server: create schema if not exists walferry;" + applier.ProgressTableSQL,
	}
}

func identifiers(names []catalog.Name) []pgx.Identifier {
	out := make([]pgx.Identifier, len(names))
	for i, n := range names {
		out[i] = pgx.Identifier{n.Schema, n.Name}
	}
	return out
}
