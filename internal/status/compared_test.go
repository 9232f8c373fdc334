package status

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/walferry/walferry/internal/fail"
	"github.com/walferry/walferry/internal/verify"
)

// What a comparison finds of a table replaces what the one before found of that table alone, and
// tables in which only generated columns differ have no rows to repair.
func TestLastComparison(t *testing.T) {
	at := time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)
	var last LastComparison
	add := func(tables ...verify.TableReport) {
		v := verify.Verified{Position: "0/1"}
		v.Tables = tables
		v.Conclude()
		last.Add(&v, at)
	}
	hint := "only generated columns differ: nothing was lost (cutover --allow-differences)"
	page := verify.TableReport{Schema: "public", Name: "page", GeneratedRows: 1, DifferentRows: 1, Hint: hint}
	rows := verify.TableReport{Schema: "public", Name: "rows", MissingRows: 1}
	for _, c := range []struct {
		what          string
		tables        []verify.TableReport
		differ        []string
		advice, never string // the gate's; empty: there is none
	}{
		{"nothing differs", []verify.TableReport{{Schema: "public", Name: "t", Equal: true}}, []string{}, "", ""},
		{"only generated columns differ", []verify.TableReport{page}, []string{`"public"."page"`}, `"public"."page": ` + hint, "repair"},
		{"rows of another one differ", []verify.TableReport{rows}, []string{`"public"."page"`, `"public"."rows"`}, `repair the rows of "public"."rows" (`, "repair the rows ("},
		{"the other one was not compared", []verify.TableReport{{Schema: "public", Name: "rows", Error: "locked"}}, []string{`"public"."page"`, `"public"."rows"`}, hint, ""},
		{"the first one is equal", []verify.TableReport{{Schema: "public", Name: "page", Equal: true}}, []string{`"public"."rows"`}, "repair the rows (", "generated"},
	} {
		add(c.tables...)
		if !reflect.DeepEqual(last.Differ, c.differ) {
			t.Errorf("%s: %q differ, want %q", c.what, last.Differ, c.differ)
		}
		err := last.Gate()
		if c.advice == "" {
			if err != nil {
				t.Errorf("%s: %v", c.what, err)
			}
			continue
		}
		gate := fail.Find(err, fail.Gate)
		if gate == nil || !strings.Contains(gate.Advice, c.advice) || c.never != "" && strings.Contains(gate.Advice, c.never) {
			t.Errorf("%s: %v\nadvice %q\nwant %q, never %q", c.what, err, gate.Advice, c.advice, c.never)
		}
	}
}

// If nothing differs programs get an empty list, also of what an older version has recorded.
func TestLastComparison_Nothing(t *testing.T) {
	var last, old LastComparison
	if err := json.Unmarshal([]byte(`{"at": "2026-11-30T12:00:00Z", "position": "0/1", "compared": 1, "differ": null}`), &old); err != nil {
		t.Fatal(err)
	}
	old.fill()
	v := verify.Verified{Position: "0/1"}
	v.Tables = []verify.TableReport{{Schema: "public", Name: "t", Equal: true}}
	v.Conclude()
	last.Add(&v, old.At)
	want := `{"at":"2026-11-30T12:00:00Z","position":"0/1","compared":1,"differ":[],"rows":0,"hints":{}}`
	for _, l := range []LastComparison{last, old} {
		if got, err := json.Marshal(l); err != nil || string(got) != want {
			t.Errorf("got %s, %v, want %s", got, err, want)
		}
	}
}
