package metrics

import (
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/knadh/koanf/parsers/yaml"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/walferry/walferry/internal/ready"
	"github.com/walferry/walferry/internal/state"
	"github.com/walferry/walferry/internal/status"
	"github.com/walferry/walferry/internal/tally"
)

// everything is a migration of which everything is known.
func everything() Migration {
	at, number, seconds, yes := time.Unix(1_800_000_000, 0), int64(7), 1.5, true
	slot := status.SlotStatus{Slot: "walferry_shop", SlotActive: &yes, WALStatus: "reserved", RetainedBytes: &number}
	stream := status.StreamStatus{AppliedLSN: "0/3", AckedLSN: "0/2", LagBytes: &number, LagSeconds: &seconds, Transactions: 1, Changes: 2}
	st := &status.Status{
		Name: "shop", Phase: state.Following, Owner: new("old"), Running: true,
		Source:         status.SourceStatus{Version: "15.1", SlotStatus: slot, RetainedLimit: &number, RetainedLeft: &seconds},
		Copy:           state.CopyStatus{Bytes: 6, BytesTotal: 7, Rows: 5, ETASeconds: &seconds},
		Stream:         stream,
		WayBack:        status.WayBack{State: state.BackArmed, SlotStatus: slot, Stream: stream},
		LastComparison: &status.LastComparison{At: at, Differ: []string{"public.t"}},
		Phases:         []state.Entered{{Phase: state.Following, At: at}},
		Switches: []state.Ran{
			{DryRun: true, At: at, PauseMS: &number, ExpectMS: &number, Steps: []state.RanStep{{Name: "fence", MS: 3, Refused: true}, {Name: "schema", MS: 9}}},
			{At: at, PauseMS: &number, Error: "it was not done"},
		},
	}
	st.Doing = status.Doing{
		Counts: &state.FlowCounts{Inserts: 1, Updates: 2, Deletes: 3, Truncates: 4, FromReconnects: 5, FromFailedAt: at, Delay: tally.Spread{Bounds: []float64{1, 2}, Counts: []int64{3, 2, 1}, Sum: 9}, Groups: tally.New(1).Read()},
		Hooks:  map[string]tally.Spread{"hold": tally.New(1).Read()}, FailedAt: at,
	}
	m := Migration{Name: "shop", Status: st, At: at, CatchUp: &seconds, Ready: &ready.Report{Gates: []ready.Gate{{Name: "lag", OK: &yes}, {Name: "actions"}}}}
	for i := range mostTables + 2 {
		m.Tables = append(m.Tables, status.Table{Schema: "public", Name: fmt.Sprint("t", i), State: state.TableCopying, Bytes: 1, BytesTotal: 4})
	}
	m.Tables[0].Name = "\xff\"\n" // of a database without an encoding
	return m
}

// gather returns the lines of what a collector exports, as name{labels} value.
func gather(t *testing.T, m ...Migration) map[string][]string {
	t.Helper()
	registry := prometheus.NewPedanticRegistry()
	if err := registry.Register(&Collector{Version: "v1", Now: func() []Migration { return m }}); err != nil {
		t.Fatal(err)
	}
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	lines := map[string][]string{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			var labels []string
			for _, l := range m.GetLabel() {
				labels = append(labels, l.GetName()+"="+l.GetValue())
			}
			if h := m.GetHistogram(); h != nil {
				var buckets []string
				for _, b := range h.GetBucket() {
					buckets = append(buckets, fmt.Sprint(b.GetUpperBound(), ":", b.GetCumulativeCount()))
				}
				lines[f.GetName()] = append(lines[f.GetName()], fmt.Sprintf("%s %v of %v in %d", strings.Join(labels, ","), buckets, h.GetSampleSum(), h.GetSampleCount()))
				continue
			}
			lines[f.GetName()] = append(lines[f.GetName()], fmt.Sprintf("%s %v", strings.Join(labels, ","), m.GetGauge().GetValue()+m.GetCounter().GetValue()))
		}
	}
	return lines
}

