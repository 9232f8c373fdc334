package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/migration"
	"github.com/walferry/walferry/internal/state"
	"github.com/walferry/walferry/internal/status"
	"github.com/walferry/walferry/internal/wait"
)

func statusCommand(ui *ui) *cli.Command {
	return &cli.Command{
		Name: "status", Usage: "where the migration stands, from what both servers hold; runs on any host",
		Flags: []cli.Flag{jsonFlag(), &cli.BoolFlag{Name: "watch", Usage: "refresh every second, until interrupted"}},
		Action: configured(ui, func(c *cli.Context, config migration.Config) error {
			for {
				st, err := migration.ReadStatus(c.Context, config)
				if c.Bool("watch") && c.Context.Err() != nil {
					return nil // a status that was partly read is useless
				}
				if err != nil {
					return err
				}
				if err := ui.status(st, c.Bool("json"), c.Bool("watch")); err != nil {
					return writeErr(err) // a reader that has closed the pipe has seen enough
				}
				if st.Phase == "" {
					return state.NoMigration(st.Name, st.Known)
				}
				if !c.Bool("watch") {
					return partly(st)
				}
				if wait.Sleep(c.Context, time.Second) != nil {
					return nil
				}
			}
		}),
	}
}

// partlyError reports that a status lacks what one of the servers would have said. What is known was printed; but a
// script that watches the slot, the fence and the lag must not take it for a look at them.
type partlyError struct{ problem, hint string }

func (e *partlyError) Error() string { return "the status is not complete: " + e.problem }

// Hint implements the hint of an error.
func (e *partlyError) Hint() string { return e.hint }

// partly returns the error of a status without a server's part, as long as the migration needs that one. The source of one that
// has ended may have been shut down.
func partly(st migration.Status) error {
	switch {
	case st.Target.Error != "":
		return &partlyError{st.Target.Error, "what is shown is the old server's, which follows the new one: nothing is lost once that is back"}
	case st.Source.Error == "" || st.Phase == migration.Finished || st.Phase == migration.Aborted:
		return nil
	case st.Phase == migration.Switched:
		return &partlyError{st.Source.Error, "how far the old server is, and its fence, are not known until it answers; the new server is not affected"}
	}
	return &partlyError{st.Source.Error, "slot, fence and lag are not known until the source answers; what is shown is the target's"}
}

// status prints a status: as indented JSON, or on one line if another follows; for people, in place
// of the previous one if stdout is a terminal.
func (u *ui) status(st migration.Status, asJSON, watch bool) error {
	var text string
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
		text = "\x1b[H\x1b[2J" + clean(u.named(statusText(st)))
	case watch:
		text = time.Now().Format(time.DateTime) + "\n" + clean(u.named(statusText(st))) + "\n"
	default:
		text = clean(u.named(statusText(st)))
	}
	_, err := io.WriteString(u.stdout, text)
	return err
}

// lagText returns the lag, or that it is not known: a source that does not answer is not a lag of
// 0.
func lagText(s migration.StreamStatus) string {
	if s.LagSeconds == nil || s.LagBytes == nil {
		if s.LagBytes == nil {
			return "not known: the source does not answer"
		}
		return "not known yet, " + bytesText(*s.LagBytes)
	}
	return secondsText(*s.LagSeconds) + ", " + bytesText(*s.LagBytes)
}

// fenceText describes whether a server refuses writes; until says what ends that of a sealed fence.
func fenceText(f migration.FenceStatus, server, until string) string {
	switch {
	case f.Sealed:
		return fmt.Sprintf("sealed on %d tables: the %s refuses writes to them until %s", f.Tables, server, until)
	case f.Closed && f.Deadline != nil:
		return fmt.Sprintf("closed on %d tables: the %s refuses writes to them, until %s at the latest", f.Tables, server, utc(*f.Deadline))
	case f.Closed:
		return fmt.Sprintf("closed on %d tables: the %s refuses writes to them", f.Tables, server)
	}
	return fmt.Sprintf("open; its triggers are still on %d tables of the %s, and let all writes pass; the next cutover, run of migrate, or cleanup drops them", f.Tables, server)
}

