package state

import (
	"encoding/json"
	"testing"
	"time"
)

// What is known of a step is kept in the record, and read by another version.
func TestTaken_JSON(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	text, err := json.Marshal([]Taken{{Name: "fence", Outcome: Undone, At: at, MS: 7, Error: "no beat", UndoMS: 2}})
	if err != nil {
		t.Fatal(err)
	}
	const want = `[{"name":"fence","outcome":"undone","at":"2026-01-02T03:04:05Z","ms":7,"error":"no beat","undo_ms":2}]`
	if string(text) != want {
		t.Errorf("%s\nwant %s", text, want)
	}
}
