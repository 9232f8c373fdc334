package main

import (
	"strings"
	"testing"
)

func TestMerged(t *testing.T) {
	head := []string{"", "time"}
	const frame = "# Title\n\n<!-- begin copy: written by make bench -->\n%<!-- end -->\n\nmore\n"
	const top = "here\n\n|  | time |\n|---|---|\n"
	there := strings.Replace(top, "here", "there", 1)
	document := strings.Replace(frame, "%", "", 1)
	for _, step := range []struct {
		name, setting string
		rows          [][]string
		want          string
	}{
		{"into an empty section", "here", [][]string{{"S2", "1 s"}}, top + "| S2 | 1 s |\n"},
		{"others stay, in order", "here", [][]string{{"S1", "2 s"}, {"S1", "3 s"}}, top + "| S1 | 2 s |\n| S1 | 3 s |\n| S2 | 1 s |\n"},
		{"its own are replaced", "here", [][]string{{"S1", "4 s"}}, top + "| S1 | 4 s |\n| S2 | 1 s |\n"},
		{"a name that begins alike", "here", [][]string{{"S", "5 s"}}, top + "| S | 5 s |\n| S1 | 4 s |\n| S2 | 1 s |\n"},
		{"another machine", "there", [][]string{{"S2", "6 s"}}, top + "| S | 5 s |\n| S1 | 4 s |\n| S2 | 1 s |\n\n" + there + "| S2 | 6 s |\n"},
		{"the first one again", "here", [][]string{{"S2", "7 s"}}, top + "| S | 5 s |\n| S1 | 4 s |\n| S2 | 7 s |\n\n" + there + "| S2 | 6 s |\n"},
	} {
		var err error
		if document, err = merged(document, "copy", step.setting, head, step.rows); err != nil {
			t.Fatal(err)
		}
		if want := strings.Replace(frame, "%", step.want, 1); document != want {
			t.Errorf("%s:\n%s\nwant:\n%s", step.name, document, want)
		}
	}
	if _, err := merged(document, "live", "here", head, nil); err == nil {
		t.Error("a section that is not there is no error")
	}
	if changed, err := merged(document, "copy", "there", []string{"", "size"}, [][]string{{"S1", "8 MB"}}); err != nil || !strings.Contains(changed, "there\n\n|  | size |\n|---|---|\n| S1 | 8 MB |\n<!-- end -->") {
		t.Errorf("with other columns: %v\n%s", err, changed)
	}
}
