package status

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"reflect"
	"testing"
	"time"

	"github.com/walferry/walferry/internal/cutover"
	"github.com/walferry/walferry/internal/schema"
	"github.com/walferry/walferry/internal/state"
)

var rewrite = flag.Bool("rewrite", false, "write testdata/status.json anew")

// Programs read what status --json prints: nothing of it may change its name, type or place.
func TestStatus_JSON(t *testing.T) {
	at := time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)
	number, seconds, yes, owner, open := int64(7), 1.5, true, "new", "its fence is open"
	full := Status{
		Name: "default", Phase: state.Following, Owner: &owner, Error: "it was killed", Running: true, Runner: "host, pid 1", Note: "held for a verify", Step: "create the slot", Options: "--until copied",
		Known: []string{"other"}, Groups: []Group{{Tables: []string{"public.t"}, Since: at}},
		Source: SourceStatus{
			Version: "15.1", Database: "d", SlotStatus: SlotStatus{Slot: "walferry_default", SlotActive: &yes, WALStatus: "reserved", RetainedBytes: &number},
			RetainedLimit: &number, RetainedLeft: &seconds, Fence: &FenceStatus{Tables: 1, Closed: true, Sealed: true, Deadline: &at}, Error: "it is gone",
		},
		Target:  TargetStatus{Version: "18.0", Database: "d", Fence: &FenceStatus{Tables: 1}, Error: "it is gone"},
		Copy:    state.CopyStatus{Tables: 1, TablesDone: 2, Pieces: 3, PiecesDone: 4, Rows: 5, Bytes: 6, BytesTotal: 7, ETASeconds: &seconds},
		Indexes: state.IndexStatus{Tables: 1, TablesDone: 2},
		Stream: StreamStatus{
			ReceivedLSN: "0/4", AppliedLSN: "0/3", AckedLSN: "0/2", SourceLSN: "0/5", LagBytes: &number, LagSeconds: &seconds, Transactions: 1, Changes: 2,
		},
		WayBack: WayBack{
			Mode: "auto", State: state.BackInterrupted, Since: &at, Reason: "a label is missing", Do: "add it",
			SlotStatus:    SlotStatus{Slot: "walferry_default_back", SlotActive: &yes, WALStatus: "reserved", RetainedBytes: &number},
			RetainedLimit: &number, RetainedLeft: &seconds,
			Stream:        StreamStatus{ReceivedLSN: "0/4", AppliedLSN: "0/3", AckedLSN: "0/2", SourceLSN: "0/5", LagBytes: &number, LagSeconds: &seconds, Transactions: 1, Changes: 2},
			AppliedCommit: &at, Unidentified: []Unidentified{{Table: "public.t", SQL: "alter table public.t replica identity full"}}, Unfenced: &open,
		},
		Cutover: CutoverStatus{
			FencedAt: &at, DrainedAt: &at, FinishedAt: &at, PauseMS: &number,
			Comparison: &cutover.Comparison{Equal: &yes, Compared: 1, NotCompared: 2, Rows: 3, Error: "it ended"},
		},
		Requests: []Request{{
			Kind: "cutover", AskedSeconds: &seconds, Begun: true, Step: "quiet moment", For: "waiting for writers: ",
			Holders: []Holder{{PID: 1, Role: "web", Application: "cron", Seconds: &seconds, State: "idle in transaction", Statement: "UPDATE"}, {PID: 2, Role: "app"}},
		}},
		Verifying: &yes,

		InsertOnlyBroken: []string{"public.log"},
		LastComparison:   &LastComparison{At: at, Position: "0/1", Compared: 1, Differ: []string{"public.t"}, Hints: map[string]string{"public.t": "only generated columns differ"}},
		Refused:          []schema.Refused{{Object: "view:public.v", Why: "no such function"}},
		Phases:           []state.Entered{{Phase: state.Following, At: at}},
		Switches: []state.Ran{{
			Kind: "cutover", DryRun: true, At: at, PauseMS: &number, ExpectMS: &number, Error: "it lags",
			Steps: []state.RanStep{{Name: "fence", Outcome: state.Undone, MS: 7, Refused: true}},
		}},
		Unvalidated: []string{"alter table t validate constraint c"},
		NewTables:   []string{"public.n"},
		Disabled:    []string{"alter table t enable trigger u"},
	}
	got, err := json.MarshalIndent([]Status{full, {}}, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	got = append(got, '\n')
	const file = "testdata/status.json"
	if *rewrite {
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// What a running migrate knows of itself arrives in the status that others read, including what it
// does not know.
func TestStatus_Live(t *testing.T) {
	limit, seconds := int64(7), 1.5
	for _, st := range []Status{
		{},
		{
			Note: "held for a verify", Step: "create the slot", NewTables: []string{"public.n"},
			Source:  SourceStatus{RetainedLimit: &limit, RetainedLeft: &seconds},
			Copy:    state.CopyStatus{Tables: 1},
			Indexes: state.IndexStatus{Tables: 1},
			Stream:  StreamStatus{ReceivedLSN: "0/4", LagSeconds: &seconds},
			Cutover: CutoverStatus{Steps: []state.Taken{{Name: "fence"}}},
			Phases:  []state.Entered{{Phase: state.Copying}}, Switches: []state.Ran{{Kind: "cutover"}},
			Doing: Doing{
				Under: &state.Under{DryRun: true, Step: "fence"},
				Back:  &state.WayBack{State: state.BackInterrupted, Since: time.Unix(0, 0), Reason: "a label is missing", Do: "add it"},
			},
		},
	} {
		live, got := st.Live(), Status{}
		got.fromLive(&live)
		st.Runner = got.Runner
		if !reflect.DeepEqual(got, st) {
			t.Errorf("got %+v, want %+v", got, st)
		}
	}
}