func TestCollector(t *testing.T) {
	lines := gather(t, everything())
	for name := range Names() {
		if len(lines[name]) == 0 {
			t.Errorf("%s is not exported", name)
		}
	}
	for name := range lines {
		if Names()[name] == "" {
			t.Errorf("%s is exported and has no name", name)
		}
	}
	for name, want := range map[string][]string{
		"walferry_phase_entered_timestamp_seconds": {"migration=shop,phase=following 1.8e+09"},
		"walferry_owner":                        {"migration=shop,server=new 0", "migration=shop,server=old 1"},
		"walferry_lag_seconds":                  {"direction=back,migration=shop 1.5", "direction=forth,migration=shop 1.5"},
		"walferry_cutover_pause_seconds":        {"migration=shop,rehearsal=true,step=fence 0.003", "migration=shop,rehearsal=true,step=total 0.007"},
		"walferry_slot_full_timestamp_seconds":  {"direction=forth,migration=shop 1.8000000015e+09"},
		"walferry_ready_gate":                   {"gate=lag,migration=shop 1"},
		"walferry_verify_differences":           {"migration=shop 1"},
		"walferry_commit_delay_seconds":         {"direction=forth,migration=shop [1:3 2:5] of 9 in 6"},
		"walferry_reconnects_total":             {"direction=forth,migration=shop,side=source 5", "direction=forth,migration=shop,side=target 0"},
		"walferry_last_error_timestamp_seconds": {"class=run,migration=shop 1.8e+09", "class=source,migration=shop 1.8e+09"},
		"walferry_changes_applied_total": {
			"direction=forth,kind=delete,migration=shop 3", "direction=forth,kind=insert,migration=shop 1",
			"direction=forth,kind=truncate,migration=shop 4", "direction=forth,kind=update,migration=shop 2",
		},
	} {
		if got := lines[name]; !slices.Equal(got, want) {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}
	if got := lines["walferry_table_copy_ratio"]; len(got) != mostTables+1 || !slices.Contains(got, "migration=shop,table=other 0.25") {
		t.Errorf("the ratios of tables: %q", got)
	}
	if lines := gather(t, Migration{Name: "new", Status: &status.Status{}}, Migration{Name: "unread"}); len(lines) != 1 {
		t.Errorf("where nothing is known: %v", lines)
	}
}

// A phase in which the way back is followed exports its slot, and not the one that is not used any more.
func TestCollector_Switched(t *testing.T) {
	m := everything()
	m.Status.Phase, m.Status.WayBack.State = state.Switched, state.BackFollowing
	if got := gather(t, m)["walferry_slot_retained_bytes"]; !slices.Equal(got, []string{"direction=back,migration=shop 7"}) {
		t.Errorf("got %q", got)
	}
}

var metricName = regexp.MustCompile(`\bwalferry_[a-z_]+`)

// The dashboard, the alerts and the documentation name metrics that exist; the documentation names all of them.
func TestDocuments(t *testing.T) {
	read := func(path string) []byte {
		t.Helper()
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	exist := func(where, text string) (named []string) {
		t.Helper()
		for _, name := range metricName.FindAllString(text, -1) {
			for _, m := range all {
				if rest, ok := strings.CutPrefix(name, m.name); ok && m.kind == histogram && slices.Contains([]string{"_bucket", "_sum", "_count"}, rest) {
					name = m.name
				}
			}
			if Names()[name] == "" {
				t.Errorf("%s names %s, which does not exist", where, name)
			}
			named = append(named, name)
		}
		return named
	}

	var dashboard struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
	}
	if err := json.Unmarshal(read("../../docs/grafana/walferry.json"), &dashboard); err != nil {
		t.Fatal(err)
	}
	if len(dashboard.Panels) < 12 {
		t.Errorf("the dashboard has %d panels", len(dashboard.Panels))
	}
	for _, p := range dashboard.Panels {
		for _, target := range p.Targets {
			if len(exist(p.Title, target.Expr)) == 0 || strings.Count(target.Expr, "(") != strings.Count(target.Expr, ")") {
				t.Errorf("panel %s: %s", p.Title, target.Expr)
			}
		}
		if len(p.Targets) == 0 {
			t.Errorf("panel %s shows nothing", p.Title)
		}
	}

	alerts, err := yaml.Parser().Unmarshal(read("../../docs/grafana/alerts.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	count := 0
	for _, group := range alerts["groups"].([]any) {
		for _, rule := range group.(map[string]any)["rules"].([]any) {
			r := rule.(map[string]any)
			expr, _ := r["expr"].(string)
			if len(exist(fmt.Sprint(r["alert"]), expr)) == 0 || r["annotations"].(map[string]any)["summary"] == nil {
				t.Errorf("alert %v: %v", r["alert"], r)
			}
			count++
		}
	}
	if count == 0 {
		t.Error("there is no alert")
	}

	named := exist("monitoring.md", string(read("../../docs/monitoring.md")))
	for name := range Names() {
		if !slices.Contains(named, name) {
			t.Errorf("monitoring.md does not name %s", name)
		}
	}
}
