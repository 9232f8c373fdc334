package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/walferry/walferry/internal/check"
	"github.com/walferry/walferry/internal/migration"
	"github.com/walferry/walferry/internal/plan"
)

// checked is what check prints.
type checked struct {
	check.Report

	Plan *plan.Plan `json:"plan"` // how long it will take, how much WAL and disk; null: --plan was not given, or something blocks
}

// planFor makes a plan of a migration that nothing blocks; nil: something does.
func planFor(ctx context.Context, c migration.Config, r check.Report) (*plan.Plan, error) {
	if r.Blocks() {
		return nil, nil
	}
	return plan.Make(ctx, plan.Config{Source: c.Source, Target: c.Target, Include: c.Include, Exclude: c.Exclude, Jobs: c.Jobs, IndexJobs: c.IndexJobs})
}

// planText is a plan for people.
func planText(p *plan.Plan) string {
	var b strings.Builder
	seconds := func(r *plan.Range) string { return secondsText(r.Low) + " to " + secondsText(r.High) }
	bytes := func(r *plan.Range) string { return bytesText(int64(r.Low)) + " to " + bytesText(int64(r.High)) }
	fmt.Fprintf(&b, "\nplan: %d tables of %s, indexes of %s\n", p.Tables, bytesText(p.TableBytes), bytesText(p.IndexBytes))
	if p.Total != nil {
		fmt.Fprintf(&b, "  until it follows  %s\n", seconds(p.Total))
		fmt.Fprintf(&b, "    rows            %s\n", seconds(p.Copy))
		fmt.Fprintf(&b, "    indexes         %s\n", seconds(p.Indexes))
		fmt.Fprintf(&b, "  WAL held back     %s (the source writes %s/s)\n", bytes(p.Retained), bytesText(int64(p.WALPerSecond)))
		fmt.Fprintf(&b, "  disk of target    %s\n", bytes(p.Disk))
	}
	for _, s := range p.Samples {
		if s.Skipped != "" {
			fmt.Fprintf(&b, "  not sampled: %s.%s: %s\n", s.Schema, s.Name, indent(s.Skipped))
		}
	}
	for _, text := range p.RestsOn {
		b.WriteString("  rests on  " + text + "\n")
	}
	for _, text := range p.Unknown {
		b.WriteString("  unknown   " + text + "\n")
	}
	return b.String()
}
