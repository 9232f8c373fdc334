package main

import (
	"fmt"
	"os"

	"github.com/urfave/cli/v2"

	"github.com/walferry/walferry/internal/copying"
	"github.com/walferry/walferry/internal/migration"
)

// copyWorkerCommand lends this host's hands to a copy that a migrate runs on another one.
func copyWorkerCommand(ui *ui) *cli.Command {
	return &cli.Command{
		Name: "copy-worker", Usage: "copy pieces of tables for a migrate that runs on another host, until its copy is done; any number of them, on any hosts that reach both servers",
		Flags: []cli.Flag{
			&cli.IntFlag{Name: "jobs", Usage: "pieces copied at a time", DefaultText: "4"},
			&cli.StringFlag{Name: "worker", Usage: "what it is called in status", DefaultText: "the host's name and the process's number"},
			jsonFlag(),
		},
		Action: configured(ui, func(c *cli.Context, config migration.Config) error {
			config, err := config.Fill()
			if err != nil {
				return err
			}
			worker := c.String("worker")
			if worker == "" {
				host, err := os.Hostname()
				if err != nil {
					return err
				}
				worker = fmt.Sprintf("%s:%d", host, os.Getpid())
			}
			hand := copying.Hand{Migration: config.Name, Source: config.Source, Target: config.Target, Jobs: config.Jobs, Worker: worker, Logger: ui.logger}
			lent, err := hand.Run(c.Context)
			if err != nil {
				return err
			}
			if c.Bool("json") {
				return ui.result(lent)
			}
			_, err = fmt.Fprintf(ui.stdout, "copied %s pieces, %s rows; the copy of migration %s is done (phase %s)\n", countText(int64(lent.Pieces)), countText(lent.Rows), lent.Name, lent.Phase)
			return writeErr(err)
		}),
	}
}
