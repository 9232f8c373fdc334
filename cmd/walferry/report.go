package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/walferry/walferry/internal/fail"
	"github.com/walferry/walferry/internal/migration"
	"github.com/walferry/walferry/internal/report"
	"github.com/walferry/walferry/internal/session"
	"github.com/walferry/walferry/internal/state"
)

func reportCommand(ui *ui) *cli.Command {
	return &cli.Command{
		Name: "report", Usage: "what became of the migration, for a ticket: tables, phases, and each step of the switches; until cleanup, which prints it, too",
		Flags: []cli.Flag{jsonFlag(), &cli.BoolFlag{Name: "markdown", Usage: "as Markdown"}},
		Action: configured(ui, func(c *cli.Context, config migration.Config) error {
			if c.Bool("json") && c.Bool("markdown") {
				return &fail.Error{Kind: fail.Usage, Problem: "--json and --markdown exclude each other", Advice: "give one of them"}
			}
			st, err := migration.ReadStatus(c.Context, config)
			if err != nil {
				return err
			}
			if st.Phase == "" {
				return state.NoMigration(st.Name, st.Known)
			}
			r, err := readReport(c.Context, config, st)
			switch {
			case err != nil:
				return err
			case c.Bool("json"):
				return ui.result(r)
			}
			return ui.report(r, c.Bool("markdown"))
		}),
	}
}

func readReport(ctx context.Context, config migration.Config, st migration.Status) (report.Report, error) {
	r, err := report.Read(ctx, session.Config{DSN: config.Target, Application: "report"}, st)
	if err != nil {
		return r, fmt.Errorf("read the report from the target: %w", err)
	}
	return r, nil
}

// report prints it for people.
func (u *ui) report(r report.Report, markdown bool) error {
	page := reportPage{markdown: markdown}
	page.all(r)
	_, err := io.WriteString(u.stdout, clean(page.text.String()))
	return writeErr(err)
}

// reportPage is a report for people: headings and tables, plain or as Markdown.
type reportPage struct {
	text     strings.Builder
	markdown bool
}

// tablesReported is how many tables are printed for people, the largest first.
const tablesReported = 40

func (p *reportPage) all(r report.Report) {
	owner := "nobody: it was a one-time copy"
	if r.Owner != nil {
		owner = *r.Owner
	}
	p.heading("Migration " + r.Name)
	p.table([]string{"", ""}, [][]string{
		{"phase", string(r.Phase)},
		{"owner", owner},
		{"source", serverText(r.Source)},
		{"target", serverText(r.Target)},
		{"copied", fmt.Sprintf("%d tables, %s rows, %s on the source", len(r.Tables), countText(r.Rows), bytesText(r.Bytes))},
		{"applied", fmt.Sprintf("%s transactions, %s changes", countText(r.Transactions), countText(r.Changes))},
		{"compared", comparedText(r.Compared)},
	})
	p.heading("Phases")
	var rows [][]string
	for i, e := range r.Phases {
		took := "-"
		if i+1 < len(r.Phases) {
			took = secondsText(r.Phases[i+1].At.Sub(e.At).Seconds())
		}
		rows = append(rows, []string{string(e.Phase), utc(e.At), took})
	}
	p.table([]string{"phase", "since", "took"}, rows)
	for _, s := range r.Switches {
		p.switched(s)
	}
	p.heading("Tables")
	rows = nil
	for _, t := range r.Tables[:min(len(r.Tables), tablesReported)] {
		verified := "-"
		if t.Verified != nil {
			verified = *t.Verified
		}
		rows = append(rows, []string{t.Schema + "." + t.Name, countText(t.Rows), bytesText(t.Bytes), fmt.Sprint(t.Pieces), msText(t.CopyMS), msText(t.IndexMS), msText(t.AnalyzeMS), verified})
	}
	p.table([]string{"table", "rows", "size", "pieces", "copy", "indexes", "analyze", "verified"}, rows)
	if more := len(r.Tables) - tablesReported; more > 0 {
		fmt.Fprintf(&p.text, "and %d smaller ones: --json has them\n", more)
	}
}

