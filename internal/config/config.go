// Package config is what a migration is asked for: checked, with its defaults, remembered in its record, and held against that when it
// is resumed.
package config

import (
	"fmt"
	"log/slog"
	"regexp"
	"strings"
	"time"

	"github.com/walferry/walferry/internal/check"
	"github.com/walferry/walferry/internal/clients"
	"github.com/walferry/walferry/internal/fail"
	"github.com/walferry/walferry/internal/flow"
	"github.com/walferry/walferry/internal/identity"
	"github.com/walferry/walferry/internal/state"
)

// Until says where Migrate ends.
type Until string

// The places to stop.
const (
	UntilCutover  Until = "cutover"   // the zero value's meaning: when the cutover is done
	UntilCopied   Until = "copied"    // a plain one-time copy; slot and publication are dropped after it
	UntilCaughtUp Until = "caught-up" // when the target has caught up; the slot stays, the same command resumes
)

// NoLimit is a MaxRetainedWAL that only warns.
const NoLimit = -1

// Switch is an option that is on, off, or not given.
type Switch string

// What a Switch may be; the zero value was not given.
const (
	On  Switch = "on"
	Off Switch = "off"
)

// FallBackMode says whether a cutover keeps a way back: a flow from the new server to the old one.
type FallBackMode string

// The answers.
const (
	NoFallBack      FallBackMode = "off"     // the zero value's meaning: there is no way back
	FallBackAuto    FallBackMode = "auto"    // there is one where it can be had; otherwise that is said
	FallBackRequire FallBackMode = "require" // a switch without one is refused
)

// OnNewTable says what to do about a table that the source gets after the migration has begun: it
// is in no publication, so that it is not followed.
type OnNewTable string

// The answers.
const (
	StopOnNewTable  OnNewTable = "stop"   // the zero value's meaning: migrate ends, and the cutover refuses
	IgnoreNewTables OnNewTable = "ignore" // they stay behind; status names them
)

// Migration describes a migration.
type Migration struct {
	Source, Target string // connection strings, see session.Parse
	// Name tells several migrations apart. Empty: "default".
	Name string

	Include, Exclude []string // patterns of tables; empty Include: all
	InsertOnly       []string // patterns of tables that the user says are only ever inserted into
	// Schema is "dump" (read by pg_dump, created by walferry; the zero value) or "none" (the target has
	// it already).
	Schema string
	// Jobs is how many tables or pieces are copied at a time. Zero: 4.
	Jobs int
	// PieceBytes is the size, on the source, above which a table is copied in pieces. Zero:
	// what lets all jobs end together.
	PieceBytes int64
	// IndexJobs is how many indexes are built at a time, also while others are being
	// copied. Zero: as many as Jobs.
	IndexJobs int

	// What follows is remembered: if it is not given to a run that resumes, the run takes what the
	// migration has had so far, and what is said here of the zero value holds for a new one.

	// MaxRetainedWAL is how many bytes of WAL the slot may hold back on the source; with more the
	// migration is given up: slot and publication are dropped. Zero: NoLimit.
	MaxRetainedWAL int64
	// OnNewTable is what becomes of tables that the source gets later. Empty: StopOnNewTable.
	OnNewTable OnNewTable
	// Until is where Migrate ends. Empty: UntilCutover. UntilCaughtUp is remembered until it is
	// reached.
	Until Until
	// Auto makes Migrate cut over on its own once it has caught up.
	Auto Switch
	// Cut is used by Auto: its Timeout, MaxLag and Without.
	Cut Cutover
	// Prove makes the cutover compare both sides as they were when the target
	// opened. It costs the pause the opening of some connections; the comparison
	// itself runs when the target is in use.
	Prove Switch

	// MaxRetainedWALTarget is how many bytes of WAL the slot of the way back may hold back on the new server; with more the way
	// back is given up. Zero: NoLimit.
	MaxRetainedWALTarget int64
	// FallBack is whether a cutover keeps a way back. Empty: NoFallBack.
	FallBack FallBackMode

	// Clients says who is steered at a switch: held, led to the other server, let go; and the hooks.
	Clients clients.Config

	// Heartbeat is the interval between beats. Zero: 5 s.
	Heartbeat time.Duration

	ToolVersion string
	Logger      *slog.Logger // nil: silent
}

