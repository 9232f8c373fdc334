package cutover

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/verify"
	"github.com/walferry/walferry/internal/wait"
)

// prover compares both sides as they are inside the fence, after the target has opened (decision
// 007). The application may truncate a table as soon as it is let in, and a snapshot cannot see
// past that. So small tables, the ones that are truncated and filled again all the time, are locked
// against it until they have been read, before all others.
type prover struct {
	small, rest *verify.Verifier // nil: there are none
	report      verify.Report    // what has been compared so far
	err         error            // why that did not complete
}

// What is small: locking and reading all of these must take no more than a moment.
const (
	smallBytes  = 1 << 20
	smallTables = 100
	lockedFor   = 5 * time.Second // at most: whoever truncates one waits
)

// Proof says what is compared as of the switch, and how.
type Proof struct {
	// Tables returns those that are compared, on From. A table that is gone counts: that is a
	// difference.
	Tables func(context.Context) ([]catalog.Table, error)
}

// newProver opens the connections while nothing is fenced yet; nil: no proof is wanted. What it
// returns beside an error has to be closed as well.
func (s *Switch) newProver(ctx context.Context) (*prover, error) {
	if s.Proof == nil {
		return nil, nil
	}
	tables, err := s.Proof.Tables(ctx)
	if err != nil {
		return nil, err
	}
	tables = slices.DeleteFunc(tables, func(t catalog.Table) bool { return t.Kind == 'p' })
	slices.SortStableFunc(tables, func(a, b catalog.Table) int { return cmp.Compare(a.Bytes, b.Bytes) })
	ruled, err := s.Opening.Ruled(ctx) // which must not be locked
	if err != nil {
		return nil, err
	}
	free := slices.DeleteFunc(slices.Clone(tables), func(t catalog.Table) bool { return ruled[t.String()] })
	tables = append(free, slices.DeleteFunc(tables, func(t catalog.Table) bool { return !ruled[t.String()] })...)
	n := 0
	for n < len(free) && n < smallTables && free[n].Bytes <= smallBytes {
		n++
	}
	p := &prover{report: verify.Report{Tables: []verify.TableReport{}}}
	for _, part := range []struct {
		to      **verify.Verifier
		tables  []catalog.Table
		lockFor time.Duration
	}{{&p.small, tables[:n], lockedFor}, {&p.rest, tables[n:], 0}} {
		if len(part.tables) == 0 {
			continue
		}
		v, err := verify.New(verify.Config{
			SourceIs: s.Sides.From(), TargetIs: s.Sides.To(), Source: s.From.DSN, Target: s.To.DSN, Tables: part.tables, Jobs: min(s.Jobs, len(part.tables)), LockFor: part.lockFor, Logger: s.Logger,
		})
		if err != nil {
			return p, err
		}
		*part.to = v
		if err := v.Connect(ctx); err != nil {
			return p, fmt.Errorf("connect for the comparison: %w", err)
		}
	}
	return p, nil
}

// open takes the snapshots, inside the fence, where both sides stand still; neither sees what is
// written after the target opens.
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

// compareSmall reads the small tables: as early as it can, since whoever truncates one waits.
func (p *prover) compareSmall(ctx context.Context) {
	if p != nil && p.small != nil {
		p.compare(ctx, p.small)
	}
}

// compare adds what a comparison finds, and closes it.
func (p *prover) compare(ctx context.Context, v *verify.Verifier) {
	report, err := v.Compare(ctx)
	v.Close()
	p.report.Tables = append(p.report.Tables, report.Tables...)
	p.err = errors.Join(p.err, err)
}

// compareAll reads the others, and returns what is known of all.
func (p *prover) compareAll(ctx context.Context) (verify.Report, error) {
	if p.rest != nil && p.err == nil {
		p.compare(ctx, p.rest)
	}
	slices.SortFunc(p.report.Tables, func(a, b verify.TableReport) int {
		return cmp.Or(cmp.Compare(a.Schema, b.Schema), cmp.Compare(a.Name, b.Name))
	})
	p.report.Conclude()
	return p.report, p.err
}

// prove compares and keeps the result, for verify and for whoever asks for a cutover again.
func (s *Switch) prove(ctx context.Context) error {
	if s.prover == nil {
		return nil
	}
	s.say("comparing both sides as of the " + s.Sides.Switch())
	report, err := s.prover.compareAll(ctx)
	s.prover.close()
	proof := &verify.Verified{Report: report, AsOfCutover: true}
	// A table that the application has truncated or rewritten since the target opened can no longer
	// be read as it was. That is not a difference, and it is reported.
	var rewritten, failed []string
	for i := range report.Tables {
		t := &report.Tables[i]
		switch name := (catalog.Name{Schema: t.Schema, Name: t.Name}).String(); {
		case t.Rewritten:
			rewritten = append(rewritten, name)
		case t.Error != "":
			failed = append(failed, name+" ("+t.Error+")")
		}
	}
	if len(rewritten) > 0 {
		proof.Caveat = "not compared, as the application truncated or rewrote them at once: " + catalog.List(rewritten)
		s.say(proof.Caveat)
	}
	if len(failed) > 0 {
		s.say("not compared: " + catalog.List(failed))
	}
	s.result.Comparison = comparison(s.Sides, report)
	if err != nil {
		s.result.Comparison.Equal, s.result.Comparison.Error, proof = nil, s.Sides.Reword(err.Error()), nil
	}
	s.say(s.result.Words(func(n int64) string { return fmt.Sprint(n) }))
	kept := wait.Within(ctx, time.Minute, func(ctx context.Context) error { return s.keep(ctx, proof) })
	if kept != nil {
		s.Logger.Error("keep the comparison", "error", kept)
	}
	return errors.Join(err, kept)
}