// switched adds a cutover, fallback or rehearsal.
func (p *reportPage) switched(s state.Ran) {
	what := s.Kind
	if s.DryRun {
		what = "rehearsal of a " + s.Kind
	}
	p.heading(strings.ToUpper(what[:1]) + what[1:] + ", " + utc(s.At))
	switch {
	case s.Error != "":
		fmt.Fprintf(&p.text, "not done: %s\n", s.Error)
	case s.PauseMS != nil:
		fmt.Fprintf(&p.text, "writes were refused for %s ms\n", countText(*s.PauseMS))
	}
	p.gap()
	var rows [][]string
	short := 0
	for _, step := range s.Steps {
		if step.MS == 0 && step.Outcome == state.Done {
			short++
			continue
		}
		refused := ""
		if step.Refused {
			refused = "yes"
		}
		rows = append(rows, []string{step.Name, string(step.Outcome), countText(step.MS), refused})
	}
	p.table([]string{"step", "outcome", "ms", "writes refused"}, rows)
	if short > 0 {
		p.gap()
		fmt.Fprintf(&p.text, "and %d steps of less than a millisecond\n", short)
	}
}

func (p *reportPage) heading(text string) {
	if p.text.Len() > 0 {
		p.text.WriteByte('\n')
	}
	if p.markdown {
		text = "## " + cell(text) + "\n"
	}
	fmt.Fprintln(&p.text, text)
}

// gap parts a paragraph from a table, which Markdown needs.
func (p *reportPage) gap() {
	if p.markdown {
		p.text.WriteByte('\n')
	}
}

func (p *reportPage) table(head []string, rows [][]string) {
	if len(rows) == 0 {
		fmt.Fprintln(&p.text, "none")
		return
	}
	if p.markdown {
		fmt.Fprintf(&p.text, "| %s |\n|%s\n", strings.Join(head, " | "), strings.Repeat("---|", len(head)))
		for _, row := range rows {
			for i := range row {
				row[i] = cell(row[i])
			}
			fmt.Fprintf(&p.text, "| %s |\n", strings.Join(row, " | "))
		}
		return
	}
	w := tabwriter.NewWriter(&p.text, 0, 0, 2, ' ', 0)
	if strings.Join(head, "") != "" {
		fmt.Fprintln(w, "  "+strings.Join(head, "\t"))
	}
	for _, row := range rows {
		for i := range row {
			row[i] = strings.NewReplacer("\t", " ", "\n", " ").Replace(row[i]) // a name may have one in it
		}
		fmt.Fprintln(w, "  "+strings.Join(row, "\t"))
	}
	w.Flush() //nolint:errcheck // a Builder does not fail
}

// cell keeps a name from looking like more than a cell.
func cell(text string) string {
	return strings.NewReplacer("|", `\|`, "\n", " ", "<", "&lt;", "`", "'").Replace(text)
}

func serverText(s report.Server) string {
	if s.Version == "" {
		return "it does not answer"
	}
	return "PostgreSQL " + s.Version + ", database " + s.Database
}

func comparedText(c *report.Compared) string {
	if c == nil {
		return "by nobody"
	}
	found := fmt.Sprintf("%d tables, all equal", c.Tables)
	if c.Differ > 0 {
		found = fmt.Sprintf("%d tables, %d differ", c.Tables, c.Differ)
	}
	switch {
	case c.AsOfCutover:
		return found + ", as the target was opened"
	case c.At != nil:
		return found + ", " + utc(*c.At)
	}
	return found
}

// msText is a duration in milliseconds; "-": it is not known.
func msText(ms *int64) string {
	if ms == nil {
		return "-"
	}
	if *ms < 1000 {
		return fmt.Sprintf("%d ms", *ms)
	}
	return secondsText(float64(*ms) / float64(time.Second/time.Millisecond))
}