// utc writes a moment as all of them are written that need no fractions.
func utc(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05 MST") }

// statusPage is a status for people: rows of a name and a text.
type statusPage struct{ strings.Builder }

func (p *statusPage) row(name, format string, args ...any) {
	fmt.Fprintf(p, "%-10s %s\n", name, indent(fmt.Sprintf(format, args...)))
}

func statusText(s migration.Status) string {
	var p statusPage
	p.migration(s)
	if s.Phase == "" {
		return p.String()
	}
	if s.Phase != migration.New && s.Phase != migration.Switched { // there is none yet, or any more
		from, _ := sides(s)
		p.slot("slot", from, s.Source.SlotStatus, s.Source.RetainedLimit, s.Source.RetainedLeft)
	}
	p.wayBack(s)
	p.moved(s)
	p.writes(s)
	p.requests(s)
	p.findings(s)
	p.cutover(s)
	return p.String()
}

// migration adds the migration's state and its servers.
func (p *statusPage) migration(s migration.Status) {
	phase := string(s.Phase)
	switch {
	case phase == "":
		p.row("migration", "%s: the target has none of that name", s.Name)
	case s.Target.Error != "":
		p.row("migration", "%s: %s; whether a migrate is running is not known", s.Name, phase)
	case s.Running:
		p.row("migration", "%s: %s (migrate runs on %s)", s.Name, phase, s.Runner)
	case s.Phase == migration.Finished || s.Phase == migration.Aborted:
		p.row("migration", "%s: %s", s.Name, phase)
	default:
		p.row("migration", "%s: %s; no migrate is running: the same command resumes it", s.Name, phase)
	}
	if s.Note != "" {
		p.row("", "%s", s.Note)
	}
	if s.Step != "" {
		p.row("step", "%s", s.Step)
	}
	if s.Error != "" {
		p.row("error", "%s", s.Error)
	}
	if s.Options != "" && s.Phase != migration.Finished && s.Phase != migration.Aborted {
		p.row("options", "%s", s.Options)
	}
	p.servers(s)
}

// servers adds the two servers, and which is the database where that changes.
func (p *statusPage) servers(s migration.Status) {
	from, to := sides(s)
	switch {
	case len(s.Groups) > 0:
		p.row("owner", "the new server of what was handed over, the old one of the rest")
		for _, g := range s.Groups {
			p.row("handed", "%s, %s", catalog.List(g.Tables), g.Since.UTC().Format("2006-01-02 15:04:05 MST"))
		}
	case from != "source" && s.Owner != nil:
		p.row("owner", "the %s server: applications belong there", *s.Owner)
	}
	if s.Source.Error != "" {
		p.row(from, "%s", s.Source.Error)
	} else {
		p.row(from, "PostgreSQL %s, database %s", s.Source.Version, s.Source.Database)
	}
	if s.Target.Error != "" {
		p.row(to, "%s", s.Target.Error)
	} else {
		p.row(to, "PostgreSQL %s, database %s", s.Target.Version, s.Target.Database)
	}
}

// sides are what the servers are called: source and target until both directions matter.
func sides(s migration.Status) (from, to string) {
	if s.Phase == migration.Switched || s.WayBack.Mode != "" && s.WayBack.Mode != string(migration.NoFallBack) {
		return "old server", "new server"
	}
	return "source", "target"
}

// farOff is when a limit is reached, in seconds, that nobody has to think of yet.
const farOff = 30 * 24 * 3600

// slot adds a slot, on a server.
func (p *statusPage) slot(row, server string, s migration.SlotStatus, limit *int64, left *float64) {
	if s.Slot == "" || s.RetainedBytes == nil && s.WALStatus == "" {
		return
	}
	if s.WALStatus == "missing" {
		p.row(row, "%s: the %s has none of that name", s.Slot, server)
		return
	}
	state := "not in use"
	if s.Active() {
		state = "active"
	}
	if s.WALStatus != "" {
		state += ", WAL " + s.WALStatus
	}
	held := bytesText(*s.RetainedBytes)
	if limit != nil {
		held += " of at most " + bytesText(*limit)
	}
	p.row(row, "%s: %s, holds back %s of WAL", s.Slot, state, held)
	if left != nil && *left < farOff {
		p.row("", "at this rate the limit is reached in %s", secondsText(*left))
	}
}

// moved adds what was copied and applied.
func (p *statusPage) moved(s migration.Status) {
	if s.Phase == migration.Switched { // all of it was before
		return
	}
	if s.Copy.Tables > 0 || s.Copy.PiecesDone > 0 {
		copied := fmt.Sprintf("%d of %d tables, %s rows, %s of %s", s.Copy.TablesDone, s.Copy.Tables, countText(s.Copy.Rows), bytesText(s.Copy.Bytes), bytesText(s.Copy.BytesTotal))
		if s.Copy.ETASeconds != nil {
			copied += ", about " + secondsText(*s.Copy.ETASeconds) + " left"
		}
		p.row("copy", "%s", copied)
		for _, w := range s.CopyWorkers {
			p.row("", "%s", workerText(w))
		}
		p.row("indexes", "%d of %d tables", s.Indexes.TablesDone, s.Indexes.Tables)
	}
	if s.Stream.AppliedLSN == "" {
		return
	}
	p.stream(s.Stream)
	if s.Phase == migration.Following {
		p.row("lag", "%s", lagText(s.Stream))
	}
}

// stream adds how far a stream is.
func (p *statusPage) stream(s migration.StreamStatus) {
	stream := "applied " + s.AppliedLSN
	if s.SourceLSN != "" {
		stream += " of " + s.SourceLSN
	}
	if s.AckedLSN != "" {
		stream += ", acknowledged " + s.AckedLSN
	}
	p.row("stream", "%s", stream)
	p.row("", "%s transactions, %s changes", countText(s.Transactions), countText(s.Changes))
}

// requests adds what the running migrate is asked for, and whom that waits for.
func (p *statusPage) requests(s migration.Status) {
	for i, r := range s.Requests {
		text := "by itself"
		if r.AskedSeconds != nil {
			text = "asked for " + secondsText(*r.AskedSeconds) + " ago"
		}
		switch holding := r.Holding(); {
		case !r.Begun && holding != "":
			text = "for " + secondsText(*r.AskedSeconds) + ": " + holding
		case !r.Begun && i > 0:
			text += ": waits for the " + s.Requests[i-1].Kind + " before it"
		case !r.Begun && strings.HasPrefix(s.Note, state.HeldFor):
			text += ": waits: the applier is " + s.Note
		case holding != "":
			text += ": " + holding
		case r.Step != "":
			text += "; step: " + r.Step
		}
		p.row(r.Kind, "%s", text)
	}
	if s.Verifying != nil && *s.Verifying {
		p.row("verify", "a comparison reads both servers")
	}
}

// findings adds what the operator should know before, and after, the cutover.
func (p *statusPage) findings(s migration.Status) {
	p.fences(s)
	for _, t := range s.InsertOnlyBroken {
		p.row("note", "%s was updated despite --insert-only: it will be copied again while following", t)
	}
	if c := s.LastComparison; c != nil {
		text := fmt.Sprintf("%d tables at %s, %s", c.Compared, c.Position, utc(c.At))
		if len(c.Differ) > 0 {
			text += fmt.Sprintf("; %d DIFFER: %s", len(c.Differ), strings.Join(c.Differ[:min(len(c.Differ), 10)], ", "))
		} else {
			text += "; no difference"
		}
		p.row("compared", "%s", text)
	}
	for _, o := range s.Refused {
		p.row("note", "the target refuses %s", o)
	}
	for _, sql := range s.Unvalidated {
		p.row("note", "a foreign key is not validated yet: %s", sql)
	}
	for _, sql := range s.Disabled {
		p.row("disabled", "the opening could not enable it; run on the target: %s", sql)
	}
	for _, t := range s.NewTables {
		if s.Phase == migration.Switched {
			p.row("note", "%s was created on the new server later: it does not come to the old one; a fallback refuses, unless --on-new-table ignore leaves it behind", t)
			continue
		}
		p.row("note", "%s was created later: it is not followed, and is left behind", t)
	}
}

func (p *statusPage) cutover(s migration.Status) {
	for _, moment := range []struct {
		name string
		at   *time.Time
	}{{"fenced", s.Cutover.FencedAt}, {"drained", s.Cutover.DrainedAt}, {"finished", s.Cutover.FinishedAt}} {
		if moment.at != nil {
			p.row(moment.name, "%s", moment.at.UTC().Format("2006-01-02 15:04:05.000 MST"))
		}
	}
	if s.Cutover.PauseMS != nil {
		p.row("pause", "writes were refused for %d ms", *s.Cutover.PauseMS)
	}
	if s.Cutover.Comparison != nil {
		p.row("compared", "%s", s.Cutover.Words(countText))
	}
}

// workerText is what another process does for the copy.
func workerText(w status.CopyWorker) string {
	text := fmt.Sprintf("%s: %s pieces, %s rows", w.Name, countText(int64(w.Pieces)), countText(w.Rows))
	switch {
	case !w.Connected:
		return text + "; it has ended"
	case len(w.Tables) > 0:
		return text + "; copies " + strings.Join(w.Tables, ", ")
	}
	return text
}
