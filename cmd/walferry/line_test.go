package main

import (
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/walferry/walferry/internal/migration"
)

// A narrow terminal shows fewer parts of the line, each of them whole; how long it still takes is the last to go.
func TestProgress_Narrow(t *testing.T) {
	var copying, following migration.Status
	copying.Phase = migration.Copying
	copying.Copy.Tables, copying.Copy.TablesDone, copying.Copy.Rows, copying.Copy.Bytes, copying.Copy.BytesTotal = 40, 12, 12_345_678, 5<<30, 12<<30
	eta := 125.0
	copying.Copy.ETASeconds = &eta
	copying.Indexes.TablesDone = 9
	lag, behind := 1.5, int64(3<<20)
	following.Phase, following.Note = migration.Following, "held for a verify"
	following.Stream.AppliedLSN, following.Stream.Transactions, following.Stream.LagSeconds, following.Stream.LagBytes = "12/3456789A", 98765, &lag, &behind
	p := &progress{}
	for _, v := range []migration.Status{copying, following} {
		whole := p.line(v, 0)
		head, rest, _ := strings.Cut(whole, ": ")
		last := map[migration.Phase]string{migration.Copying: etaText(copying), migration.Following: "lag "}[v.Phase]
		for width := 150; width >= 8; width-- {
			got := p.line(v, width)
			if n := utf8.RuneCountInString(got); n > width && got != etaText(copying) && !strings.HasPrefix(got, "lag ") {
				t.Errorf("%d columns: %d in %q", width, n, got)
			}
			if !strings.Contains(got, last) {
				t.Errorf("%d columns: %q lacks %q", width, got, last)
			}
			for _, text := range strings.Split(strings.TrimPrefix(got, head+": "), ", ") {
				if !strings.Contains(", "+rest+", ", ", "+text+", ") {
					t.Errorf("%d columns: %q is no whole part of %q", width, text, whole)
				}
			}
		}
		if got := p.line(v, utf8.RuneCountInString(whole)); got != whole {
			t.Errorf("got %q where there is room for %q", got, whole)
		}
	}
	for width, want := range map[int]string{
		60: "copying: 12 of 40 tables, about 2m5s left",
		66: "copying: 12 of 40 tables, 5.0 GB of about 12.0 GB, about 2m5s left",
		30: "copying: about 2m5s left",
		20: "about 2m5s left",
	} {
		if got := p.line(copying, width); got != want {
			t.Errorf("%d columns: got %q, want %q", width, got, want)
		}
	}
}
