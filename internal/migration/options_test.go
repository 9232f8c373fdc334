package migration

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
	begun := Config{
		Include: []string{"a.*"}, Until: UntilCaughtUp, OnNewTable: IgnoreNewTables, Auto: On, Prove: On, MaxRetainedWAL: 5 << 30,
		FallBack: FallBackRequire, MaxRetainedWALTarget: 50 << 30,
		Cut: CutoverOptions{Timeout: 90 * time.Second, MaxLag: 1500 * time.Millisecond, Without: []string{"view:public.it's"}},
	}
	begun.settle(state.Options{})
	const all = `--include 'a.*' --without 'view:public.it'\''s' --until caught-up --cutover auto --on-new-table ignore --fall-back require --verify --max-retained-wal 5GB --max-retained-wal-target 50GB --timeout 1m30s --max-lag 1.5s`
	for _, c := range []struct {
		what  string
		given Config
		was   state.Options
		want  string
	}{
		{"nothing is given where it begins", Config{}, state.Options{}, ""},
		{"nothing is given", Config{}, begun.options(), all},
		{"the same is given", begun, begun.options(), all},
		{
			"the opposite is given",
			Config{
				Until: UntilCutover, OnNewTable: StopOnNewTable, Auto: Off, Prove: Off, MaxRetainedWAL: NoLimit,
				FallBack: NoFallBack, MaxRetainedWALTarget: NoLimit,
				Cut: CutoverOptions{Timeout: time.Minute, MaxLag: 5 * time.Second, Without: []string{"view:public.v"}},
			},
			begun.options(),
			`--include 'a.*' --without view:public.v`,
		},
		{"an older version has recorded less", Config{Prove: On}, state.Options{Exclude: []string{"b.t"}, Schema: "none"}, `--exclude b.t --schema none --verify`},
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
		if err := c.given.resume(was); err != nil {
			t.Errorf("%s: %v", c.what, err)
		}
		c.given.settle(was)
		if got := c.given.options().String(); got != c.want {
			t.Errorf("%s: got\n%s\nwant\n%s", c.what, got, c.want)
		}
	}
}

// What the copy depends on cannot be changed.
func TestResume_Refused(t *testing.T) {
	was := state.Options{Include: []string{"a.*"}, Schema: "dump"}
	for _, c := range []Config{{Include: []string{"b.*"}}, {Exclude: []string{"a.x"}}, {InsertOnly: []string{"a.x"}}, {Schema: "none"}} {
		if err := c.resume(was); err == nil {
			t.Errorf("%s: nobody has refused it", fmt.Sprint(c.options()))
		}
	}
}
