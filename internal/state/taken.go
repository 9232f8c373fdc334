package state

import "time"

// Outcome is how far a step of a cutover has come.
type Outcome string

// The outcomes. A step that has failed and was undone is Undone, and has its Error still.
const (
	Begun  Outcome = "begun"
	Done   Outcome = "done"
	Failed Outcome = "failed"
	Undone Outcome = "undone"
)

// Taken is what is known of a step of a cutover that was begun.
type Taken struct {
	Name      string    `json:"name"`
	Outcome   Outcome   `json:"outcome"`
	At        time.Time `json:"at"`                // when it began
	MS        int64     `json:"ms"`                // that it took until it was done, or had failed
	Error     string    `json:"error,omitempty"`   // why it has failed
	UndoMS    int64     `json:"undo_ms,omitempty"` // that undoing it took
	UndoError string    `json:"undo_error,omitempty"`
}
