package main

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/urfave/cli/v2"

	"github.com/walferry/walferry/internal/fail"
	"github.com/walferry/walferry/internal/session"
	"github.com/walferry/walferry/internal/status"
)

// listCommand lists the migrations of a target, for who has forgotten a name or found a schema walferry.
func listCommand(ui *ui) *cli.Command {
	return &cli.Command{
		Name: "list", Usage: "the migrations that the target knows, and where each stands; --target is enough",
		Flags: []cli.Flag{jsonFlag()},
		Action: func(c *cli.Context) error {
			s, err := load(ui, c)
			if err != nil {
				return err
			}
			target := s.text("target")
			if target == "" {
				return &fail.Error{Kind: fail.Usage, Problem: "no --target is given", Advice: "give the connection string of the target, or set WALFERRY_TARGET"}
			}
			list, err := status.List(c.Context, session.Config{DSN: target, Application: "list"})
			if err != nil {
				return err
			}
			if c.Bool("json") {
				return ui.result(listed{list})
			}
			_, err = io.WriteString(ui.stdout, clean(listText(list)))
			return writeErr(err)
		},
	}
}

// listed is what list prints as JSON.
type listed struct {
	Migrations []status.Listed `json:"migrations"` // by name
}

func listText(list []status.Listed) string {
	if len(list) == 0 {
		return "the target knows no migration\n"
	}
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "NAME\tPHASE\tSINCE\tMIGRATE\tFROM\tTABLES")
	for _, l := range list {
		since, runs := "", "runs"
		if l.Since != nil {
			since = utc(*l.Since)
		}
		if !l.Running {
			runs = "-"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%d\n", l.Name, l.Phase, since, runs, l.Database, l.Tables)
	}
	w.Flush() //nolint:errcheck // a Builder takes everything
	for _, l := range list {
		if l.Error != "" && !l.Running {
			fmt.Fprintf(&b, "\n%s has stopped: %s\n", l.Name, l.Error)
		}
	}
	return b.String()
}
