package main

import (
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/walferry/walferry/internal/check"
	"github.com/walferry/walferry/internal/fail"
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
		Flags: append(append(append(selectionFlags(), wayBackFlags()...), clientFlags()...), &cli.StringFlag{Name: "sql", Usage: "print only the SQL that fixes what was found on source or target, in the order to run"},
			&cli.BoolFlag{Name: "plan", Usage: "also how long it will take, how much WAL and disk, by a sample of the largest tables that is copied to the target and rolled back"}, jsonFlag()),
		Action: configured(ui, func(c *cli.Context, config migration.Config) error {
			side := c.String("sql")
			if side != "" && side != "source" && side != "target" {
				return &fail.Error{Kind: fail.Usage, Problem: "--sql " + strconv.Quote(side) + " is neither source nor target", Advice: "it is the server that the SQL is run on: walferry check --sql source | psql ..."}
			}
			report, err := migration.Check(c.Context, config)
			if err != nil {
				return err
			}
			result := checked{Report: report}
			if c.Bool("plan") && side == "" {
				if result.Plan, err = planFor(c.Context, config, report); err != nil {
					return err
				}
			}
			if side != "" {
				err = ui.printSQL(report, side)
			} else if c.Bool("json") {
				err = ui.result(result)
			} else {
				err = ui.printReport(ui.stdout, report)
			}
			if result.Plan != nil && !c.Bool("json") && err == nil {
				_, err = io.WriteString(ui.stdout, clean(ui.named(planText(result.Plan))))
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

// printSQL prints a script for psql on one side: each statement once, with its reason. What blocks
// there and has no SQL is a comment.
func (u *ui) printSQL(r check.Report, side string) error {
	var b strings.Builder
	done := map[string]bool{}
	blocked := map[string]bool{}
	for _, f := range r.Findings {
		blocks := f.Severity == check.Block
		blocked[f.On] = blocked[f.On] || blocks
		run := f.On == side && len(f.SQL) > 0
		tell := blocks && (f.On == side || f.On == "tool") // what belongs to neither server is shown for both
		if !run && !tell {
			continue
		}
		text := strings.ToUpper(string(f.Severity)) + " " + strings.TrimSpace(f.ID+" "+f.Object) + ": " + f.Seen
		if !run {
			u.comment(&b, text+" -> "+f.Do)
			continue
		}
		if len(done) == 0 {
			u.comment(&b, "What cannot have its lock at once fails, instead of making everybody queue behind it: run this again until check finds nothing.")
			b.WriteString(briefly)
		}
		u.comment(&b, text)
		for _, sql := range f.SQL {
			sql = strings.TrimSuffix(strings.TrimSpace(sql), ";") + ";"
			if done[sql] {
				continue
			}
			done[sql] = true
			if strings.Contains(strings.ToLower(sql), "concurrently") {
				// It waits for transactions without holding anybody up, and must not be ended by that.
				sql = "set lock_timeout = 0;\n" + sql + "\n" + strings.TrimSuffix(briefly, "\n")
			}
			b.WriteString(sql + "\n")
		}
	}
	other := map[string]string{"source": "target", "target": "source"}[side]
	if !blocked[side] && blocked[other] {
		u.comment(&b, "Nothing blocks on the "+side+", but on the "+other+": see `walferry check --sql "+other+"`.")
	}
	_, err := io.WriteString(u.stdout, clean(b.String()))
	return writeErr(err)
}

// briefly keeps the statements after it from waiting for a lock for long.
const briefly = "set lock_timeout = '2s';\n"

// comment adds a comment, which stays one whatever a server has put into it.
func (u *ui) comment(b *strings.Builder, text string) {
	b.WriteString("-- " + strings.NewReplacer("\n", " ", "\r", " ").Replace(u.named(strings.TrimSuffix(text, " -> "))) + "\n")
}

// printReport prints the findings, those that block first.
func (u *ui) printReport(w io.Writer, r check.Report) error {
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
	_, err := io.WriteString(w, clean(u.named(b.String())))
	return writeErr(err)
}

func indent(text string) string { return strings.ReplaceAll(text, "\n", "\n         ") }
