package cutover

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/walferry/walferry/internal/fail"
	"github.com/walferry/walferry/internal/sides"
	"github.com/walferry/walferry/internal/state"
	"github.com/walferry/walferry/internal/verify"
)

// Result is what a cutover, or its rehearsal, measured.
type Result struct {
	Sides      sides.Sides `json:"direction,omitempty"`
	DryRun     bool        `json:"dry_run,omitempty"`
	FencedAt   *time.Time  `json:"fenced_at"`
	DrainedAt  *time.Time  `json:"drained_at"`
	FinishedAt *time.Time  `json:"finished_at"`          // nil for a dry run
	PauseMS    int64       `json:"pause_ms"`             // from the first refused write until the target may be written to
	HeldMS     *int64      `json:"held_ms,omitempty"`    // for how long clients were held; nil: they were not, or are
	StillHeld  string      `json:"still_held,omitempty"` // why clients may still be held
	LagMS      int64       `json:"lag_ms"`               // how long the canary took before the fence
	Tables     int         `json:"tables"`
	Sequences  int         `json:"sequences"`
	Already    bool        `json:"already,omitempty"`   // it was done before it was asked for
	ExpectMS   *int64      `json:"expect_ms,omitempty"` // by a rehearsal: its own pause, and what it left out, by measurement
	LeftOut    []LeftOut   `json:"left_out,omitempty"`
	Touched    bool        `json:"-"`                  // something was done that has to be undone
	Sealed     bool        `json:"-"`                  // there is no way back: the fence has no deadline any more
	Recopied   []string    `json:"recopied,omitempty"` // --insert-only tables that had been updated after all, and were copied again before the fence
	Late       error       `json:"-"`                  // why foreign keys could not be validated
	// Unvalidated are the statements that are still to be run for foreign keys that were created
	// without a look at the rows.
	Unvalidated []string `json:"foreign_keys_to_validate,omitempty"`
	Disabled    []string `json:"disabled,omitempty"` // SQL that enables on the target what the opening could not; empty: nothing is left

	WayBack *Armed `json:"way_back,omitempty"` // nil: none was wanted

	// Steps are what is known of the steps that were begun, for the asker. The record has them in
	// Live.
	Steps []state.Taken `json:"steps,omitempty"`

	*Comparison // both sides as of the cutover; nil: not asked for
}

// LeftOut is a part of a cutover's pause that its rehearsal leaves out, and how long it took when
// it was done in another way, outside of the fence.
type LeftOut struct {
	What string `json:"what"`
	MS   int64  `json:"ms"`
}

// Expectation is what a rehearsal says of the pause.
func (r *Result) Expectation() string {
	if r.ExpectMS == nil {
		return ""
	}
	var parts []string
	for _, p := range r.LeftOut {
		parts = append(parts, fmt.Sprintf("%s %d ms", p.What, p.MS))
	}
	return fmt.Sprintf("expect writes to be refused for about %d ms: that, and what was left out: %s", *r.ExpectMS, strings.Join(parts, ", "))
}

// Comparison is the outcome of comparing both sides as of the cutover. Migrate, cutover and status
// report it in the same words.
type Comparison struct {
	Sides       sides.Sides `json:"compared_direction,omitempty"` // of the switch
	Equal       *bool       `json:"equal"`                        // as in verify.Report; nil: unknown
	Compared    int         `json:"compared"`
	NotCompared int         `json:"not_compared"`
	Rows        int64       `json:"compared_rows"`
	Error       string      `json:"comparison_error,omitempty"` // why it did not complete
}

// unfinished is the error of a comparison until it has completed.
const unfinished = "migrate ended before the comparison did"

func comparison(of sides.Sides, r verify.Report) *Comparison {
	return &Comparison{Sides: of, Equal: r.Equal, Compared: r.Compared, NotCompared: r.NotCompared, Rows: r.Rows}
}

