package main

import (
	"fmt"
	"slices"

	"github.com/urfave/cli/v2"

	"github.com/walferry/walferry/internal/migration"
)

// wayBackFlags say whether a cutover keeps a way back, and at what price.
func wayBackFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "fall-back", Usage: "auto, require or off: whether the cutover keeps a way back, by which the old server follows the new one until 'walferry finish'. auto: if it can be had, otherwise that is said; require: no cutover without", DefaultText: "off"},
		&cli.StringFlag{Name: "max-retained-wal-target", Usage: "WAL that the way back may hold back on the new server, such as 100GB: beyond that it is given up, so that the new server survives; none: no limit", DefaultText: "none"},
	}
}

func fallbackCommand(ui *ui) *cli.Command {
	return &cli.Command{
		Name: "fallback", Usage: "after a cutover with a way back: ask the running migrate to switch back to the old server, which has every row",
		Description: "It is a cutover the other way round: the new server is fenced, and the old one is opened. What is written there from then on flows to the\n" +
			"new server, so that 'walferry cutover' can switch again. The running migrate goes on.",
		Flags: append(cutoverFlags(), slices.Concat(rehearsalFlags(), groupFlags())...),
		Action: configured(ui, func(c *cli.Context, config migration.Config) error {
			return switchOver(ui, c, config, migration.Fallback)
		}),
	}
}

func finishCommand(ui *ui) *cli.Command {
	return &cli.Command{
		Name: "finish", Usage: "after a cutover with a way back: give the way back up, which ends the running migrate",
		Description: "The new server stays the database; the old one does not follow any more, and stays fenced until 'walferry cleanup'. Where no migrate is\n" +
			"running the command does it itself, also when the old server is gone for good.",
		Flags: []cli.Flag{jsonFlag()},
		Action: configured(ui, func(c *cli.Context, config migration.Config) error {
			already, err := migration.Finish(c.Context, config)
			if err != nil {
				return err
			}
			if c.Bool("json") {
				return ui.result(map[string]any{"phase": migration.Finished, "already": already})
			}
			text := "finished: the way back is given up, and the old server does not follow any more\n" + afterFinish
			if already {
				text = finishedAlready
			}
			_, err = fmt.Fprint(ui.stdout, ui.named(text))
			return writeErr(err)
		}),
	}
}

// afterFinish is what is so, and what is left to do, when the way back was given up.
const afterFinish = "the new server is the database now; once no client uses the old one any more: `walferry cleanup`\n"
