package config

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/walferry/walferry/internal/state"
)

// A run that resumes has the options that its migration was begun with, except for those that are
// given again.
func TestSettle(t *testing.T) {
	begun := Migration{
		Include: []string{"a.*"}, Until: UntilCaughtUp, OnNewTable: IgnoreNewTables, Auto: On, Prove: On, MaxRetainedWAL: 5 << 30,
		FallBack: FallBackRequire, MaxRetainedWALTarget: 50 << 30,
		Cut: Cutover{Timeout: 90 * time.Second, MaxLag: 1500 * time.Millisecond, Without: []string{"view:public.it's"}},
	}
	begun.Settle(state.Options{})
	const all = `--include 'a.*' --without 'view:public.it'\''s' --until caught-up --cutover auto --on-new-table ignore --fall-back require --verify --max-retained-wal 5GB --max-retained-wal-target 50GB --timeout 1m30s --max-lag 1.5s`
	for _, c := range []struct {
		what  string
		given Migration
		was   state.Options
		want  string
	}{
		{"nothing is given where it begins", Migration{}, state.Options{}, ""},
		{"nothing is given", Migration{}, begun.Options(), all},
		{"the same is given", begun, begun.Options(), all},
		{
			"the opposite is given",
			Migration{
				Until: UntilCutover, OnNewTable: StopOnNewTable, Auto: Off, Prove: Off, MaxRetainedWAL: NoLimit,
				FallBack: NoFallBack, MaxRetainedWALTarget: NoLimit,
				Cut: Cutover{Timeout: time.Minute, MaxLag: 5 * time.Second, Without: []string{"view:public.v"}},
			},
			begun.Options(),
			`--include 'a.*' --without view:public.v`,
		},
		{"an older version has recorded less", Migration{Prove: On}, state.Options{Exclude: []string{"b.t"}, Schema: "none"}, `--exclude b.t --schema none --verify`},
	} {
		// As the record is read.
		text, err := json.Marshal(c.was)
		if err != nil {
			t.Fatal(err)
		}
		var was state.Options
		if err := json.Unmarshal(text, &was); err != nil {
			t.Fatal(err)
		}
		if was.Schema == "" {
			was.Schema = "dump"
		}
		if err := c.given.Resume(was); err != nil {
			t.Errorf("%s: %v", c.what, err)
		}
		c.given.Settle(was)
		if got := c.given.Options().String(); got != c.want {
			t.Errorf("%s: got\n%s\nwant\n%s", c.what, got, c.want)
		}
	}
}

// What the copy depends on cannot be changed.
func TestResume_Refused(t *testing.T) {
	was := state.Options{Include: []string{"a.*"}, Schema: "dump"}
	for _, c := range []Migration{{Include: []string{"b.*"}}, {Exclude: []string{"a.x"}}, {InsertOnly: []string{"a.x"}}, {Schema: "none"}} {
		if err := c.Resume(was); err == nil {
			t.Errorf("%s: nobody has refused it", fmt.Sprint(c.Options()))
		}
	}
}
