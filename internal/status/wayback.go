package status

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/decoder"
	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/cutover"
	"github.com/walferry/walferry/internal/flow"
	"github.com/walferry/walferry/internal/session"
	"github.com/walferry/walferry/internal/state"
)

// WayBack is the flow from the new server to the old one. Positions are the new server's.
type WayBack struct {
	Mode  string             `json:"mode"` // auto, require or off: what the next cutover does
	State state.WayBackState `json:"state"`
	Since *time.Time         `json:"since"` // when it came to be so; nil: not known
	// Reason is why it is interrupted, lost, or off although it was wanted; Do what can be done about that.
	Reason string `json:"reason"`
	Do     string `json:"do"`

	SlotStatus             // on the new server
	RetainedLimit *int64   `json:"retained_limit_bytes"` // --max-retained-wal-target, or the server's own limit; nil: there is none, or it is not known
	RetainedLeft  *float64 `json:"retained_left_seconds"`

	Stream        StreamStatus `json:"stream"`
	AppliedCommit *time.Time   `json:"applied_commit_time"` // when the last transaction that the old server has was committed; nil: not known, or there was none

	// Unidentified are published tables that have lost their replica identity, so that UPDATE and DELETE fail there; nil: not known.
	Unidentified []Unidentified `json:"without_identity"`
	// Sequences is why those of the old server are not kept ahead of the new one's; empty: they are, or it is not known.
	Sequences string `json:"sequences"`
	// Unfenced is how the old server accepts writes though it follows the new one; empty: it does not; nil: not known.
	Unfenced *string `json:"unfenced"`
}

// Unidentified is a table without a replica identity, and the SQL that gives it one.
type Unidentified struct {
	Table string `json:"table"`
	SQL   string `json:"sql"`
}

// SlotStatus is a slot.
type SlotStatus struct {
	Slot          string `json:"slot"`
	SlotActive    *bool  `json:"slot_active"`    // nil: not known
	WALStatus     string `json:"wal_status"`     // reserved, extended, unreserved, lost; missing: no slot; empty before version 13
	RetainedBytes *int64 `json:"retained_bytes"` // WAL that the slot holds back; nil: not known
}

// Active reports whether the slot is known to be in use.
func (s *SlotStatus) Active() bool { return s.SlotActive != nil && *s.SlotActive }

// read asks a server for the slot, and returns the position that it has acknowledged; empty: there is none.
func (s *SlotStatus) read(ctx context.Context, conn *pgx.Conn) (acked string, err error) {
	walStatus := "''"
	if session.Major(conn.PgConn()) >= 13 {
		walStatus = "wal_status"
	}
	err = conn.QueryRow(ctx, `
select active, coalesce(`+walStatus+`, ''), coalesce(confirmed_flush_lsn::text, ''), coalesce(pg_current_wal_lsn() - restart_lsn, 0)::int8
  from pg_replication_slots where slot_name = $1`, s.Slot).Scan(&s.SlotActive, &s.WALStatus, &acked, &s.RetainedBytes)
	if err == pgx.ErrNoRows {
		s.WALStatus, s.SlotActive, s.RetainedBytes = "missing", new(bool), new(int64)
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("ask for the slot: %w", err)
	}
	if acked != "" {
		acked = oneForm(acked)
	}
	return acked, nil
}

// backRecord is what the old server keeps of the way back.
type backRecord struct {
	name   flow.Name
	store  *state.Store
	record *state.Record // nil: it has none
	armed  state.Armed
	last   *LastComparison

	applied               decoder.LSN // 0: there is no position
	commit                *time.Time  // when the last transaction was committed that was applied
	transactions, changes int64
}

// readBackRecord reads it from the old server.
func readBackRecord(ctx context.Context, from *session.Link, migration string) (*backRecord, error) {
	b := &backRecord{name: flow.Name{Migration: migration, Direction: flow.Back}}
	b.store = state.At(from, b.name.String())
	err := b.store.Read(ctx, func() (err error) {
		if b.record, err = b.store.Load(ctx); err != nil || b.record == nil {
			return err
		}
		if _, err = b.store.Values().Get(ctx, state.Arming, &b.armed); err != nil {
			return err
		}
		if b.last, err = Compared(ctx, b.store); err != nil {
			return err
		}
		return from.Do(ctx, func(conn *pgx.Conn) error {
			if there, err := b.store.Has(ctx, conn, "progress"); err != nil || !there {
				return err
			}
			err := conn.QueryRow(ctx, `select applied::text, commit_time, transactions, changes from walferry.progress where stream = $1`, b.name.String()).
				Scan(&b.applied, &b.commit, &b.transactions, &b.changes)
			if err == pgx.ErrNoRows {
				return nil
			}
			return err
		})
	})
	if err != nil {
		return nil, fmt.Errorf("read what the old server keeps of the way back: %w", err)
	}
	return b, nil
}

