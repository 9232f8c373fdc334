package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/urfave/cli/v2"

	"github.com/walferry/walferry/internal/fail"
	"github.com/walferry/walferry/internal/migration"
)

func cutoverFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "timeout", Usage: "how long it may take; after that writers are let in again where they were", DefaultText: "1m"},
		&cli.StringSliceFlag{Name: "without", Usage: "go without an object that the target refuses or lacks, such as view:public.mon; repeatable"},
		&cli.StringFlag{Name: "max-lag", Usage: "do not begin if the target is further behind", DefaultText: "5s"},
	}
}

// groupFlags are those of a switch of some tables.
func groupFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringSliceFlag{Name: "tables", Usage: "hand over only tables that match schema.table, which have to belong together; repeatable"},
		&cli.StringSliceFlag{Name: "loose", Usage: "with --tables: cut what joins a table (or a sequence of no table) to others; what writes to both sides is refused then; repeatable"},
	}
}

// rehearsalFlags are those of a switch that is asked for, in either direction.
func rehearsalFlags() []cli.Flag {
	return []cli.Flag{
		&cli.BoolFlag{Name: "dry-run", Usage: "fence, drain, measure and un-fence"},
		&cli.BoolFlag{Name: "allow-differences", Usage: "switch despite differences that the last verify found"},
		&cli.BoolFlag{Name: "no-fence", Usage: "with --dry-run: measure the lag only"},
		jsonFlag(),
	}
}

func cutoverCommand(ui *ui) *cli.Command {
	return &cli.Command{
		Name: "cutover", Usage: "ask the running migrate to fence the source, drain, set sequences and open the target",
		Flags: append(slices.Concat(cutoverFlags(), rehearsalFlags(), groupFlags()),
			&cli.BoolFlag{Name: "wait", Usage: "if the migration is not following yet, wait until it is; Ctrl-C withdraws the request"}),
		Action: configured(ui, func(c *cli.Context, config migration.Config) error {
			config.Cut.Wait = c.Bool("wait")
			return switchOver(ui, c, config, migration.Cutover)
		}),
	}
}

// switchOver asks for a switch, and prints what has become of it.
func switchOver(ui *ui, c *cli.Context, config migration.Config, ask func(context.Context, migration.Config, func(string)) (*migration.CutoverResult, error)) error {
	kind := c.Command.Name
	config.Cut.DryRun, config.Cut.NoFence, config.Cut.AllowDifferences = c.Bool("dry-run"), c.Bool("no-fence"), c.Bool("allow-differences")
	config.Cut.Tables, config.Cut.Loose = c.StringSlice("tables"), c.StringSlice("loose")
	if len(config.Cut.Loose) > 0 && len(config.Cut.Tables) == 0 {
		return &fail.Error{Kind: fail.Usage, Problem: "--loose goes with --tables", Advice: "without --tables everything is switched, and nothing is cut"}
	}
	if config.Cut.NoFence && !config.Cut.DryRun {
		return &fail.Error{Kind: fail.Usage, Problem: "--no-fence goes with --dry-run", Advice: "a switch without a fence would lose what is written meanwhile"}
	}
	done := watchSwitch(c.Context, ui, config)
	result, err := ask(c.Context, config, func(text string) { ui.step(kind, text) })
	done()
	if result == nil || err != nil && result.FinishedAt == nil {
		return err
	}
	// The switch is done even if err says that the comparison failed or found differences.
	var told error
	if c.Bool("json") {
		result.Steps = nil // they are for programs that read the record
		told = ui.result(result)
	} else {
		text := switchText(result, kind == "fallback")
		if len(config.Cut.Tables) > 0 && !result.DryRun {
			text += "the other server refuses writes to these tables, and gets what is written; `walferry status` shows who owns what\n"
		}
		_, told = fmt.Fprint(ui.stdout, clean(ui.named(text)+stepsText(result.Steps)))
	}
	if err != nil {
		return err
	}
	return writeErr(told)
}

// step prints what was asked for is doing.
func (u *ui) step(kind, text string) {
	if text = kind + ": " + text; u.json {
		u.logger.Info(text)
	} else {
		u.line(text)
	}
}

// switchText is what a switch has measured, and what is so after it; back: it was a fallback.
func switchText(r *migration.CutoverResult, back bool) string {
	from, to, done, noun := "old", "new", "cut over", "cutover"
	if back {
		from, to, done, noun = "new", "old", "fell back", "fallback"
	}
	switch {
	case r.FencedAt == nil:
		return fmt.Sprintf("rehearsed without a fence: the %s server is %d ms behind\n", to, r.LagMS)
	case r.DryRun:
		return fmt.Sprintf("rehearsed: %d tables were fenced, drained and un-fenced again; writes were refused for %d ms\n%s\n", r.Tables, r.PauseMS, cmp.Or(r.Expectation(), "the real pause is longer: what was left out could not be measured")) +
			rehearsedWayBack(r, back)
	}
	if r.Already {
		done = "the " + noun + " is done already"
		if r.FinishedAt != nil {
			done += ", since " + r.FinishedAt.UTC().Format("2006-01-02 15:04:05 MST")
		}
	}
	text := fmt.Sprintf("%s: writes were refused for %d ms; %d tables, %d sequences\n", done, r.PauseMS, r.Tables, r.Sequences)
	for _, t := range r.Recopied {
		text += fmt.Sprintf("copied again before the fence, because it was updated despite --insert-only: %s\n", t)
	}
	if r.Comparison != nil {
		text += r.Words(countText) + "\n"
	}
	switch w := r.WayBack; {
	case w == nil:
	case w.GivenUp:
		text += "its way back was given up since: the new server is the database, and the old one does not follow\n"
	case w.From != nil:
		text += fmt.Sprintf("the %s server is the database now; what is written there comes to the %s one, which refuses everybody else's writes\n", to, from)
		if back {
			return text + "`walferry cutover` switches to the new server again; `walferry abort` gives the migration up\n"
		}
		return text + "a way back is armed: `walferry fallback` switches back to the old server; `walferry finish` gives the way back up\n"
	case w.None != "":
		text += "NO WAY BACK: what is written on the new server does not come to the old one: " + w.None + "\n"
	}
	return text
}

// rehearsedWayBack says whether the switch that was rehearsed would have a way back.
func rehearsedWayBack(r *migration.CutoverResult, back bool) string {
	switch w := r.WayBack; {
	case w == nil, back:
		return ""
	case w.None != "":
		return "NO WAY BACK could be armed, and so a cutover would go on without one: " + w.None + "\n"
	default:
		return fmt.Sprintf("a way back can be armed: that took %d ms, before the fence\n", w.ArmedMS)
	}
}
