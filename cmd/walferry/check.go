package main

import (
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/walferry/walferry/internal/check"
	"github.com/walferry/walferry/internal/migration"
)

func selectionFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringSliceFlag{Name: "include", Usage: "only tables that match schema.table, with * and ?; repeatable"},
		&cli.StringSliceFlag{Name: "exclude", Usage: "leave out tables that match; repeatable"},
		&cli.StringSliceFlag{Name: "insert-only", Usage: "tables without a key that are only ever inserted into; repeatable"},
		&cli.StringFlag{Name: "schema", Usage: "dump: pg_dump carries it; none: the target has it", DefaultText: "dump"},
		&cli.IntFlag{Name: "jobs", Usage: "tables or pieces copied at a time", DefaultText: "4"},
		&cli.IntFlag{Name: "index-jobs", Usage: "indexes built at a time, beside the copy", DefaultText: "as many as --jobs"},
	}
}

func checkCommand(ui *ui) *cli.Command {
	return &cli.Command{
		Name: "check", Usage: "preflight: what would stop a migration, and the SQL that fixes it; changes nothing",
		Flags: append(selectionFlags(), &cli.StringFlag{Name: "sql", Usage: "print only the SQL that fixes what was found on source or target, in the order to run"}, jsonFlag()),
		Action: configured(ui, func(c *cli.Context, config migration.Config) error {
			side := c.String("sql")
			if side != "" && side != "source" && side != "target" {
				return &usageError{"--sql " + strconv.Quote(side) + " is neither source nor target", "it is the server that the SQL is run on: walferry check --sql source | psql ..."}
			}
			report, err := migration.Check(c.Context, config)
			if err != nil {
				return err
			}
			if side != "" {
				err = printSQL(ui.stdout, report, side)
			} else if c.Bool("json") {
				err = ui.result(report)
			} else {
				err = printReport(ui.stdout, report)
			}
			if err == nil && report.Blocks() {
				err = &migration.CheckError{Report: report}
			}
			return err
		}),
	}
}

func jsonFlag() cli.Flag {
	return &cli.BoolFlag{Name: "json", Usage: "print the result as JSON"}
}

// printSQL prints a script for psql on one side: each statement once, with its reason.
func printSQL(w io.Writer, r check.Report, side string) error {
	var b strings.Builder
	done := map[string]bool{}
	for _, f := range r.Findings {
		if f.On != side || len(f.SQL) == 0 {
			continue
		}
		fmt.Fprintf(&b, "-- %s %s: %s\n", strings.ToUpper(string(f.Severity)), strings.ReplaceAll(strings.TrimSpace(f.ID+" "+f.Object), "\n", " "), strings.ReplaceAll(f.Seen, "\n", " "))
		for _, sql := range f.SQL {
			sql = strings.TrimSuffix(strings.TrimSpace(sql), ";") + ";"
			if !done[sql] {
				b.WriteString(sql + "\n")
				done[sql] = true
			}
		}
	}
	// A comment must stay a comment.
	text := strings.ReplaceAll(clean(b.String()), "\r", " ")
	_, err := io.WriteString(w, text)
	return writeErr(err)
}

// printReport prints the findings, those that block first.
func printReport(w io.Writer, r check.Report) error {
	var b strings.Builder
	fmt.Fprintf(&b, "source  PostgreSQL %s, database %s: %d tables, %s\n", r.Source.Version, r.Source.Database, r.Tables, bytesText(r.Bytes))
	fmt.Fprintf(&b, "target  PostgreSQL %s, database %s\n", r.Target.Version, r.Target.Database)
	count := map[check.Severity]int{}
	for _, f := range r.Findings {
		count[f.Severity]++
		on := f.On
		if f.Object != "" {
			on += ", " + f.Object
		}
		fmt.Fprintf(&b, "\n%-5s %s (%s)\n", strings.ToUpper(string(f.Severity)), f.ID, indent(on))
		fmt.Fprintf(&b, "      %s\n", indent(f.Seen))
		if f.Do != "" {
			fmt.Fprintf(&b, "      -> %s\n", indent(f.Do))
		}
		for _, sql := range f.SQL {
			fmt.Fprintf(&b, "         %s\n", strings.TrimSuffix(indent(sql), ";")+";")
		}
	}
	fmt.Fprintf(&b, "\n%d block, %d warn, %d info: ", count[check.Block], count[check.Warn], count[check.Info])
	if r.Blocks() {
		b.WriteString("fix what blocks, then check again\n")
	} else {
		b.WriteString("ready to migrate\n")
	}
	_, err := io.WriteString(w, clean(b.String()))
	return writeErr(err)
}

func indent(text string) string { return strings.ReplaceAll(text, "\n", "\n         ") }