// Cutover bounds a cutover.
type Cutover struct {
	// Timeout is how long it may take until the source is fenced and sealed. When it ends first,
	// the source is un-fenced. Zero: 60 s.
	Timeout time.Duration
	// MaxLag is the lag above which it does not begin. Zero: 5 s.
	MaxLag time.Duration
	// DryRun fences, drains, measures and un-fences.
	DryRun bool
	// NoFence makes a dry run measure only the lag.
	NoFence bool
	// Without are objects of the source that the target lacks and need not have: kind and name,
	// as in view:public.mon.
	Without []string
	// AllowDifferences lets a cutover ignore the differences that the last comparison has found.
	AllowDifferences bool
	// Tables are patterns of tables that are handed over, or switched back, alone. Empty: everything is switched.
	Tables []string
	// Loose are patterns of tables whose joints with others may be cut by that: what writes to both sides is refused then.
	Loose []string
	// Wait makes Cutover wait for a migrate that does not follow yet. Timeout begins after it.
	Wait bool
}

var nameRule = regexp.MustCompile(`^[a-z0-9_]{1,40}$`)

// Fill checks c and sets its defaults.
func (c Migration) Fill() (Migration, error) {
	if c.Source == "" || c.Target == "" {
		missing := "the source"
		if c.Source != "" {
			missing = "the target"
		} else if c.Target == "" {
			missing = "the source and the target"
		}
		return c, &fail.Error{Kind: fail.Usage, Problem: "no connection string for " + missing, Advice: "give --source and --target, or WALFERRY_SOURCE and WALFERRY_TARGET, or --config"}
	}
	if c.Name == "" {
		c.Name = "default"
	}
	if !nameRule.MatchString(c.Name) {
		return c, &fail.Error{Kind: fail.Usage, Problem: fmt.Sprintf("%q cannot be a migration's name", c.Name), Advice: "use 1 to 40 of a-z, 0-9 and _: slot and publication are named after it"}
	}
	if suffix := flow.Taken(c.Name); suffix != "" {
		return c, &fail.Error{Kind: fail.Usage, Problem: fmt.Sprintf("%q cannot be a migration's name: %q would have objects of the same names", c.Name, strings.TrimSuffix(c.Name, suffix)), Advice: "take a name that does not end in " + suffix}
	}
	if c.Schema != "" && c.Schema != "dump" && c.Schema != "none" {
		return c, &fail.Error{Kind: fail.Usage, Problem: fmt.Sprintf("--schema %q is neither dump nor none", c.Schema), Advice: "dump lets pg_dump carry the schema; none says that the target has it already"}
	}
	if c.Until != "" && c.Until != UntilCutover && c.Until != UntilCopied && c.Until != UntilCaughtUp {
		return c, &fail.Error{Kind: fail.Usage, Problem: fmt.Sprintf("--until %q is none of copied, caught-up, cutover", c.Until), Advice: "see `walferry migrate --help`"}
	}
	if c.OnNewTable != "" && c.OnNewTable != StopOnNewTable && c.OnNewTable != IgnoreNewTables {
		return c, &fail.Error{Kind: fail.Usage, Problem: fmt.Sprintf("--on-new-table %q is neither ignore nor stop", c.OnNewTable), Advice: "it says what becomes of tables that are created on the source while the migration runs"}
	}
	if c.FallBack != "" && c.FallBack != NoFallBack && c.FallBack != FallBackAuto && c.FallBack != FallBackRequire {
		return c, &fail.Error{Kind: fail.Usage, Problem: fmt.Sprintf("--fall-back %q is none of auto, require, off", c.FallBack), Advice: "auto keeps a way back where it can be had, require refuses a cutover without one"}
	}
	if c.Until == UntilCopied && c.FallBack != "" && c.FallBack != NoFallBack {
		return c, &fail.Error{Kind: fail.Usage, Problem: "--until copied and --fall-back exclude each other", Advice: "a plain copy has no cutover, and so no way back: leave one of them out"}
	}
	if c.PieceBytes < 0 || c.MaxRetainedWAL < NoLimit || c.MaxRetainedWALTarget < NoLimit {
		return c, &fail.Error{Kind: fail.Usage, Problem: "a size must not be negative", Advice: "give --piece-size, --max-retained-wal and --max-retained-wal-target as 512MB or 100GB"}
	}
	if err := c.Clients.Validate(); err != nil {
		return c, err
	}
	if c.Jobs == 0 {
		c.Jobs = 4
	}
	if c.Jobs < 1 || c.Jobs > 256 {
		return c, &fail.Error{Kind: fail.Usage, Problem: fmt.Sprintf("--jobs %d is not between 1 and 256", c.Jobs), Advice: "it is how many tables are copied at a time; each takes a connection on both sides"}
	}
	if c.IndexJobs == 0 {
		c.IndexJobs = c.Jobs
	}
	if c.IndexJobs < 1 || c.IndexJobs > 256 {
		return c, &fail.Error{Kind: fail.Usage, Problem: fmt.Sprintf("--index-jobs %d is not between 1 and 256", c.IndexJobs), Advice: "it is how many indexes are built at a time; each takes a connection to the target"}
	}
	if c.Heartbeat == 0 {
		c.Heartbeat = 5 * time.Second
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c, nil
}

// Valid returns an error if c cannot be used.
func (c Migration) Valid() error {
	_, err := c.Fill()
	return err
}

// Selection returns which tables are migrated.
func (c Migration) Selection() identity.Selection {
	return identity.Selection{Include: c.Include, Exclude: c.Exclude, Brought: c.Schema == "none", Lenient: c.OnNewTable == IgnoreNewTables}
}

// Fill returns o with its defaults.
func (o Cutover) Fill() Cutover {
	if o.Timeout == 0 {
		o.Timeout = time.Minute
	}
	if o.MaxLag == 0 {
		o.MaxLag = 5 * time.Second
	}
	return o
}

// Turned returns what holds for the flow in the other direction.
func (c Migration) Turned() Migration {
	c.Source, c.Target = c.Target, c.Source
	c.Schema = "none"               // both sides have their definitions
	c.Include, c.Exclude = nil, nil // the tables are known; what the one server has beside them, the other may not have
	return c
}

// Preflight returns what the preflight is told of a migration with a record, or of one that has none yet.
func (c Migration) Preflight(rec *state.Record) check.Config {
	config := check.Config{
		SourceDSN: c.Source, TargetDSN: c.Target, Name: c.Name, Include: c.Include, Exclude: c.Exclude,
		InsertOnly: c.InsertOnly, Schema: c.Schema, Jobs: c.Jobs, IndexJobs: c.IndexJobs, Resuming: rec != nil,
		FallBack: string(c.FallBack), MaxRetainedWALTarget: c.MaxRetainedWALTarget,
	}
	if rec != nil && rec.Phase == state.Switched {
		config.FallBack = check.FallBackKept
	}
	return config
}

// Args returns o as another process asks for it; see Asked.
func (o Cutover) Args() state.Args {
	return state.Args{
		Timeout: o.Timeout.Seconds(), MaxLag: o.MaxLag.Seconds(), DryRun: o.DryRun, NoFence: o.NoFence, Without: o.Without,
		AllowDifferences: o.AllowDifferences, Tables: o.Tables, Loose: o.Loose,
	}
}

// Asked returns the options that another process has asked for with args.
func Asked(args state.Args) Cutover {
	return Cutover{
		Timeout: seconds(args.Timeout), MaxLag: seconds(args.MaxLag), DryRun: args.DryRun, NoFence: args.NoFence, Without: args.Without,
		AllowDifferences: args.AllowDifferences, Tables: args.Tables, Loose: args.Loose,
	}.Fill()
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }
