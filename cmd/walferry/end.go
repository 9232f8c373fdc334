package main

import (
	"fmt"
	"io"

	"github.com/urfave/cli/v2"

	"github.com/walferry/walferry/internal/migration"
)

func abortCommand(ui *ui) *cli.Command {
	return &cli.Command{
		Name: "abort", Usage: "give the migration up: un-fence, drop slot and publication; the target's data is unfit for use then",
		Action: configured(ui, func(c *cli.Context, config migration.Config) error {
			if err := migration.Abort(c.Context, config); err != nil {
				return err
			}
			_, err := fmt.Fprintln(ui.stdout, "aborted: the source has nothing of this migration any more; the target keeps its data, marked unfit")
			return writeErr(err)
		}),
	}
}

func cleanupCommand(ui *ui) *cli.Command {
	return &cli.Command{
		Name: "cleanup", Usage: "after the end: remove everything of walferry's from both servers, and check that nothing is left",
		Flags: []cli.Flag{jsonFlag()},
		Action: configured(ui, func(c *cli.Context, config migration.Config) error {
			before, err := migration.ReadStatus(c.Context, config)
			if err != nil {
				return err
			}
			if ended := before.Phase == migration.Finished || before.Phase == migration.Aborted; ended && !c.Bool("json") {
				r, err := readReport(c.Context, config, before)
				if err == nil {
					err = ui.report(r, false)
				}
				if err != nil {
					return err
				}
				fmt.Fprintln(ui.stdout)
			}
			left, err := migration.Cleanup(c.Context, config)
			if err != nil {
				return err
			}
			if c.Bool("json") {
				if left == nil {
					left = []migration.Left{}
				}
				if err := ui.result(left); err != nil {
					return err
				}
			} else {
				if err := ui.left(left); err != nil {
					return err
				}
			}
			if before.Cutover.FinishedAt != nil {
				ui.note("the fence is gone: the old server accepts writes again; shut it down, or see that no client still uses it")
			}
			return migration.NewLeftError(left)
		}),
	}
}

// left prints what cleanup has found.
func (u *ui) left(left []migration.Left) error {
	clean := "clean: a query found nothing of walferry on either server\n"
	for _, l := range left {
		whose := ""
		if l.Migration != "" {
			whose = ", of migration " + l.Migration
			clean = "clean: a query found nothing of this migration on either server\n"
		}
		if _, err := fmt.Fprintf(u.stdout, "left on the %s: %s%s\n", l.On, l.Object, whose); err != nil {
			return writeErr(err)
		}
	}
	if migration.NewLeftError(left) != nil {
		return nil // which follows
	}
	_, err := io.WriteString(u.stdout, clean)
	return writeErr(err)
}