// phase is that of the way back's record; empty: there is none, or it is not known.
func (b *backRecord) phase() state.Phase {
	if b == nil || b.record == nil {
		return ""
	}
	return b.record.Phase
}

// recordedBack is how the way back is by the record of the migration alone.
func (st *Status) recordedBack(r *state.Record, result *cutover.Result) {
	w := &st.WayBack
	w.Mode, w.State = r.Options.FallBack, state.BackOff
	if w.Mode == "" {
		w.Mode = "off"
	}
	w.Slot = flow.Name{Migration: r.Name, Direction: flow.Back}.Source().Slot
	switch {
	case r.Phase == state.Switched || len(st.Groups) > 0:
		w.State = state.BackFollowing
		if st.Back != nil {
			w.State, w.Since, w.Reason, w.Do, w.Sequences = st.Back.State, &st.Back.Since, st.Back.Reason, st.Back.Do, st.Back.Sequences
		}
	case r.Phase == state.Finished && result != nil && result.WayBack != nil && result.WayBack.From != nil:
		w.Reason = "it was given up"
	case r.Phase == state.Finished && result != nil && result.WayBack != nil:
		w.Reason = result.WayBack.None
	}
}

// followsBack reports whether there is a way back that is followed, or was to be.
func (st *Status) followsBack() bool {
	switch st.WayBack.State {
	case state.BackFollowing, state.BackInterrupted, state.BackLost:
		return true
	}
	return false
}

// readNew asks the new server, before the old one is asked: for the slot of the way back, its limit, the tables that it
// publishes, and the fence that a fallback has left.
func (st *Status) readNew(ctx context.Context, conn *pgx.Conn, r *state.Record) (err error) {
	back := flow.Name{Migration: r.Name, Direction: flow.Back}
	if st.Target.Fence, err = readFence(ctx, conn, back.String()); err != nil {
		return err
	}
	w := &st.WayBack
	if w.Stream.AckedLSN, err = w.read(ctx, conn); err != nil {
		return err
	}
	if r.Options.MaxRetainedWALTarget > 0 {
		w.RetainedLimit = &r.Options.MaxRetainedWALTarget
	} else {
		var keep int64
		err := conn.QueryRow(ctx, `select coalesce((select setting::int8 << 20 from pg_settings where name = 'max_slot_wal_keep_size'), -1)`).Scan(&keep)
		if err != nil {
			return fmt.Errorf("ask the new server for its limit of WAL: %w", err)
		}
		if keep > 0 {
			w.RetainedLimit = &keep
		}
	}
	if r.Phase == state.Switched || len(st.Groups) > 0 {
		w.Unidentified, err = unidentified(ctx, conn, back.Source().Publication)
	}
	return err
}

// unidentifiedSQL lists tables of a publication whose UPDATE fails: CheckCmdReplicaIdentity in execReplication.c.
const unidentifiedSQL = `
select n.nspname::text, c.relname::text,
       coalesce((select i.indexrelid::regclass::text from pg_index i where i.indrelid = c.oid and i.indisprimary and i.indisvalid and i.indimmediate), '') <> ''
  from pg_publication p join pg_publication_rel r on r.prpubid = p.oid join pg_class c on c.oid = r.prrelid join pg_namespace n on n.oid = c.relnamespace
 where p.pubname = $1 and c.relkind = 'r' and c.relreplident <> 'f'
   and not exists(select from pg_index i where i.indrelid = c.oid and i.indisvalid and i.indimmediate
                     and case c.relreplident when 'd' then i.indisprimary when 'i' then i.indisreplident else false end)
 order by 1, 2`

func unidentified(ctx context.Context, conn *pgx.Conn, publication string) ([]Unidentified, error) {
	rows, err := conn.Query(ctx, unidentifiedSQL, publication)
	if err != nil {
		return nil, fmt.Errorf("look for tables without a replica identity: %w", err)
	}
	list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (u Unidentified, err error) {
		var name catalog.Name
		var primary bool
		if err := row.Scan(&name.Schema, &name.Name, &primary); err != nil {
			return u, err
		}
		u = Unidentified{Table: name.Plain(), SQL: fmt.Sprintf("alter table %s replica identity full", name)}
		if primary {
			u.SQL = fmt.Sprintf("alter table %s replica identity default", name)
		}
		return u, nil
	})
	if err != nil {
		return nil, fmt.Errorf("look for tables without a replica identity: %w", err)
	}
	return list, nil
}

// fromOld adds what the old server has of the way back, whose fence was read before its record.
func (st *Status) fromOld(b *backRecord, r *state.Record) {
	w := &st.WayBack
	switch {
	case b.phase() == state.Switched: // the old server is the database again, or still
		w.State, w.Since, w.Reason, w.Do = state.BackOff, nil, "", ""
		return
	case b.record == nil && w.State == state.BackFollowing:
		w.State, w.Since, w.Reason = state.BackInterrupted, nil, "the old server has no record of it"
		return
	case b.record == nil:
		return
	case r.Phase != state.Switched && b.phase() == state.New:
		w.State, w.Since = state.BackArmed, &b.record.SeenAt
	}
	if b.applied != 0 {
		w.Stream.AppliedLSN = b.applied.String()
	}
	w.AppliedCommit, w.Stream.Transactions, w.Stream.Changes = b.commit, b.transactions, b.changes
	if st.followsBack() && len(st.Groups) == 0 { // otherwise each server has tables of its own
		how := unfenced(st.Source.Fence, r)
		w.Unfenced, st.LastComparison = &how, b.last
	}
}

