// Package metrics makes Prometheus metrics of where migrations stand. What is exported is what `walferry status` shows, so that every
// process that can read it exports the same.
package metrics

import (
	"cmp"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/walferry/walferry/internal/ready"
	"github.com/walferry/walferry/internal/state"
	"github.com/walferry/walferry/internal/status"
	"github.com/walferry/walferry/internal/tally"
)

// Migration is what is known of a migration at a moment.
type Migration struct {
	Name   string // the label migration of its metrics
	Status *status.Status
	Tables []status.Table
	Ready  *ready.Report // nil: nobody has looked
	At     time.Time     // when Status was read
	Error  string        // why it could not be read again since; empty: it is as of At

	// CatchUp is how many seconds are left until what is committed now is applied, at the rate of now; nil: not known.
	CatchUp *float64
}

// Collector exports what is known of some migrations when it is asked.
type Collector struct {
	Version string
	// Now returns what is known now.
	Now func() []Migration
}

// metric is a name, its labels besides migration, and what it means.
type metric struct {
	desc *prometheus.Desc
	kind prometheus.ValueType
	name string
	help string
	more []string
}

// all are the metrics, in their order.
var all []*metric

func define(kind prometheus.ValueType, name, help string, labels ...string) *metric {
	m := &metric{kind: kind, name: "walferry_" + name, help: help, more: labels}
	m.desc = prometheus.NewDesc(m.name, help, append([]string{"migration"}, labels...), nil)
	all = append(all, m)
	return m
}

const (
	gauge     = prometheus.GaugeValue
	counter   = prometheus.CounterValue
	histogram = prometheus.UntypedValue // spread makes it one
)

// The metrics. The label direction is forth for the flow from the old server to the new one, back for the other.
var (
	migrationInfo = define(gauge, "migration_info", "1; the versions of both servers and the slot.", "source_version", "target_version", "slot")
	running       = define(gauge, "running", "1 if a migrate is at work, 0 otherwise.")
	failed        = define(gauge, "failed", "1 if the last run has ended with an error, 0 otherwise.")
	phaseNow      = define(gauge, "phase", "1 for the phase that the migration is in, 0 for the others.", "phase")
	phaseEntered  = define(gauge, "phase_entered_timestamp_seconds", "When the phase was entered last.", "phase")
	up            = define(gauge, "up", "1 if the server has answered when it was asked last, 0 otherwise.", "side")
	readAt        = define(gauge, "read_timestamp_seconds", "When the state of the migration was read last.")
	owner         = define(gauge, "owner", "1 for the server where applications belong, old or new, 0 for the other; 1 for both while groups of tables are handed over one by one.", "server")

	copyBytes  = define(counter, "copy_bytes_total", "Bytes copied, as the tables have them on the source.")
	copyRows   = define(counter, "copy_rows_total", "Rows copied.")
	copySize   = define(gauge, "copy_size_bytes", "Size of what is to be copied, estimated until the copy is done.")
	copyTables = define(gauge, "copy_tables", "Tables by state.", "state")
	indexes    = define(gauge, "index_builds", "Indexes of tables that are copied, by state: waiting, building, done.", "state")
	copyRatio  = define(gauge, "table_copy_ratio", "Copied part of a table, 0 to 1: of the 50 largest, and of all others together as table=\"other\".", "table")
	eta        = define(gauge, "eta_seconds", "Estimated time until the copy is done (what=\"copy\"), or until what is committed now is applied (what=\"catch_up\").", "what")

	lagSeconds   = define(gauge, "lag_seconds", "Age of the oldest heartbeat that has not come through.", "direction")
	lagBytes     = define(gauge, "lag_bytes", "From the end of the WAL to what is applied.", "direction")
	transactions = define(counter, "transactions_applied_total", "Transactions applied.", "direction")
	changes      = define(counter, "changes_applied_total", "Changes applied by the present run, or the last one: insert, update, delete, truncate.", "direction", "kind")
	received     = define(counter, "received_bytes_total", "Bytes received of the stream by the present run, or the last one.", "direction")
	delay        = define(histogram, "commit_delay_seconds", "From a transaction's commit on the server that it comes from, by its clock, to that on the other one, by the clock of migrate.", "direction")
	groupSize    = define(histogram, "apply_group_transactions", "Transactions that were committed together.", "direction")
	failedGroups = define(counter, "apply_failed_groups_total", "Groups that the server refused, and that were applied again with each result checked.", "direction")
	reconnects   = define(counter, "reconnects_total", "Connections of the stream and of its applier that were lost and made again, by the server: source is the one that the flow comes from.", "direction", "side")
	lastError    = define(gauge, "last_error_timestamp_seconds", "When an error has occurred last: class=\"source\" or \"target\" for the flow and the server to which something failed that was tried again, \"run\" for a migrate that has ended with one.", "class")
	appliedLSN   = define(gauge, "applied_lsn", "Position up to which everything is applied.", "direction")
	ackedLSN     = define(gauge, "acknowledged_lsn", "Position up to which the slot was told that everything is applied.", "direction")

	slotRetained = define(gauge, "slot_retained_bytes", "WAL that the slot holds back.", "direction")
	slotLimit    = define(gauge, "slot_limit_bytes", "WAL that it may hold back: by --max-retained-wal or by the server's max_slot_wal_keep_size.", "direction")
	slotFull     = define(gauge, "slot_full_timestamp_seconds", "Forecast: when the limit is reached at the rate of now.", "direction")
	slotActive   = define(gauge, "slot_active", "1 if the slot is in use, 0 otherwise.", "direction")
	slotStatus   = define(gauge, "slot_wal_status", "1 for the state of the WAL that the slot needs: reserved, extended, unreserved, lost, missing.", "direction", "status")

	wayBack     = define(gauge, "way_back", "1 for the state of the way back, 0 for the others.", "state")
	differences = define(gauge, "verify_differences", "Tables that differ by the last comparison.")
	verifyRows  = define(counter, "verify_rows_total", "Rows compared, on the source, by all comparisons.")
	verifiedAt  = define(gauge, "verify_timestamp_seconds", "When both sides were compared last.")
	readyNow    = define(gauge, "ready", "1 if nothing is known that would refuse a cutover, 0 otherwise.")
	readyGate   = define(gauge, "ready_gate", "1 for a gate of the cutover that would pass, 0 for one that would not.", "gate")
	pause       = define(gauge, "cutover_pause_seconds", "How long a step of the last cutover or rehearsal has taken while writes were refused; all of them together as step=\"total\".", "step", "rehearsal")
	hookTook    = define(histogram, "hook_duration_seconds", "How long calls of hooks have taken, whether they have agreed or not.", "event")
	expect      = define(gauge, "cutover_expected_pause_seconds", "The pause that the last rehearsal expects of the cutover.")
)

