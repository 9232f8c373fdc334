package migration

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/walferry/walferry/internal/session"
	"github.com/walferry/walferry/internal/state"
	"github.com/walferry/walferry/internal/verify"
)

// Comparison is what both sides compared as of the cutover came to. Migrate, cutover and
// status say it in the same words.
type Comparison struct {
	Equal       *bool  `json:"equal"` // as in verify.Report; nil: unknown
	Compared    int    `json:"compared"`
	NotCompared int    `json:"not_compared"`
	Rows        int64  `json:"compared_rows"`
	Error       string `json:"comparison_error,omitempty"` // why it came to no end
}

// unfinished is the error of a comparison until it has come to its end.
const unfinished = "migrate ended before the comparison did"

func comparison(r verify.Report) *Comparison {
	return &Comparison{Equal: r.Equal, Compared: r.Compared, NotCompared: r.NotCompared, Rows: r.Rows}
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
		return "source and target were NOT compared as of the cutover: " + c.Error
	case c.Equal != nil && !*c.Equal:
		return "source and target DIFFERED at that moment: `walferry verify` names the rows"
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

// verdict is the error that a comparison means, if any. That some tables could not be compared
// is none, of a cutover: they were truncated or rewritten by an application that was let in.
func (c *Comparison) verdict() error {
	switch {
	case c == nil:
		return nil
	case c.Error != "":
		return &UnprovedError{c.Error}
	case c.Equal != nil && !*c.Equal:
		return &DifferenceError{}
	case c.Compared == 0 && c.NotCompared > 0:
		return &UnprovedError{"no table could be read as it was"}
	}
	return nil
}

// verdict is the error that what is known of a cutover means, if any: the worst of it, and that
// foreign keys are still to be validated.
func (r *CutoverResult) verdict() error {
	err := r.Comparison.verdict()
	if err == nil && len(r.Disabled) > 0 {
		err = &DisabledError{r.Disabled}
	}
	late := r.late
	if late == nil && len(r.Unvalidated) > 0 {
		late = &RunError{Problem: fmt.Sprintf("the cutover is done, but foreign keys are not validated yet: %d statements are left", len(r.Unvalidated)), Advice: "they hold for what is written from now on; `walferry migrate` goes on with it, or run on the target: " + strings.Join(r.Unvalidated, "; ")}
	}
	return errors.Join(err, late)
}

// UnprovedError says that the comparison as of the cutover, which was asked for, could not be made.
type UnprovedError struct{ Reason string }

func (e *UnprovedError) Error() string {
	return "the cutover is done, but source and target were not compared: " + e.Reason
}

// Hint is what the operator can do.
func (e *UnprovedError) Hint() string {
	return "the source still holds every one of its rows; `walferry verify` compares both sides as they are now"
}

// outcome is what a cutover that is done has measured, for whoever asks once it is. While the
// migrate that has cut over still compares, it is waited for.
func outcome(ctx context.Context, target *session.Link, s *state.Store, onStep func(string)) (*CutoverResult, error) {
	result := &CutoverResult{}
	if err := s.Outcome(ctx, onStep, result); err != nil {
		return nil, err
	}
	return result, addUnvalidated(ctx, target, s, result)
}

// cutoverResult reads what is recorded of a cutover that is done, or nil. A record of an older
// version has it not.
func cutoverResult(ctx context.Context, s *state.Store) (result *CutoverResult, err error) {
	_, err = s.Get(ctx, state.Result, &result)
	return result, err
}

// keepResult records what a cutover that is done has measured, and the comparison when there is one.
func (r *runner) keepResult(ctx context.Context, result *CutoverResult, proof *Verified) error {
	if err := r.store.Put(ctx, state.Result, result); err != nil || proof == nil {
		return err
	}
	return r.store.Put(ctx, state.Proof, proof)
}
