package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/walferry/walferry/internal/migration"
	"github.com/walferry/walferry/internal/verify"
)

// differenceError says that verify found differences, or could not compare all.
type differenceError struct{ differ, uncompared int }

func (e *differenceError) Error() string {
	return fmt.Sprintf("%d tables differ, %d were not compared", e.differ, e.uncompared)
}

func verifyCommand(ui *ui) *cli.Command {
	return &cli.Command{
		Name: "verify", Usage: "compare source and target row by row at one position, without stopping anything",
		Flags: []cli.Flag{
			&cli.StringSliceFlag{Name: "table", Usage: "only tables that match schema.table; repeatable"},
			&cli.IntFlag{Name: "jobs", Usage: "tables compared at a time", DefaultText: "4"},
			jsonFlag(),
		},
		Action: func(c *cli.Context) error {
			s, err := load(ui, c)
			if err != nil {
				return err
			}
			config, err := s.config(ui)
			if err != nil {
				return err
			}
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
			if err == nil && !v.Equal {
				found := &differenceError{uncompared: uncompared(v)}
				for _, t := range v.Tables {
					if !t.Equal && t.Error == "" {
						found.differ++
					}
				}
				err = found
			}
			return err
		},
	}
}

// uncompared counts the tables that could not be compared.
func uncompared(v migration.Verified) (n int) {
	for _, t := range v.Tables {
		if t.Error != "" {
			n++
		}
	}
	return n
}

func printVerified(w io.Writer, v migration.Verified) error {
	var b strings.Builder
	for _, t := range v.Tables {
		if t.Equal {
			continue
		}
		if t.Error != "" {
			fmt.Fprintf(&b, "%s.%s: not compared: %s\n", t.Schema, t.Name, t.Error)
			continue
		}
		fmt.Fprintf(&b, "%s.%s: %s rows on the source, %s on the target\n", t.Schema, t.Name, countText(t.SourceRows), countText(t.TargetRows))
		if len(t.MissingColumns) > 0 {
			fmt.Fprintf(&b, "  columns missing on the target: %s\n", strings.Join(t.MissingColumns, ", "))
		}
		for _, kind := range []struct {
			name string
			rows int64
			keys []verify.Key
		}{{"missing on the target", t.MissingRows, t.Missing}, {"extra on the target", t.ExtraRows, t.Extra}, {"different", t.DifferentRows, t.Different}} {
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
	}
	where := ""
	switch {
	case v.AsOfCutover:
		where = " as of the cutover"
	case v.Position != "":
		where = " at " + v.Position
	}
	if n := uncompared(v); n > 0 {
		where += fmt.Sprintf("; %d more tables were not compared", n)
	}
	compared := len(v.Tables) - uncompared(v)
	if v.Equal {
		fmt.Fprintf(&b, "%d tables, %s rows: equal%s\n", compared, countText(v.Rows), where)
	} else {
		fmt.Fprintf(&b, "%d tables, %s rows: NOT equal%s\n", compared, countText(v.Rows), where)
		if v.Caveat != "" {
			fmt.Fprintf(&b, "note: %s\n", v.Caveat)
		}
	}
	_, err := io.WriteString(w, clean(b.String()))
	return writeErr(err)
}