// Words say what is known, and no more than that. number writes a number for people.
func (c *Comparison) Words(number func(int64) string) string {
	tables := func(n int) string {
		if n == 1 {
			return "1 table"
		}
		return number(int64(n)) + " tables"
	}
	switch {
	case c.Error != "":
		return c.Sides.Both() + " were NOT compared as of the " + c.Sides.Switch() + ": " + c.Error
	case c.Equal != nil && !*c.Equal:
		return c.Sides.Both() + " DIFFERED at that moment: `walferry verify` names the rows"
	case c.Equal != nil:
		return fmt.Sprintf("both sides were equal at that moment: %s, %s rows", tables(c.Compared), number(c.Rows))
	case c.NotCompared == 0:
		return "there was no table to compare"
	case c.Compared == 0:
		return fmt.Sprintf("NOTHING was compared: no table of %d could be read as it was (`walferry verify` says why)", c.NotCompared)
	}
	return fmt.Sprintf("NOT all was compared: %s, %s rows, were equal at that moment; of %s nothing is known (`walferry verify` names them)",
		tables(c.Compared), number(c.Rows), tables(c.NotCompared))
}

// verdict is the error that a comparison amounts to, if any. That some tables could not be compared
// is not an error of a cutover: they were truncated or rewritten by an application that was let in.
func (c *Comparison) verdict() error {
	switch {
	case c == nil:
		return nil
	case c.Error != "":
		return c.unproved(c.Error)
	case c.Equal != nil && !*c.Equal:
		return &fail.Error{
			Kind:    fail.Difference,
			Problem: fmt.Sprintf("the %s is done, but %s differed at that moment", c.Sides.Switch(), c.Sides.Both()),
			Advice:  fmt.Sprintf("`walferry verify` names the rows; the %s still holds every one of its own", c.Sides.From()),
		}
	case c.Compared == 0 && c.NotCompared > 0:
		return c.unproved("no table could be read as it was")
	}
	return nil
}

// Verdict is the error that what is known of a cutover amounts to, if any: the worst of it, and
// that foreign keys are still to be validated.
func (r *Result) Verdict() error {
	err := r.Comparison.verdict()
	if err == nil && len(r.Disabled) > 0 {
		err = &fail.Error{
			Kind:    fail.Run,
			Problem: fmt.Sprintf("the %s is done, but %d triggers and rules of the %s are still disabled", r.Sides.Switch(), len(r.Disabled), r.Sides.To()),
			Advice:  "run on the " + r.Sides.To() + ": " + strings.Join(r.Disabled, "; ") + "; or run `walferry migrate` again, which tries it",
		}
	}
	if err == nil && r.StillHeld != "" {
		err = &fail.Error{Kind: fail.Run, Problem: "the " + r.Sides.Switch() + " is done, but clients may still be held: " + r.StillHeld, Advice: "let them continue by the commands that were printed; `walferry migrate`, run again, tries it, too"}
	}
	late := r.Late
	if late == nil && len(r.Unvalidated) > 0 {
		late = &fail.Error{
			Kind:    fail.Run,
			Problem: fmt.Sprintf("the %s is done, but foreign keys are not validated yet: %d statements are left", r.Sides.Switch(), len(r.Unvalidated)),
			Advice:  fmt.Sprintf("they hold for what is written from now on; `walferry migrate` continues, or run on the %s: %s", r.Sides.To(), strings.Join(r.Unvalidated, "; ")),
		}
	}
	return errors.Join(err, late)
}

// unproved is the error of a comparison as of the cutover that was asked for and could not be made.
func (c *Comparison) unproved(reason string) error {
	return &fail.Error{
		Kind:    fail.Run,
		Problem: fmt.Sprintf("the %s is done, but %s were not compared: %s", c.Sides.Switch(), c.Sides.Both(), reason),
		Advice:  fmt.Sprintf("the %s still holds every one of its rows; `walferry verify` compares both sides as they are now", c.Sides.From()),
	}
}