var buildInfo = prometheus.NewDesc("walferry_build_info", "1; the version of walferry and of Go.", []string{"version", "go_version"}, nil)

// Names returns the names of all metrics, and what each means.
func Names() map[string]string {
	names := map[string]string{"walferry_build_info": "1; the version of walferry and of Go."}
	for _, m := range all {
		names[m.name] = m.help
	}
	return names
}

// Describe implements prometheus.Collector.
func (c *Collector) Describe(to chan<- *prometheus.Desc) {
	to <- buildInfo
	for _, m := range all {
		to <- m.desc
	}
}

// Collect implements prometheus.Collector.
func (c *Collector) Collect(to chan<- prometheus.Metric) {
	to <- prometheus.MustNewConstMetric(buildInfo, gauge, 1, c.Version, runtime.Version())
	for _, m := range c.Now() {
		if m.Status == nil || m.Status.Phase == "" {
			continue
		}
		s := sink{to, m.Name}
		s.state(&m)
		s.copied(&m)
		s.flows(&m)
		s.switches(&m)
	}
}

// sink sends the metrics of one migration.
type sink struct {
	to        chan<- prometheus.Metric
	migration string
}

func (s sink) put(m *metric, value float64, labels ...string) {
	labels = append([]string{s.migration}, labels...)
	for i := range labels {
		labels[i] = strings.ToValidUTF8(labels[i], "\uFFFD") // names of a database without an encoding
	}
	s.to <- prometheus.MustNewConstMetric(m.desc, m.kind, value, labels...)
}

