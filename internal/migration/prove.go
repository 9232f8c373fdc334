package migration

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/verify"
)

// prover compares both sides as they are inside the fence, after the target has
// opened (decision 007). The application may truncate a table as soon as it is let
// in, and a snapshot does not see through that. So small tables, which are the
// ones that are truncated and filled anew all the time, are locked against it until
// they have been read, before all others.
type prover struct {
	small, rest *verify.Verifier // nil: there are none
	locked      []catalog.Table  // of small
}

// What is small: locking and reading all of these must take a moment only.
const (
	smallBytes  = 1 << 20
	smallTables = 100
)

// connectProver makes the connections, while nothing is fenced yet. It leaves
// r.prover nil when no proof is wanted.
func (r *runner) connectProver(ctx context.Context) error {
	if !r.c.Prove {
		return nil
	}
	tables := slices.SortedStableFunc(slices.Values(r.ordinary()), func(a, b catalog.Table) int { return cmp.Compare(a.Bytes, b.Bytes) })
	n := 0
	for n < len(tables) && n < smallTables && tables[n].Bytes <= smallBytes {
		n++
	}
	p := &prover{locked: tables[:n]}
	r.prover = p
	for _, part := range []struct {
		to     **verify.Verifier
		tables []catalog.Table
		lock   bool
	}{{&p.small, tables[:n], true}, {&p.rest, tables[n:], false}} {
		if len(part.tables) == 0 {
			continue
		}
		v, err := verify.New(verify.Config{
			Source: r.c.Source, Target: r.c.Target, Tables: part.tables, Jobs: min(r.c.Jobs, len(part.tables)), Lock: part.lock, Logger: r.c.Logger,
		})
		if err != nil {
			return err
		}
		*part.to = v
		if err := v.Connect(ctx); err != nil {
			return fmt.Errorf("connect for the comparison: %w", err)
		}
	}
	return nil
}

// open takes the snapshots, inside the fence, where both sides stand still; neither
// sees what is written after the target opens.
func (p *prover) open(ctx context.Context) error {
	if p == nil {
		return nil
	}
	for _, v := range []*verify.Verifier{p.small, p.rest} {
		if v == nil {
			continue
		}
		if err := errors.Join(v.OpenSource(ctx, ""), v.OpenTarget(ctx)); err != nil {
			return fmt.Errorf("open the comparison inside the fence: %w", err)
		}
	}
	return nil
}

func (p *prover) close() {
	if p == nil {
		return
	}
	for _, v := range []*verify.Verifier{p.small, p.rest} {
		if v != nil {
			v.Close()
		}
	}
}

// compare reads the small tables, lets their locks go, and reads the others.
func (p *prover) compare(ctx context.Context) (verify.Report, error) {
	report := verify.Report{Equal: true, Tables: []verify.TableReport{}}
	if p.small != nil {
		brief, cancel := context.WithTimeout(ctx, lockedFor)
		small, err := p.small.Compare(brief)
		cancel()
		p.small.Close()
		if err != nil && (ctx.Err() != nil || brief.Err() == nil) {
			return report, err
		}
		if err != nil {
			for i := range p.locked {
				small.Tables = append(small.Tables, verify.TableReport{
					Schema: p.locked[i].Schema, Name: p.locked[i].Name, Rewritten: true,
					Error: fmt.Sprintf("not read within %s, which is how long it may be locked", lockedFor),
				})
			}
		}
		report.Tables, report.Rows = append(report.Tables, small.Tables...), small.Rows
	}
	if p.rest != nil {
		rest, err := p.rest.Compare(ctx)
		if err != nil {
			return report, err
		}
		report.Tables, report.Rows = append(report.Tables, rest.Tables...), report.Rows+rest.Rows
	}
	slices.SortFunc(report.Tables, func(a, b verify.TableReport) int {
		return cmp.Or(cmp.Compare(a.Schema, b.Schema), cmp.Compare(a.Name, b.Name))
	})
	return report, nil
}

// prove compares and keeps the result for verify.
func (r *runner) prove(ctx context.Context, result *CutoverResult, step func(string)) error {
	defer r.prover.close()
	step("comparing both sides as of the cutover")
	report, err := r.prover.compare(ctx)
	if err != nil {
		return fmt.Errorf("compare both sides as of the cutover: %w", err)
	}
	// A table that the application has truncated or rewritten since the target opened
	// cannot be read as it was any more. That is no difference, and it is told.
	proof := Verified{Report: report, AsOfCutover: true}
	proof.Equal = true
	var uncompared []string
	for _, t := range report.Tables {
		if t.Rewritten {
			uncompared = append(uncompared, catalog.Name(t.Schema, t.Name))
		} else if !t.Equal {
			proof.Equal = false
		}
	}
	if len(uncompared) > 0 {
		proof.Caveat = "not compared, as the application truncated or rewrote them at once: " + list(uncompared)
		step(proof.Caveat)
	}
	text, err := json.Marshal(proof)
	if err != nil {
		return err
	}
	if err := r.store.exec(ctx, `update walferry.migration set proof = $2::text::jsonb where name = $1`, r.c.Name, string(text)); err != nil {
		return fmt.Errorf("keep the comparison: %w", err)
	}
	result.Equal = &proof.Equal
	if !proof.Equal {
		return &DifferenceError{}
	}
	step(fmt.Sprintf("equal: %d tables, %d rows", len(report.Tables)-len(uncompared), report.Rows))
	return nil
}

// DifferenceError says that the comparison as of the cutover found differences.
type DifferenceError struct{}

func (e *DifferenceError) Error() string {
	return "the cutover is done, but source and target differed at that moment"
}

// Hint is what the operator can do.
func (e *DifferenceError) Hint() string {
	return "`walferry verify` names the rows; the source still holds every one of its own"
}
