package migration

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/internal/catalog"
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
		late = &RunError{
			fmt.Sprintf("the cutover is done, but foreign keys are not validated yet: %d statements are left", len(r.Unvalidated)),
			"they hold for what is written from now on; `walferry migrate` goes on with it, or run on the target: " + strings.Join(r.Unvalidated, "; "),
		}
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
func (s *store) outcome(ctx context.Context, onStep func(string)) (*CutoverResult, error) {
	for told := false; ; told = true {
		r, err := s.load(ctx)
		if err != nil {
			return nil, err
		}
		if r == nil || r.Phase != Finished {
			return nil, errors.New("the migration is gone")
		}
		if !r.Alive {
			break
		}
		if !told && onStep != nil {
			onStep("done; waiting for the migrate that has cut over to end")
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(200 * time.Millisecond):
		}
	}
	result, err := s.cutoverResult(ctx)
	if err == nil && result == nil {
		err = &GateError{"the migration is finished", "see `walferry status`"}
	}
	if err == nil {
		err = s.addUnvalidated(ctx, result)
	}
	return result, err
}

// cutoverResult reads what is recorded of a cutover that is done, or nil. A record of an older
// version has it not.
func (s *store) cutoverResult(ctx context.Context) (result *CutoverResult, err error) {
	err = s.Do(ctx, func(conn *pgx.Conn) error {
		if there, err := hasResult(ctx, conn); err != nil || !there {
			return err
		}
		var text []byte
		if err := conn.QueryRow(ctx, `select cutover::text from walferry.migration where name = $1`, s.name).Scan(&text); err != nil || text == nil {
			return err
		}
		return json.Unmarshal(text, &result)
	})
	if err != nil {
		return nil, fmt.Errorf("read what the cutover has measured: %w", err)
	}
	return result, nil
}

// hasResult reports whether the record has a place for a cutover's result: one that an older
// version has made has not, until upgrade.
func hasResult(ctx context.Context, conn *pgx.Conn) (there bool, err error) {
	err = conn.QueryRow(ctx, `select exists(select from pg_attribute where attrelid = 'walferry.migration'::regclass and attname = 'cutover' and not attisdropped)`).Scan(&there)
	return there, err
}

// upgrade gives a record that an older version has made what it lacks.
func (s *store) upgrade(ctx context.Context) error {
	return s.Do(ctx, func(conn *pgx.Conn) error {
		var there bool
		err := conn.QueryRow(ctx, `
select count(*) = 7 from pg_attribute where not attisdropped
   and (attrelid = 'walferry.migration'::regclass and attname in ('cutover', 'comparison', 'sequences', 'refused', 'run')
        or attrelid = 'walferry.request'::regclass and attname in ('taken_at', 'withdrawn_at'))`).Scan(&there)
		if err == nil && !there {
			err = catalog.Own(ctx, conn, upgradeDDL)
		}
		if err != nil {
			return fmt.Errorf("upgrade the record of the migration: %w", err)
		}
		return nil
	})
}

// keepResult records what a cutover that is done has measured, and the comparison when there is one.
func (s *store) keepResult(ctx context.Context, result *CutoverResult, proof *Verified) error {
	text, err := json.Marshal(result)
	if err != nil {
		return err
	}
	if err := s.Exec(ctx, `update walferry.migration set cutover = $2::text::jsonb where name = $1`, s.name, string(text)); err != nil || proof == nil {
		return err
	}
	if text, err = json.Marshal(proof); err != nil {
		return err
	}
	return s.Exec(ctx, `update walferry.migration set proof = $2::text::jsonb where name = $1`, s.name, string(text))
}
