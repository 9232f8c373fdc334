package fleet

import (
	"context"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/walferry/walferry/internal/migration"
	"github.com/walferry/walferry/internal/state"
	"github.com/walferry/walferry/internal/status"
)

// Status is where the migrations of a fleet stand, as their servers say. Its JSON is stable.
type Status struct {
	Databases []DatabaseStatus `json:"databases"` // in the order in which they begin
	Waves     []WaveStatus     `json:"waves"`
	Problems  []string         `json:"problems"` // instances that could not be asked, of whose databases nothing is known
}

// DatabaseStatus is where one migration stands.
type DatabaseStatus struct {
	Name     string      `json:"name"` // of the migration
	Instance string      `json:"instance"`
	Source   string      `json:"source_database"`
	Target   string      `json:"target_database"`
	Wave     int         `json:"wave"`
	Phase    state.Phase `json:"phase"`   // empty: it has not begun
	Running  bool        `json:"running"` // a migrate is at work
	Error    string      `json:"error"`   // why the last run has stopped, or why it could not be asked
	WayBack  string      `json:"way_back"`
	Copy     struct {
		Rows       int64 `json:"rows"`
		Bytes      int64 `json:"bytes"`
		BytesTotal int64 `json:"bytes_total"` // an estimate until the copy is done
	} `json:"copy"`
	LagSeconds    *float64        `json:"lag_seconds"` // of the flow that is followed; nil: not known, or it does not follow
	LagBytes      *int64          `json:"lag_bytes"`
	RetainedBytes *int64          `json:"retained_bytes"` // WAL that its slot holds back; nil: not known
	Transactions  int64           `json:"transactions"`
	PauseMS       *int64          `json:"pause_ms"` // of its cutover; nil: it was not switched
	Equal         *bool           `json:"equal"`    // both sides, by the last comparison; nil: nobody has compared
	Differ        []string        `json:"differ"`   // tables
	Phases        []state.Entered `json:"phases"`

	person bool // a cutover has failed, or was taken back
}

// state says in a word or two how it is.
func (d *DatabaseStatus) state() string {
	switch {
	case d.Error != "" && !d.Running && d.Phase == "":
		return "not known"
	case d.Phase == "":
		return "waits"
	case !d.Running && d.Error != "" && d.Phase != migration.Finished && d.Phase != migration.Aborted:
		return string(d.Phase) + " FAIL"
	case !d.Running && d.Phase != migration.Finished && d.Phase != migration.Aborted:
		return string(d.Phase) + " (off)"
	}
	return string(d.Phase)
}

// State says in a word or two how it is.
func (d *DatabaseStatus) State() string { return d.state() }

// WaveStatus is how far a wave is.
type WaveStatus struct {
	Number    int    `json:"number"`
	Databases int    `json:"databases"`
	Following int    `json:"following"` // ready to be cut over
	Switched  int    `json:"switched"`
	Failed    int    `json:"failed"` // do not run, and have said why
	After     int    `json:"after"`  // the wave before; 0: none
	Approval  string `json:"approval"`
	Approved  string `json:"approved"`    // by whom; empty: by nobody yet
	Window    string `json:"window"`      // empty: at any time
	Open      bool   `json:"window_open"` // now
}

// readWithin is how long a server may take to say how its migration is.
const readWithin = 30 * time.Second

// Status asks all servers.
func (f *Fleet) Status(ctx context.Context) (*Status, error) {
	return f.read(ctx, func(*Database) bool { return true })
}

// read asks the servers of some databases.
func (f *Fleet) read(ctx context.Context, wanted func(*Database) bool) (*Status, error) {
	st := &Status{Databases: []DatabaseStatus{}, Waves: []WaveStatus{}, Problems: []string{}}
	for _, p := range f.Problems {
		st.Problems = append(st.Problems, p.Err.Error())
	}
	var some []*Database
	for _, d := range f.Databases {
		if wanted(d) {
			some = append(some, d)
		}
	}
	st.Databases = make([]DatabaseStatus, len(some))
	var group errgroup.Group
	group.SetLimit(2 * atOnce)
	for i, d := range some {
		group.Go(func() error {
			st.Databases[i] = d.status(ctx)
			return nil
		})
	}
	group.Wait() //nolint:errcheck // what is wrong is in the status
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	for _, w := range f.Waves {
		one := WaveStatus{Number: w.Number, After: w.After, Approval: string(w.Approve), Approved: w.Approved, Open: w.Window.Open(time.Now())}
		if w.Window != nil {
			one.Window = w.Window.Text
		}
		for i := range st.Databases {
			one.count(&st.Databases[i])
		}
		if one.Databases > 0 {
			st.Waves = append(st.Waves, one)
		}
	}
	return st, nil
}

func (w *WaveStatus) count(d *DatabaseStatus) {
	if d.Wave != w.Number {
		return
	}
	w.Databases++
	switch {
	case done(d.Phase):
		w.Switched++
	case !d.Running && d.Error != "":
		w.Failed++
	case d.Phase == migration.Following && d.Running:
		w.Following++
	}
}

// of returns the status of a migration that was asked for.
func (st *Status) of(name string) *DatabaseStatus {
	i := slices.IndexFunc(st.Databases, func(d DatabaseStatus) bool { return d.Name == name })
	return &st.Databases[i]
}

func (d *Database) status(ctx context.Context) DatabaseStatus {
	one := DatabaseStatus{Name: d.Name, Instance: d.Instance, Source: d.Source, Target: d.Target, Wave: d.Wave, Differ: []string{}, Phases: []state.Entered{}}
	if d.missing != "" {
		one.Error = fmt.Sprintf("the target has no database %s", d.Target)
		return one
	}
	ctx, cancel := context.WithTimeout(ctx, readWithin)
	defer cancel()
	st, err := migration.ReadStatus(ctx, d.Config)
	if err != nil {
		one.Error = err.Error()
		return one
	}
	one.take(&st)
	return one
}

// take keeps of the status of a migration what a fleet shows.
func (d *DatabaseStatus) take(st *status.Status) {
	d.Phase, d.Running, d.Error, d.WayBack = st.Phase, st.Running, st.Error, string(st.WayBack.State)
	d.Copy.Rows, d.Copy.Bytes, d.Copy.BytesTotal = st.Copy.Rows, st.Copy.Bytes, st.Copy.BytesTotal
	d.Transactions, d.Phases, d.PauseMS = st.Stream.Transactions, st.Phases, st.Cutover.PauseMS
	stream, slot := &st.Stream, &st.Source.SlotStatus
	if st.Phase == migration.Switched {
		stream, slot = &st.WayBack.Stream, &st.WayBack.SlotStatus
	}
	if st.Phase != migration.Finished && st.Phase != migration.Aborted {
		d.LagSeconds, d.LagBytes, d.RetainedBytes = stream.LagSeconds, stream.LagBytes, slot.RetainedBytes
	}
	if c := st.Cutover.Comparison; c != nil {
		d.Equal = c.Equal
	} else if c := st.LastComparison; c != nil {
		equal := len(c.Differ) == 0
		d.Equal, d.Differ = &equal, c.Differ
	}
	for _, ran := range st.Switches {
		if !ran.DryRun {
			d.person = ran.Error != "" || ran.Kind == "fallback"
		}
	}
	if d.Phases == nil {
		d.Phases = []state.Entered{}
	}
	if d.Differ == nil {
		d.Differ = []string{}
	}
}
