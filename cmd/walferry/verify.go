package main

import (
	"cmp"
	"fmt"
	"io"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/walferry/walferry/internal/fail"
	"github.com/walferry/walferry/internal/migration"
	"github.com/walferry/walferry/internal/verify"
	"github.com/walferry/walferry/internal/wayback"
)

// verdict returns the error that a comparison amounts to, if any.
func verdict(v *migration.Verified, name string) error {
	switch {
	case v.Differs():
		differ := 0
		for _, t := range v.Tables {
			if !t.Equal && t.Error == "" {
				differ++
			}
		}
		text := fmt.Sprintf("%d tables differ", differ)
		if v.NotCompared > 0 {
			text += fmt.Sprintf(", %d were not compared", v.NotCompared)
		}
		advice := ""
		if v.SourceIs == "new" {
			advice = "rows of the old server are changed past its fence; with psql, there: " + wayback.Past(name)
		}
		return &fail.Error{Kind: fail.Difference, Problem: text, Advice: advice}
	case v.NotCompared > 0:
		return &fail.Error{
			Kind:    fail.Run,
			Problem: fmt.Sprintf("%d tables were not compared: whether they are equal is not known", v.NotCompared),
			Advice:  "verify them again, with --table, preferably while nothing truncates or rewrites them",
		}
	}
	return nil
}

func verifyCommand(ui *ui) *cli.Command {
	return &cli.Command{
		Name: "verify", Usage: "compare source and target row by row at one position, without stopping anything",
		Flags: []cli.Flag{
			&cli.StringSliceFlag{Name: "table", Usage: "only tables that match schema.table; repeatable"},
			&cli.IntFlag{Name: "jobs", Usage: "tables compared at a time", DefaultText: "4"},
			jsonFlag(),
		},
		Action: configured(ui, func(c *cli.Context, config migration.Config) error {
			options := migration.VerifyOptions{Tables: c.StringSlice("table")}
			if ui.terminal {
				options.Progress = func(p verify.Progress) {
					fmt.Fprintf(ui.stderr, "\r%d of %d tables, %s rows read\x1b[K", p.TablesDone, p.Tables, countText(p.Rows))
				}
			}
			v, err := migration.Verify(c.Context, config, options)
			if ui.terminal {
				fmt.Fprint(ui.stderr, "\r\x1b[K")
			}
			if err != nil {
				return err
			}
			if c.Bool("json") {
				err = ui.result(v)
			} else {
				err = printVerified(ui.stdout, v)
			}
			if err == nil {
				err = verdict(&v, cmp.Or(config.Name, "default"))
			}
			return err
		}),
	}
}

func printVerified(w io.Writer, v migration.Verified) error {
	var b strings.Builder
	from, to := "source", "target"
	switch v.SourceIs {
	case "new":
		from, to = "new server", "old server"
	case "mixed":
		from, to = "server that owns it", "other one"
	}
	for _, t := range v.Tables {
		if t.Equal {
			continue
		}
		if t.Gone != "" {
			fmt.Fprintf(&b, "%s.%s: %s\n", t.Schema, t.Name, t.Gone)
			continue
		}
		if t.Error != "" {
			fmt.Fprintf(&b, "%s.%s: not compared: %s\n", t.Schema, t.Name, t.Error)
			continue
		}
		fmt.Fprintf(&b, "%s.%s: %s rows on the %s, %s on the %s\n", t.Schema, t.Name, countText(t.SourceRows), from, countText(t.TargetRows), to)
		if len(t.MissingColumns) > 0 {
			fmt.Fprintf(&b, "  columns missing on the %s: %s\n", to, strings.Join(t.MissingColumns, ", "))
		}
		for _, kind := range []struct {
			name string
			rows int64
			keys []verify.Key
		}{{"missing on the " + to, t.MissingRows, t.Missing}, {"extra on the " + to, t.ExtraRows, t.Extra}, {"different", t.DifferentRows, t.Different}} {
			if kind.rows == 0 {
				continue
			}
			fmt.Fprintf(&b, "  %s %s:\n", countText(kind.rows), kind.name)
			for _, k := range kind.keys {
				fmt.Fprintf(&b, "    %s\n", k)
			}
		}
		if t.More > 0 {
			fmt.Fprintf(&b, "  and %s more\n", countText(t.More))
		}
		if t.Hint != "" {
			fmt.Fprintf(&b, "  hint: %s\n", t.Hint)
		}
	}
	where := ""
	switch {
	case v.AsOfCutover:
		where = " as of the cutover"
	case v.Position != "" && v.SourceIs == "new":
		where = " at " + v.Position + " of the new server, which the old one follows"
	case v.Position != "":
		where = " at " + v.Position
	}
	rest := ""
	if v.NotCompared > 0 {
		rest = fmt.Sprintf("; %d more tables were NOT compared", v.NotCompared)
	}
	compared := fmt.Sprintf("%d tables, %s rows", v.Compared, countText(v.Rows))
	switch {
	case v.Differs():
		fmt.Fprintf(&b, "%s: NOT equal%s%s\n", compared, where, rest)
		if v.Caveat != "" {
			fmt.Fprintf(&b, "note: %s\n", v.Caveat)
		}
	case v.Compared > 0:
		fmt.Fprintf(&b, "%s: equal%s%s\n", compared, where, rest)
	case v.NotCompared > 0:
		fmt.Fprintf(&b, "NOTHING was compared%s: none of %d tables could be read in that state\n", where, v.NotCompared)
	default:
		b.WriteString("there is no table to compare\n")
	}
	_, err := io.WriteString(w, clean(b.String()))
	return writeErr(err)
}
