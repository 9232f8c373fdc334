package config

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/walferry/walferry/internal/fail"
	"github.com/walferry/walferry/internal/state"
)

// Options are what a migration is recorded with.
func (c Migration) Options() state.Options {
	o := state.Options{
		Include: c.Include, Exclude: c.Exclude, InsertOnly: c.InsertOnly, Schema: cmp.Or(c.Schema, "dump"),
		Until: string(c.Until), Cutover: "manual", Verify: c.Prove == On, MaxRetainedWAL: max(0, c.MaxRetainedWAL), OnNewTable: string(c.OnNewTable),
		Timeout: c.Cut.Timeout.Seconds(), MaxLag: c.Cut.MaxLag.Seconds(), Without: c.Cut.Without, FallBack: string(c.FallBack), MaxRetainedWALTarget: max(0, c.MaxRetainedWALTarget),
	}
	if c.Auto == On {
		o.Cutover = "auto"
	}
	return o
}

// Resume takes the options on which the copy depends as the migration was begun with, so that
// nobody has to remember them; if they are given they must be the same.
func (c *Migration) Resume(was state.Options) error {
	for _, o := range []struct {
		option string
		given  *[]string
		was    []string
	}{{"--include", &c.Include, was.Include}, {"--exclude", &c.Exclude, was.Exclude}, {"--insert-only", &c.InsertOnly, was.InsertOnly}} {
		if len(*o.given) > 0 && !slices.Equal(*o.given, o.was) {
			return &fail.Error{
				Kind:    fail.Usage,
				Problem: fmt.Sprintf("migration %q was begun with %s", c.Name, listed(o.option, o.was)),
				Advice:  "leave " + o.option + " out, as it is remembered, or give the same; with others: abort and start over",
			}
		}
		*o.given = o.was
	}
	if c.Schema != "" && c.Schema != was.Schema {
		return &fail.Error{
			Kind:    fail.Usage,
			Problem: fmt.Sprintf("migration %q was begun with --schema %s", c.Name, was.Schema),
			Advice:  "leave --schema out, as it is remembered, or give the same; with another: abort and start over",
		}
	}
	c.Schema = was.Schema
	return nil
}

func listed(option string, values []string) string {
	if len(values) == 0 {
		return "no " + option
	}
	return option + " " + strings.Join(values, " "+option+" ")
}

// Settle sets the options that may change and were not given: to what they were or, for a new
// migration, to their defaults.
func (c *Migration) Settle(was state.Options) {
	c.Until = cmp.Or(c.Until, Until(was.Until), UntilCutover)
	c.OnNewTable = cmp.Or(c.OnNewTable, OnNewTable(was.OnNewTable), StopOnNewTable)
	c.MaxRetainedWAL = cmp.Or(c.MaxRetainedWAL, was.MaxRetainedWAL, NoLimit)
	c.Auto = cmp.Or(c.Auto, switched(was.Cutover == "auto"))
	c.MaxRetainedWALTarget = cmp.Or(c.MaxRetainedWALTarget, was.MaxRetainedWALTarget, NoLimit)
	c.FallBack = cmp.Or(c.FallBack, FallBackMode(was.FallBack), NoFallBack)
	c.Prove = cmp.Or(c.Prove, switched(was.Verify))
	c.Cut.Timeout = cmp.Or(c.Cut.Timeout, seconds(was.Timeout))
	c.Cut.MaxLag = cmp.Or(c.Cut.MaxLag, seconds(was.MaxLag))
	if len(c.Cut.Without) == 0 {
		c.Cut.Without = was.Without
	}
	c.Cut = c.Cut.Fill()
}

func switched(on bool) Switch {
	if on {
		return On
	}
	return Off
}
