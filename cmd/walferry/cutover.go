package main

import (
	"cmp"
	"fmt"

	"github.com/urfave/cli/v2"

	"github.com/walferry/walferry/internal/fail"
	"github.com/walferry/walferry/internal/migration"
)

func cutoverFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "timeout", Usage: "how long the cutover may take; after that the source is un-fenced", DefaultText: "1m"},
		&cli.StringSliceFlag{Name: "without", Usage: "go without an object that the target refuses or lacks, such as view:public.mon; repeatable"},
		&cli.StringFlag{Name: "max-lag", Usage: "do not begin if the target is further behind", DefaultText: "5s"},
	}
}

func cutoverCommand(ui *ui) *cli.Command {
	return &cli.Command{
		Name: "cutover", Usage: "ask the running migrate to fence the source, drain, set sequences and open the target",
		Flags: append(cutoverFlags(),
			&cli.BoolFlag{Name: "dry-run", Usage: "fence, drain, measure and un-fence"},
			&cli.BoolFlag{Name: "wait", Usage: "if the migration is not following yet, wait until it is; Ctrl-C withdraws the request"},
			&cli.BoolFlag{Name: "allow-differences", Usage: "cut over despite differences that the last verify found"},
			&cli.BoolFlag{Name: "no-fence", Usage: "with --dry-run: measure the lag only"},
			jsonFlag()),
		Action: configured(ui, func(c *cli.Context, config migration.Config) error {
			config.Cut.DryRun, config.Cut.NoFence = c.Bool("dry-run"), c.Bool("no-fence")
			config.Cut.Wait, config.Cut.AllowDifferences = c.Bool("wait"), c.Bool("allow-differences")
			if config.Cut.NoFence && !config.Cut.DryRun {
				return &fail.Error{Kind: fail.Usage, Problem: "--no-fence goes with --dry-run", Advice: "a cutover without a fence would lose what is written meanwhile"}
			}
			result, err := migration.Cutover(c.Context, config, ui.step)
			if result == nil || err != nil && result.FinishedAt == nil {
				return err
			}
			// The cutover is done even if err says that the comparison failed or found differences.
			var told error
			if c.Bool("json") {
				result.Steps = nil // they are for programs that read the record
				told = ui.result(result)
			} else {
				_, told = fmt.Fprint(ui.stdout, clean(ui.named(cutoverText(result))))
			}
			if err != nil {
				return err
			}
			return writeErr(told)
		}),
	}
}

// step prints what the requested cutover is doing.
func (u *ui) step(text string) {
	if u.json {
		u.logger.Info("cutover: " + text)
	} else {
		u.line("cutover: " + text)
	}
}

func cutoverText(r *migration.CutoverResult) string {
	switch {
	case r.FencedAt == nil:
		return fmt.Sprintf("rehearsed without a fence: the target is %d ms behind\n", r.LagMS)
	case r.DryRun:
		return fmt.Sprintf("rehearsed: %d tables were fenced, drained and un-fenced again; writes were refused for %d ms\n%s\n", r.Tables, r.PauseMS, cmp.Or(r.Expectation(), "the real pause is longer: what was left out could not be measured"))
	}
	done := "cut over"
	if r.Already {
		done = "the cutover is done already"
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
	return text
}