// spread sends a histogram.
func (s sink) spread(m *metric, v tally.Spread, labels ...string) {
	if len(v.Counts) != len(v.Bounds)+1 {
		return // nothing was counted
	}
	upTo, n := map[float64]uint64{}, uint64(0)
	for i, bound := range v.Bounds {
		n += uint64(v.Counts[i])
		upTo[bound] = n
	}
	s.to <- prometheus.MustNewConstHistogram(m.desc, uint64(v.Count()), v.Sum, upTo, append([]string{s.migration}, labels...)...)
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

func unix(t time.Time) float64 { return float64(t.UnixMilli()) / 1000 }

// phases are all of them, in their order.
var phases = []state.Phase{
	state.New, state.Prepared, state.Copying, state.Indexing, state.Following, state.Fenced, state.Drained, state.Switched, state.Finished, state.Aborted,
}

func (s sink) state(m *Migration) {
	st := m.Status
	s.put(migrationInfo, 1, st.Source.Version, st.Target.Version, st.Source.Slot)
	s.put(running, truth(st.Running))
	s.put(failed, truth(st.Error != ""))
	for _, p := range phases {
		s.put(phaseNow, truth(p == st.Phase), string(p))
	}
	entered := map[state.Phase]time.Time{}
	for _, e := range st.Phases {
		entered[e.Phase] = e.At
	}
	for p, at := range entered {
		s.put(phaseEntered, unix(at), string(p))
	}
	s.put(up, truth(st.Source.Error == "" && m.Error == ""), "source")
	s.put(up, truth(st.Target.Error == "" && m.Error == ""), "target")
	if st.Owner != nil {
		s.put(owner, truth(*st.Owner != "new"), "old")
		s.put(owner, truth(*st.Owner != "old"), "new")
	}
	s.put(readAt, unix(m.At))
	if !st.FailedAt.IsZero() {
		s.put(lastError, unix(st.FailedAt), "run")
	}
}

// mostTables is how many tables have a metric of their own.
const mostTables = 50

func (s sink) copied(m *Migration) {
	c := m.Status.Copy
	s.put(copyBytes, float64(c.Bytes))
	s.put(copyRows, float64(c.Rows))
	s.put(copySize, float64(c.BytesTotal))
	if c.ETASeconds != nil {
		s.put(eta, *c.ETASeconds, "copy")
	}
	if m.CatchUp != nil {
		s.put(eta, *m.CatchUp, "catch_up")
	}
	s.put(indexes, float64(m.Status.Indexes.Waiting), "waiting")
	s.put(indexes, float64(m.Status.Indexes.Building), "building")
	s.put(indexes, float64(m.Status.Indexes.Done), "done")
	if m.Tables == nil {
		return
	}
	count := map[state.TableState]int{}
	for _, t := range m.Tables {
		count[t.State]++
	}
	for _, st := range []state.TableState{state.TableWaiting, state.TableCopying, state.TableIndexing, state.TableDone} {
		s.put(copyTables, float64(count[st]), string(st))
	}
	largest := slices.Clone(m.Tables)
	slices.SortFunc(largest, func(a, b status.Table) int {
		return cmp.Or(cmp.Compare(b.BytesTotal, a.BytesTotal), cmp.Compare(a.Schema, b.Schema), cmp.Compare(a.Name, b.Name))
	})
	var other status.Table
	for i, t := range largest {
		if i < mostTables {
			s.put(copyRatio, ratio(t), t.Key().Plain())
			continue
		}
		other.Bytes, other.BytesTotal = other.Bytes+t.Bytes, other.BytesTotal+t.BytesTotal
	}
	if len(largest) > mostTables {
		s.put(copyRatio, ratio(other), "other")
	}
}

// ratio is the copied part of a table. One of no size is copied when it is done.
func ratio(t status.Table) float64 {
	switch {
	case t.State == state.TableDone || t.State == state.TableIndexing:
		return 1
	case t.BytesTotal == 0:
		return 0
	}
	return float64(t.Bytes) / float64(t.BytesTotal)
}

func number(lsn string) (float64, bool) {
	n, err := pglogrepl.ParseLSN(lsn)
	return float64(n), err == nil && lsn != ""
}

// flow sends what is known of the flow in one direction.
func (s sink) flow(direction string, f status.StreamStatus) {
	if f.LagSeconds != nil {
		s.put(lagSeconds, *f.LagSeconds, direction)
	}
	if f.LagBytes != nil {
		s.put(lagBytes, float64(*f.LagBytes), direction)
	}
	if n, ok := number(f.AckedLSN); ok {
		s.put(ackedLSN, n, direction)
	}
	if n, ok := number(f.AppliedLSN); ok {
		s.put(appliedLSN, n, direction)
		s.put(transactions, float64(f.Transactions), direction)
	}
}

// counted sends what the run has counted of the flow in one direction.
func (s sink) counted(direction string, c *state.FlowCounts) {
	if c == nil {
		return
	}
	s.put(changes, float64(c.Inserts), direction, "insert")
	s.put(changes, float64(c.Updates), direction, "update")
	s.put(changes, float64(c.Deletes), direction, "delete")
	s.put(changes, float64(c.Truncates), direction, "truncate")
	s.put(received, float64(c.ReceivedBytes), direction)
	s.spread(delay, c.Delay, direction)
	s.spread(groupSize, c.Groups, direction)
	s.put(failedGroups, float64(c.FailedGroups), direction)
	s.put(reconnects, float64(c.FromReconnects), direction, "source")
	s.put(reconnects, float64(c.ToReconnects), direction, "target")
	if !c.FromFailedAt.IsZero() {
		s.put(lastError, unix(c.FromFailedAt), "source")
	}
	if !c.ToFailedAt.IsZero() {
		s.put(lastError, unix(c.ToFailedAt), "target")
	}
}

// slot sends what is known of the slot of one direction.
func (s sink) slot(direction string, slot *status.SlotStatus, limit *int64, left *float64, at time.Time) {
	if slot.RetainedBytes == nil {
		return
	}
	s.put(slotRetained, float64(*slot.RetainedBytes), direction)
	if limit != nil {
		s.put(slotLimit, float64(*limit), direction)
	}
	if left != nil {
		s.put(slotFull, unix(at)+*left, direction)
	}
	if slot.SlotActive != nil {
		s.put(slotActive, truth(*slot.SlotActive), direction)
	}
	if slot.WALStatus != "" {
		s.put(slotStatus, 1, direction, slot.WALStatus)
	}
}

// backStates are those of the way back, in their order.
var backStates = []state.WayBackState{state.BackOff, state.BackArmed, state.BackFollowing, state.BackInterrupted, state.BackLost}

func (s sink) flows(m *Migration) {
	st := m.Status
	from, w := &st.Source, &st.WayBack
	for _, one := range backStates {
		s.put(wayBack, truth(one == w.State), string(one))
	}
	if st.Phase != state.Switched { // the slot of the flow forth is not used any more
		s.flow("forth", st.Stream)
		s.counted("forth", st.Counts)
		s.slot("forth", &from.SlotStatus, from.RetainedLimit, from.RetainedLeft, m.At)
	}
	if st.Phase == state.Switched {
		s.counted("back", st.Counts)
	}
	if w.State != state.BackOff && w.State != "" {
		s.flow("back", w.Stream)
		s.slot("back", &w.SlotStatus, w.RetainedLimit, w.RetainedLeft, m.At)
	}
}

func (s sink) switches(m *Migration) {
	st := m.Status
	for event, took := range st.Hooks {
		s.spread(hookTook, took, event)
	}
	if c := st.LastComparison; c != nil {
		s.put(verifyRows, float64(c.Rows))
		s.put(differences, float64(len(c.Differ)))
		s.put(verifiedAt, unix(c.At))
	}
	if m.Ready != nil {
		s.put(readyNow, truth(m.Ready.Ready))
		for _, g := range m.Ready.Gates {
			if g.OK != nil {
				s.put(readyGate, truth(*g.OK), g.Name)
			}
		}
	}
	last := map[bool]*state.Ran{} // by whether it was a rehearsal
	for i := range st.Switches {
		if r := &st.Switches[i]; r.Error == "" && r.PauseMS != nil {
			last[r.DryRun] = r
		}
	}
	for rehearsal, r := range last {
		label := map[bool]string{true: "true", false: "false"}[rehearsal]
		s.put(pause, float64(*r.PauseMS)/1000, "total", label)
		took := map[string]float64{}
		for _, step := range r.Steps {
			if step.Refused {
				took[step.Name] += float64(step.MS) / 1000
			}
		}
		for name, seconds := range took {
			s.put(pause, seconds, name, label)
		}
		if r.ExpectMS != nil && rehearsal {
			s.put(expect, float64(*r.ExpectMS)/1000)
		}
	}
}
