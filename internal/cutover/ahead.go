package cutover

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/state"
)

// Ahead keeps the sequences of a server that follows the database, and is fenced, ahead of those of
// the database: should it have to be opened by hand, when walferry is gone, it draws no key that was
// drawn there. The switch that opens it puts them where the database's are.
type Ahead struct {
	Carrier *Carrier // from the database to the server that follows it
	// Only says of which sequences that is so, as others are drawn from on both servers; nil: of all.
	Only func(catalog.Sequence) bool

	last map[catalog.Name]look // what was seen of the database's
}

func (a *Ahead) only(s catalog.Sequence) bool { return a.Only == nil || a.Only(s) }

// look is where a sequence was at a time.
type look struct {
	Position
	at time.Time
}

const (
	// leastMargin is how many draws a sequence is kept ahead, where its range has them: what one session draws in a loop
	// between two looks, or a thousand a second in a quarter of an hour.
	leastMargin = 1_000_000
	// marginTime is how long the margin lasts at the rate of the last look, if that is more: a bulk load must not
	// cost a column of four bytes half of what it has left.
	marginTime = time.Hour
	// aheadPatience is how long neither server takes writes at most for the sake of sequences.
	aheadPatience = 2 * time.Second
)

// Keep looks at both servers, and moves what is not far enough ahead any more: by half of its margin.
// Nothing is moved back. The error says what cannot be kept ahead; the others are.
func (a *Ahead) Keep(ctx context.Context) error {
	c := a.Carrier
	var from, to []Sequence
	if err := c.readEnds(ctx); err != nil {
		return err
	}
	err := c.From.Do(ctx, func(conn *pgx.Conn) error {
		return briefly(ctx, conn, func(tx pgx.Tx) error {
			all, err := catalog.Sequences(ctx, tx)
			if err == nil {
				from, err = ReadSequences(ctx, tx, slices.DeleteFunc(c.of(all), func(s catalog.Sequence) bool { return !s.CanSelect || !a.only(s) }))
			}
			return err
		})
	})
	if err != nil {
		return err
	}
	now, names := time.Now(), map[catalog.Name]bool{}
	for _, s := range from {
		names[s.Name] = true
	}
	var denied []string
	err = c.To.Do(ctx, func(conn *pgx.Conn) error {
		return briefly(ctx, conn, func(tx pgx.Tx) error {
			all, err := catalog.Sequences(ctx, tx)
			if err != nil {
				return err
			}
			var list []catalog.Sequence
			denied = nil
			for _, t := range all {
				switch {
				case !names[t.Name]: // one that is missing there is a gate of the switch
				case !t.CanSelect || !t.CanUpdate:
					denied = append(denied, t.String())
				default:
					list = append(list, t)
				}
			}
			to, err = ReadSequences(ctx, tx, list)
			return err
		})
	})
	if err != nil {
		return err
	}
	there := map[catalog.Name]Sequence{}
	for _, t := range to {
		there[t.Name] = t
	}
	var moves []placing
	var short []string
	for _, s := range from {
		t, ok := there[s.Name]
		if !ok {
			continue
		}
		ahead, why := c.ahead(s, t, a.margin(s, now))
		if why != "" {
			short = append(short, why)
		}
		if ahead != t.Position {
			moves = append(moves, placing{t, ahead, s.SequenceDefinition})
		}
	}
	a.remember(from, now)
	failed, err := c.place(ctx, moves)
	if err != nil {
		return err
	}
	short = append(short, failed...)
	if len(denied) > 0 {
		short = append(short, "the role may not read and set "+catalog.List(denied))
	}
	if len(short) > 0 {
		return fmt.Errorf("sequences that are not far ahead of those of the database: %s", catalog.List(short))
	}
	return nil
}

// briefly runs f in a transaction that nobody's lock holds up for long, whose connection others need.
func briefly(ctx context.Context, conn *pgx.Conn, f func(pgx.Tx) error) error {
	return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `select set_config('lock_timeout', '200ms', true)`); err != nil {
			return err
		}
		return f(tx)
	})
}

