package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/walferry/walferry/internal/check"
	"github.com/walferry/walferry/internal/migration"
	"github.com/walferry/walferry/internal/web"
)

func migrateCommand(ui *ui) *cli.Command {
	flags := append(selectionFlags(),
		&cli.StringFlag{Name: "until", Usage: "copied: a plain one-time copy; caught-up: stop there, the same command resumes; cutover", DefaultText: "cutover"},
		&cli.StringFlag{Name: "cutover", Usage: "manual: wait for 'walferry cutover'; auto: once it has caught up", DefaultText: "manual"},
		&cli.StringFlag{Name: "piece-size", Usage: "size above which a table is copied in pieces, such as 512MB", DefaultText: "so that all jobs end together"},
		&cli.StringFlag{Name: "max-retained-wal", Usage: "WAL that the slot may hold back on the source, such as 100GB: beyond that the migration is given up, so that the source survives; none: warn only", DefaultText: "none"},
		&cli.StringFlag{Name: "on-new-table", Usage: "stop or ignore, if the source gets tables that are not followed", DefaultText: "stop"},
		&cli.BoolFlag{Name: "verify", Usage: "compare both sides as of the cutover, once the target is open"},
	)
	return &cli.Command{
		Name: "migrate", Usage: "all phases, in the foreground; the same command again resumes; ends when the cutover is done, or with --fall-back by 'walferry finish'",
		Flags: slices.Concat(flags, wayBackFlags(), cutoverFlags(), clientFlags(), listenFlags()),
		Description: "A migration that has begun resumes with the options it had so far. --include, --exclude, --insert-only and --schema cannot be changed;\n" +
			"--until, --cutover, --verify, --fall-back, --max-retained-wal, --max-retained-wal-target, --on-new-table, --timeout, --max-lag and --without\n" +
			"are changed for this and later runs by giving them again (--verify=false turns it off); --jobs, --index-jobs and --piece-size apply to one run,\n" +
			"and so do --hook, --pgbouncer and what goes with them: give them again.",
		Action: func(c *cli.Context) error {
			s, err := load(ui, c)
			if err != nil {
				return err
			}
			config, err := s.config(ui)
			if err != nil {
				return err
			}
			return migrate(ui, c, config, s.access())
		},
	}
}

func migrate(ui *ui, c *cli.Context, config migration.Config, access web.Access) error {
	var p *progress
	var began began
	end, err := ui.listen(access, began.when, shown(config))
	if err != nil {
		return err
	}
	defer end()
	above := newSupervisor()
	defer above.end()
	outcome, err := migration.Migrate(c.Context, config, migration.Observer{
		Checked: func(r check.Report) {
			ui.findings(r)
		},
		Started: func(watch func() migration.Status) {
			began.now()
			p = startProgress(ui, watch)
			above.begin(watch)
		},
		Switched: func(r *migration.CutoverResult, back bool) { ui.switched(r, back) },
	})
	if p != nil {
		p.stop()
	}
	if err != nil && (outcome.Cutover == nil || outcome.Cutover.FinishedAt == nil) {
		return err
	}
	if outcome.Stopped && err != nil {
		_, told := ui.stdout.Write([]byte(clean(ui.named(switchText(outcome.Cutover, false)))))
		return errors.Join(stopped(outcome.Phase), err, writeErr(told))
	}
	// A finished cutover is reported even if err says that the comparison failed or found
	// differences.
	return errors.Join(err, ui.finished(outcome))
}

// findings prints what the preflight of a migrate has found, except for what is merely informative.
func (u *ui) findings(r check.Report) {
	shown := slices.DeleteFunc(slices.Clone(r.Findings), func(f check.Finding) bool { return f.Severity == check.Info })
	if u.json {
		for _, f := range shown {
			level := slog.LevelWarn
			if f.Severity == check.Block {
				level = slog.LevelError
			}
			u.logger.Log(context.Background(), level, f.Seen, "finding", f.ID, "severity", string(f.Severity), "on", f.On, "object", f.Object, "do", f.Do, "sql", f.SQL)
		}
		return
	}
	if r.Findings = shown; len(shown) > 0 {
		_ = u.printReport(u.stderr, r) // stderr has nowhere to complain to
	}
}

// switched says that a switch is done. What migrate does from then on its progress tells.
func (u *ui) switched(r *migration.CutoverResult, back bool) {
	for line := range strings.Lines(switchText(r, back)) {
		u.note("%s", strings.TrimSuffix(line, "\n"))
	}
}

const finishedAlready = "this migration is finished already; `walferry status` shows it, `walferry cleanup` removes what is left of walferry\n"

// finished prints how a migrate ended.
func (u *ui) finished(o migration.Outcome) error {
	var b strings.Builder
	switch {
	case o.Stopped:
		return stopped(o.Phase)
	case o.GaveUp:
		b.WriteString("the way back was given up; the old server does not follow any more\n" + afterFinish)
	case o.Cutover != nil && o.Cutover.Already:
		b.WriteString(switchText(o.Cutover, false))
		b.WriteString(finishedAlready)
	case o.Cutover != nil:
		fmt.Fprintf(&b, "copied %s rows; followed %s transactions (%s changes)\n", countText(o.Rows), countText(o.Transactions), countText(o.Changes))
		b.WriteString(switchText(o.Cutover, false))
		if c := o.Cutover.Comparison; c != nil && c.Equal != nil && !*c.Equal {
			b.WriteString("the target is the database now; the source has all of its rows until `walferry cleanup`: keep it until the differences are dealt with\n")
			break
		}
		b.WriteString("the target is the database now; once no client uses the source any more: `walferry cleanup`\n")
	case o.Phase == migration.Finished && o.Until == migration.UntilCopied:
		fmt.Fprintf(&b, "copied %s rows, set %d sequences; slot and publication are dropped again\n"+
			"the target can be used; writes to the source since the copy began are not in it\n", countText(o.Rows), o.Sequences)
	case o.Phase == migration.Finished:
		b.WriteString(finishedAlready)
	case o.Until == migration.UntilCaughtUp:
		fmt.Fprintf(&b, "caught up; the slot stays, and `walferry migrate` resumes\n")
	}
	_, err := u.stdout.Write([]byte(clean(u.named(b.String()))))
	return writeErr(err)
}
