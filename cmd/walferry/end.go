package main

import (
	"fmt"

	"github.com/urfave/cli/v2"

	"github.com/walferry/walferry/internal/migration"
)

func abortCommand(ui *ui) *cli.Command {
	return &cli.Command{
		Name: "abort", Usage: "give the migration up: un-fence, drop slot and publication; the target's data are unfit then",
		Action: func(c *cli.Context) error {
			s, err := load(ui, c)
			if err != nil {
				return err
			}
			config, err := s.config(ui)
			if err != nil {
				return err
			}
			if err := migration.Abort(c.Context, config); err != nil {
				return err
			}
			_, err = fmt.Fprintln(ui.stdout, "aborted: the source has nothing of walferry any more; the target keeps its data, marked unfit")
			return writeErr(err)
		},
	}
}

func cleanupCommand(ui *ui) *cli.Command {
	return &cli.Command{
		Name: "cleanup", Usage: "after the end: leave nothing of walferry on either server, and prove it",
		Flags: []cli.Flag{jsonFlag()},
		Action: func(c *cli.Context) error {
			s, err := load(ui, c)
			if err != nil {
				return err
			}
			config, err := s.config(ui)
			if err != nil {
				return err
			}
			before, err := migration.ReadStatus(c.Context, config)
			if err != nil {
				return err
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
				if len(left) == 0 {
					_, err = fmt.Fprintln(ui.stdout, "clean: a query found nothing of walferry on either server")
				}
				for _, l := range left {
					_, err = fmt.Fprintf(ui.stdout, "left on the %s: %s\n", l.On, l.Object)
				}
				if err := writeErr(err); err != nil {
					return err
				}
			}
			if before.Cutover.FinishedAt != nil {
				ui.note("the fence is gone: the old source accepts writes again; shut it down, or see that no client still uses it")
			}
			if len(left) > 0 {
				return &leftError{len(left)}
			}
			return nil
		},
	}
}

// leftError says that cleanup could not remove everything.
type leftError struct{ count int }

func (e *leftError) Error() string { return fmt.Sprintf("%d objects of walferry are left", e.count) }

// Hint is what the operator can do.
func (e *leftError) Hint() string {
	return "they may belong to another migration (--name); otherwise drop them by hand"
}