// margin is how many draws a sequence is to be ahead.
func (a *Ahead) margin(s Sequence, now time.Time) uint64 {
	was, ok := a.last[s.Name]
	if elapsed := now.Sub(was.at).Seconds(); ok && elapsed > 0 && further(s.Position, Sequence{Sequence: s.Sequence, Position: was.Position}) {
		if wanted := float64(draws(was.LastValue, s.LastValue, s.Increment)) / elapsed * marginTime.Seconds(); wanted > leastMargin {
			return uint64(math.Min(wanted, math.MaxInt64))
		}
	}
	return leastMargin
}

func (a *Ahead) remember(from []Sequence, now time.Time) {
	a.last = make(map[catalog.Name]look, len(from))
	for _, s := range from {
		a.last[s.Name] = look{s.Position, now}
	}
}

// draws is how many increments lie between two values, of which the second is not before the first.
func draws(from, to, increment int64) uint64 {
	if increment < 0 {
		return (uint64(from) - uint64(to)) / (uint64(^increment) + 1)
	}
	return (uint64(to) - uint64(from)) / uint64(increment)
}

// ahead returns where t, of the server that follows, is to be for s, of the database; t's own
// position: where it is. why is why that is not far enough ahead.
//
// A sequence that comes to its end shares what is left of its range. last_value is past all that
// sessions hold in their caches.
func (c *Carrier) ahead(s, t Sequence, margin uint64) (at Position, why string) {
	if (s.Increment < 0) != (t.Increment < 0) {
		return t.Position, fmt.Sprintf("%s, which counts the other way", t)
	}
	end := min(s.Max, t.Max, c.ends[t.Name].max())
	if s.Increment < 0 {
		end = max(s.Min, t.Min, c.ends[t.Name].min())
	}
	beyond := s.LastValue > end
	if s.Increment < 0 {
		beyond = s.LastValue < end
	}
	if s.Cycle {
		return cycled(s, t, margin), ""
	}
	if beyond {
		if past := further(t.Position, s); past {
			return t.Position, ""
		}
		return t.Position, fmt.Sprintf("%s, which ends at %d and stands at %d in the database", t, end, s.LastValue)
	}
	k := min(margin, draws(s.LastValue, end, s.Increment)/2)
	if further(t.Position, s) && draws(s.LastValue, t.LastValue, s.Increment) >= (k+1)/2 {
		return t.Position, ""
	}
	at = Position{LastValue: s.LastValue + int64(k)*s.Increment, IsCalled: s.IsCalled || k > 0}
	if at.LastValue < t.Min || at.LastValue > t.Max { // it begins later there
		return t.Position, fmt.Sprintf("%s, which goes from %d to %d and stands at %d in the database", t, t.Min, t.Max, s.LastValue)
	}
	return at, ""
}

// cycled is ahead for a sequence that begins again at its end, where it is as far from there in both
// directions.
func cycled(s, t Sequence, margin uint64) Position {
	first, last := s.Min, s.Max
	if s.Increment < 0 {
		first, last = last, first
	}
	n := draws(first, last, s.Increment) // and one
	if n < 2 || s.Min != t.Min || s.Max != t.Max {
		return t.Position
	}
	k := min(margin, n/2)
	i, j := draws(first, s.LastValue, s.Increment), draws(first, t.LastValue, s.Increment)
	distance := j - i
	if j < i {
		distance = n - (i - j) + 1
	}
	if distance >= (k+1)/2 && distance <= n-n/4 {
		return t.Position
	}
	to := i + k
	if to > n {
		to -= n + 1
	}
	return Position{LastValue: first + int64(to)*s.Increment, IsCalled: true}
}

// Start puts the sequences of To ahead of those of From when they stand at the same positions, which
// are given.
func (a *Ahead) Start(ctx context.Context, at []Sequence) error {
	if err := a.Carrier.readEnds(ctx); err != nil {
		return err
	}
	var moves []placing
	for _, s := range at {
		if to, _ := a.Carrier.ahead(s, s, leastMargin); to != s.Position {
			moves = append(moves, placing{s, to, s.SequenceDefinition})
		}
	}
	failed, err := a.Carrier.place(ctx, moves)
	if err == nil && len(failed) > 0 {
		err = fmt.Errorf("keep sequences ahead: %s", catalog.List(failed))
	}
	return err
}

// placing is a sequence of To, where it was seen, and where it is to be.
type placing struct {
	Sequence
	to  Position
	was catalog.SequenceDefinition // that of From
}

