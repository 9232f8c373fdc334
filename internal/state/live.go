package state

import (
	"context"
	"encoding/json"
	"time"

	"github.com/walferry/walferry/internal/online"
	"github.com/walferry/walferry/internal/tally"
)

// Live is what a running migrate reports of itself, for whoever looks at the record.
type Live struct {
	Host    string      `json:"host,omitempty"`
	PID     int         `json:"pid,omitempty"`
	Copy    CopyStatus  `json:"copy"`
	Indexes IndexStatus `json:"indexes"`
	// LagSeconds is the age of the oldest heartbeat that has not come back.
	LagSeconds float64 `json:"lag_seconds"`
	LagUnknown bool    `json:"lag_unknown,omitempty"` // none has come back in this run, nor is one under way for a second
	Received   string  `json:"received_lsn,omitempty"`
	Note       string  `json:"note,omitempty"` // what it waits for
	Step       string  `json:"step,omitempty"` // what is done in the phase, until it follows
	Goroutines int     `json:"goroutines"`
	Ended      bool    `json:"ended,omitempty"` // the run has ended on its own

	RetainedLimit int64    `json:"retained_limit_bytes,omitempty"` // of WAL that the slot of what is followed may hold back; 0: none is known
	RetainedLeft  float64  `json:"retained_left_seconds"`          // until then, at the rate of now; -1: it does not grow, or there is no limit
	NewTables     []string `json:"new_tables,omitempty"`           // of the source, that are not followed

	Steps []Taken `json:"steps,omitempty"` // of the last cutover or rehearsal of this run; an older version records none

	Writes WritesOn `json:"writes"` // an older version counts none

	WayBack *WayBack `json:"way_back,omitempty"` // nil: it is not in phase switched

	Under *Under `json:"under,omitempty"` // nil: no cutover is under way; an older version records none

	Phases []Entered  `json:"phases,omitempty"` // in their order, also of earlier runs
	Ran    []Ran      `json:"ran,omitempty"`    // the last switches and rehearsals, also of earlier runs
	Tables []TableNow `json:"tables,omitempty"` // that are being copied, or indexed

	Flow  *FlowCounts             `json:"flow,omitempty"`  // nil: nothing is followed yet; an older version counts nothing
	Hooks map[string]tally.Spread `json:"hooks,omitempty"` // how many seconds the calls of hooks have taken, by event
}

// WayBack is how the flow back is, in phase switched. It stays when the run ends.
type WayBack struct {
	State  WayBackState `json:"state"`
	Since  time.Time    `json:"since"`            // by the runner's clock
	Reason string       `json:"reason,omitempty"` // why it is interrupted, or lost
	Do     string       `json:"do,omitempty"`     // what the operator can do about that, if it is known

	Sequences string `json:"sequences,omitempty"` // why those of the old server are not kept ahead of the new one's; empty: they are
}

// WayBackState says what becomes of what is written on the new server.
type WayBackState string

// The states. The running migrate shows the last three.
const (
	BackOff         WayBackState = "off"         // there is none
	BackArmed       WayBackState = "armed"       // it is read; nothing is applied before the new server is the database
	BackFollowing   WayBackState = "following"   // it is applied to the old server
	BackInterrupted WayBackState = "interrupted" // it waits in the new server's WAL; what keeps it from being applied is tried again every minute
	BackLost        WayBackState = "lost"        // some of it will not come any more: there is no way back
)

// Under is a cutover or rehearsal that is under way.
type Under struct {
	Asked  bool   `json:"asked,omitempty"` // by a request; otherwise the runner makes it by itself
	DryRun bool   `json:"dry_run,omitempty"`
	Step   string `json:"step,omitempty"` // that was begun last

	// WaitsFor and Holders are whom it waits for, as of Looked, which is a time of the runner's; no
	// holders: it is not known to wait for anybody.
	WaitsFor string          `json:"waits_for,omitempty"`
	Holders  []online.Holder `json:"holders,omitempty"`
	Looked   time.Time       `json:"looked,omitzero"`
}

// View is where a running migrate shows what it does. Whoever looks finds it in the record.
type View struct{ store *Store }

// View returns where a running migrate shows what it does.
func (s *Store) View() View { return View{s} }

// Set shows what the running migrate does, and that it is alive.
func (v View) Set(ctx context.Context, live Live) error {
	text, err := json.Marshal(live)
	if err != nil {
		return err
	}
	return v.store.home.Exec(ctx, `update walferry.migration set live = $2::text::jsonb, seen_at = clock_timestamp() where name = $1 and run = $3`, v.store.name, string(text), v.store.run)
}

// Touch writes something small to the record, to measure a commit there.
func (v View) Touch(ctx context.Context) error {
	return v.store.home.Exec(ctx, `update walferry.migration set seen_at = clock_timestamp() where name = $1`, v.store.name)
}

// CopyStatus is how far the copy is. Bytes are those of the tables on the source.
type CopyStatus struct {
	Tables     int   `json:"tables"`
	TablesDone int   `json:"tables_done"`
	Pieces     int   `json:"pieces"`
	PiecesDone int   `json:"pieces_done"`
	Rows       int64 `json:"rows"`
	Bytes      int64 `json:"bytes"`
	BytesTotal int64 `json:"bytes_total"` // an estimate until the copy is done

	ETASeconds *float64 `json:"eta_seconds"` // until it is done; nil: not known, or it is done
}

// IndexStatus is how many tables have their indexes.
type IndexStatus struct {
	Tables     int `json:"tables"`
	TablesDone int `json:"tables_done"`

	Waiting  int `json:"waiting"`  // indexes of tables that are copied, those of constraints among them, that are not begun
	Building int `json:"building"` // that are being built
	Done     int `json:"done"`     // that are there, as far as this run has seen to them
}
