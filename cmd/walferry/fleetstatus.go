package main

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/walferry/walferry/internal/fleet"
	"github.com/walferry/walferry/internal/migration"
	"github.com/walferry/walferry/internal/wait"
)

func fleetStatusCommand(ui *ui) *cli.Command {
	return &cli.Command{
		Name: "status", Usage: "where all migrations stand, from what their servers hold; runs on any host", ArgsUsage: "FILE",
		Flags: []cli.Flag{jsonFlag(), &cli.BoolFlag{Name: "watch", Usage: "refresh every two seconds, until interrupted"}},
		Action: func(c *cli.Context) error {
			f, err := resolved(ui, c)
			if err != nil {
				return err
			}
			for {
				st, err := f.Status(c.Context)
				switch {
				case err != nil && c.Bool("watch") && c.Context.Err() != nil:
					return nil
				case err != nil:
					return err
				}
				if err := ui.fleetStatus(st, c.Bool("json"), c.Bool("watch")); err != nil {
					return writeErr(err)
				}
				if !c.Bool("watch") {
					return fleetPartly(st)
				}
				if wait.Sleep(c.Context, 2*time.Second) != nil {
					return nil
				}
			}
		},
	}
}

// fleetPartly returns the error of a status that lacks what some servers would have said.
func fleetPartly(st *fleet.Status) error {
	away := slices.Clone(st.Problems)
	for _, d := range st.Databases {
		if d.Phase == "" && d.Error != "" {
			away = append(away, d.Name+": "+d.Error)
		}
	}
	if len(away) == 0 {
		return nil
	}
	return &partlyError{strings.Join(away, "; "), "of these nothing is known; what is shown of the others is complete"}
}

func (u *ui) fleetStatus(st *fleet.Status, asJSON, watch bool) error {
	text := clean(fleetText(st))
	switch {
	case asJSON && watch:
		line, err := json.Marshal(st)
		if err != nil {
			return err
		}
		text = string(versioned(line)) + "\n"
	case asJSON:
		return u.result(st)
	case watch && u.outTerminal:
		text = "\x1b[H\x1b[2J" + text
	case watch:
		text = time.Now().Format(time.DateTime) + "\n" + text + "\n"
	}
	_, err := io.WriteString(u.stdout, text)
	return err
}

// fleetText is a line for each database, then the waves, and what has failed.
func fleetText(st *fleet.Status) string {
	var b strings.Builder
	line := func(name, wave, state, progress, wal string) {
		fmt.Fprintf(&b, "%s\n", strings.TrimRight(fmt.Sprintf("%-21s %4s %-15s %9s %7s", cutTo(name, 21), wave, cutTo(state, 15), progress, wal), " "))
	}
	line("MIGRATION", "WAVE", "STATE", "DONE/LAG", "WAL")
	for i := range st.Databases {
		d := &st.Databases[i]
		wal := ""
		if d.RetainedBytes != nil {
			wal = strings.ReplaceAll(bytesText(*d.RetainedBytes), " ", "")
		}
		line(d.Name, fmt.Sprint(d.Wave), d.State(), fleetProgress(d), wal)
	}
	b.WriteString("\n")
	for _, w := range st.Waves {
		fmt.Fprintf(&b, "wave %d: %d of %d switched, %d ready, %d failed\n", w.Number, w.Switched, w.Databases, w.Following, w.Failed)
		var says []string
		if w.After != 0 {
			says = append(says, fmt.Sprintf("after wave %d", w.After))
		}
		switch {
		case w.Approved != "":
			says = append(says, "approved: "+w.Approved)
		case w.Approval == string(fleet.Manual):
			says = append(says, "not approved")
		case w.Approval == string(fleet.Auto):
			says = append(says, "by itself")
		}
		if w.Window != "" {
			says = append(says, w.Window+map[bool]string{true: " (open)", false: " (closed)"}[w.Open])
		}
		if len(says) > 0 {
			fmt.Fprintf(&b, "  %s\n", strings.Join(says, ", "))
		}
	}
	for _, d := range st.Databases {
		if d.Error != "" && !d.Running {
			fmt.Fprintf(&b, "\n%s: %s\n", d.Name, cutTo(strings.ReplaceAll(d.Error, "\n", "; "), 300))
		}
		if len(d.Differ) > 0 {
			fmt.Fprintf(&b, "\n%s: %d tables DIFFER: %s\n", d.Name, len(d.Differ), cutTo(strings.Join(d.Differ, ", "), 300))
		}
	}
	for _, p := range st.Problems {
		fmt.Fprintf(&b, "\n%s\n", cutTo(strings.ReplaceAll(p, "\n", "; "), 300))
	}
	return b.String()
}

// fleetProgress is how much is copied, how far the target is behind, or how long the pause was.
func fleetProgress(d *fleet.DatabaseStatus) string {
	switch {
	case d.Phase == migration.Copying && d.Copy.BytesTotal > 0:
		return fmt.Sprintf("%.0f%%", 100*min(1, float64(d.Copy.Bytes)/float64(d.Copy.BytesTotal)))
	case (d.Phase == migration.Following || d.Phase == migration.Switched) && d.LagSeconds != nil && d.Running:
		return secondsText(*d.LagSeconds)
	case d.Phase == migration.Finished && d.PauseMS != nil:
		return fmt.Sprintf("%d ms", *d.PauseMS)
	}
	return ""
}

// cutTo cuts a text to a width.
func cutTo(text string, width int) string {
	if r := []rune(text); len(r) > width {
		return string(r[:width-1]) + "…"
	}
	return text
}

func fleetReportCommand(ui *ui) *cli.Command {
	return &cli.Command{
		Name: "report", Usage: "what was moved, how long each part took, what was proved: as Markdown", ArgsUsage: "FILE", Flags: []cli.Flag{jsonFlag()},
		Action: func(c *cli.Context) error {
			f, err := resolved(ui, c)
			if err != nil {
				return err
			}
			st, err := f.Status(c.Context)
			if err != nil {
				return err
			}
			if c.Bool("json") {
				return ui.result(st.Moved())
			}
			_, err = io.WriteString(ui.stdout, clean(movedText(st.Moved())))
			return writeErr(err)
		},
	}
}

// movedText is a table in Markdown.
func movedText(m *fleet.Moved) string {
	var b strings.Builder
	fmt.Fprintf(&b, "# %d of %d databases moved: %s rows, %s\n\n", m.Finished, len(m.Databases), countText(m.Rows), bytesText(m.Bytes))
	b.WriteString("| migration | from, to | wave | phase | rows | size | copy | transactions followed | switched | pause | compared |\n|---|---|---|---|---|---|---|---|---|---|---|\n")
	for _, d := range m.Databases {
		copied, at, pause, compared := "", "", "", ""
		if d.CopySeconds != nil {
			copied = secondsText(*d.CopySeconds)
		}
		if d.SwitchedAt != nil {
			at = utc(*d.SwitchedAt)
		}
		if d.PauseMS != nil {
			pause = fmt.Sprintf("%d ms", *d.PauseMS)
		}
		if d.Equal != nil {
			compared = map[bool]string{true: "equal", false: "DIFFERENT"}[*d.Equal]
		}
		cell := strings.NewReplacer("|", `\|`, "\n", " ").Replace
		fmt.Fprintf(&b, "| %s | %s, %s | %d | %s | %s | %s | %s | %s | %s | %s | %s |\n", d.Name, cell(d.Source), cell(d.Target), d.Wave, d.Phase,
			countText(d.Rows), bytesText(d.Bytes), copied, countText(d.Transactions), at, pause, compared)
	}
	return b.String()
}