// place moves sequences of To, and records before where to: nobody has drawn from them there. failed are those
// that could not be moved.
func (c *Carrier) place(ctx context.Context, moves []placing) (failed []string, err error) {
	if len(moves) == 0 {
		return nil, nil
	}
	states, at, err := c.read(ctx)
	if err != nil {
		return nil, err
	}
	for _, m := range moves {
		s := m.Sequence
		s.Position, s.SequenceDefinition = m.to, m.was
		states = placed(states, at, &s)
	}
	// This process may have stood still, and another one have opened the server.
	if err := c.Store.Values().PutOwn(ctx, state.Sequences, states); err != nil {
		return nil, err
	}
	err = c.To.Do(ctx, func(conn *pgx.Conn) error {
		for part := range slices.Chunk(moves, perQuery) {
			err := advance(ctx, conn, part)
			for i := 0; err != nil && i < len(part); i++ { // one of them, perhaps
				if conn.IsClosed() || ctx.Err() != nil {
					return err
				}
				if alone := advance(ctx, conn, part[i:i+1]); alone != nil {
					failed = append(failed, fmt.Sprintf("%s (%v)", part[i], alone))
				}
			}
		}
		return nil
	})
	return failed, err
}

// advance moves sequences that are where they were seen: what was drawn since, when somebody has opened the
// server, must not be drawn again.
func advance(ctx context.Context, conn *pgx.Conn, moves []placing) error {
	var sql strings.Builder
	for i, m := range moves {
		if i > 0 {
			sql.WriteString(" union all ")
		}
		fmt.Fprintf(&sql, "select setval(%s::regclass, %d, %t) from %s where last_value = %d and is_called = %t",
			catalog.Literal(m.String()), m.to.LastValue, m.to.IsCalled, m, m.LastValue, m.IsCalled)
	}
	return briefly(ctx, conn, func(tx pgx.Tx) error {
		_, err := tx.Conn().PgConn().Exec(ctx, sql.String()).ReadAll()
		return err
	})
}

// Placed returns where the sequences of To were put last, and not drawn from there.
func (c *Carrier) Placed(ctx context.Context) (map[catalog.Name]Position, error) {
	states, _, err := c.read(ctx)
	if err != nil {
		return nil, err
	}
	placed := map[catalog.Name]Position{}
	for _, s := range states {
		if s.Placed != nil {
			placed[s.Name] = *s.Placed
		}
	}
	return placed, nil
}

// width is the type, by its bytes, of the narrowest column that gets its values from a sequence; 0: it is not known.
type width int

func (w width) max() int64 {
	switch w {
	case 2:
		return math.MaxInt16
	case 4:
		return math.MaxInt32
	}
	return math.MaxInt64
}

func (w width) min() int64 { return -w.max() - 1 }

func (c *Carrier) readEnds(ctx context.Context) error {
	if c.ends != nil {
		return nil
	}
	return c.ReadEnds(ctx)
}

// ReadEnds notes which columns of To get their values from its sequences: a column may be narrower than its
// sequence.
func (c *Carrier) ReadEnds(ctx context.Context) error {
	ends := map[catalog.Name]width{}
	err := c.To.Do(ctx, func(conn *pgx.Conn) error {
		rows, err := conn.Query(ctx, `
select n.nspname::text, s.relname::text, min(a.attlen)::int
  from (select objid as seq, refobjid as rel, refobjsubid as num from pg_depend
         where classid = 'pg_class'::regclass and refclassid = 'pg_class'::regclass and deptype in ('a', 'i') and refobjsubid > 0
         union
        select d.refobjid, f.adrelid, f.adnum from pg_depend d join pg_attrdef f on f.oid = d.objid
         where d.classid = 'pg_attrdef'::regclass and d.refclassid = 'pg_class'::regclass) u
  join pg_class s on s.oid = u.seq and s.relkind = 'S' join pg_namespace n on n.oid = s.relnamespace
  join pg_attribute a on a.attrelid = u.rel and a.attnum = u.num and a.atttypid in ('int2'::regtype, 'int4'::regtype)
 group by 1, 2`)
		if err != nil {
			return err
		}
		var name catalog.Name
		var bytes int
		_, err = pgx.ForEachRow(rows, []any{&name.Schema, &name.Name, &bytes}, func() error {
			ends[name] = width(bytes)
			return nil
		})
		return err
	})
	if err != nil {
		return fmt.Errorf("read which columns get their values from sequences: %w", err)
	}
	c.ends = ends
	return nil
}