// unfenced says how a server that must refuse writes accepts them; empty: it does not.
func unfenced(f *FenceStatus, r *state.Record) string {
	var tables []catalog.Table
	for _, t := range r.Tables {
		tables = append(tables, catalog.Table{OID: t.OID})
	}
	switch {
	case f == nil:
		return "its fence is gone"
	case !f.Closed:
		return "its fence is open"
	case !f.covers(tables):
		return "tables lack the trigger of its fence"
	}
	return ""
}

// lagBack adds how far the old server is behind, from the new server's position, which is read last.
func (st *Status) lagBack(ctx context.Context, conn *pgx.Conn, r *state.Record) error {
	w := &st.WayBack
	var position decoder.LSN
	var unseen float64
	err := conn.QueryRow(ctx, `select pg_current_wal_lsn()::text, greatest(0, extract(epoch from clock_timestamp() - $1::timestamptz))::float8`, r.SeenAt).Scan(&position, &unseen)
	if err != nil {
		return fmt.Errorf("ask the new server: %w", err)
	}
	if w.State == state.BackOff { // there is nothing to be behind
		w.SlotStatus, w.RetainedLimit, w.Stream = SlotStatus{}, nil, StreamStatus{}
		return nil
	}
	w.Stream.SourceLSN = position.String()
	w.lost(r)
	applied := parseLSN(w.Stream.AppliedLSN)
	for _, at := range []string{w.Stream.AckedLSN, w.Stream.AppliedLSN} { // what the run has written is older
		if parseLSN(w.Stream.ReceivedLSN) < parseLSN(at) {
			w.Stream.ReceivedLSN = at
		}
	}
	if applied != 0 {
		lag := max(0, int64(position)-int64(applied))
		w.Stream.LagBytes = &lag
	}
	switch {
	case w.State == state.BackLost, w.State == state.BackArmed:
		w.Stream.LagSeconds, w.Stream.LagBytes = nil, nil
	case w.State == state.BackInterrupted && w.Since != nil:
		lag := max(0, time.Since(*w.Since).Seconds())
		w.Stream.LagSeconds = &lag
	case !r.Alive:
		w.Stream.LagSeconds = &unseen
	}
	return nil
}

// lost notes by the slot that changes will not come any more, which nobody may have recorded.
func (w *WayBack) lost(r *state.Record) {
	if w.State != state.BackFollowing && w.State != state.BackInterrupted {
		return
	}
	switch w.WALStatus {
	case "missing":
		w.Reason = fmt.Sprintf("its slot %s is gone from the new server", w.Slot)
	case "lost":
		w.Reason = fmt.Sprintf("the new server has removed WAL that its slot %s needed", w.Slot)
	default:
		return
	}
	w.State, w.Since, w.Do = state.BackLost, nil, ""
}

// withoutNew is what the old server knows where the new one does not answer: how far it has followed, and whether it is fenced. known
// is false if there is no way back that it follows.
func (st *Status) withoutNew(ctx context.Context, source session.Config, why error) (known bool) {
	from, err := session.OpenLink(ctx, source, nil)
	if err != nil {
		return false
	}
	defer from.Close()
	err = from.Do(ctx, func(conn *pgx.Conn) (err error) {
		if err = st.readSlot(ctx, conn, nil); err == nil {
			st.Source.Fence, err = readFence(ctx, conn, st.Name)
		}
		return err
	})
	if err != nil {
		return false
	}
	b, err := readBackRecord(ctx, from, st.Name)
	if err != nil || b.record == nil {
		return false
	}
	switch b.phase() {
	case state.Following, state.Fenced, state.Drained:
	case state.New: // armed; it has begun where the switch was sealed
		if b.armed.Begins == 0 || st.Source.Fence == nil || !st.Source.Fence.Sealed {
			return false
		}
	default:
		return false
	}
	owner := "new"
	st.Phase, st.Owner, st.Target.Error = state.Switched, &owner, why.Error()
	st.WayBack = WayBack{Mode: b.record.Options.FallBack, State: state.BackInterrupted, Reason: "the new server does not answer", SlotStatus: SlotStatus{Slot: b.name.Source().Slot}}
	r := &state.Record{Name: st.Name, Phase: state.Switched}
	for _, t := range b.record.Tables { // as the new server has them
		r.Tables = append(r.Tables, state.Table{OID: t.TargetOID})
	}
	st.fromOld(b, r)
	return true
}
