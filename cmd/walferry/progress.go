package main

import (
	"fmt"
	"sync"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
	"golang.org/x/term"

	"github.com/walferry/walferry/internal/migration"
	"github.com/walferry/walferry/internal/state"
)

// logInterval is how often a migrate without a terminal logs its progress.
const logInterval = 10 * time.Second

// progress shows what a running migrate is doing: bars on a terminal, otherwise a log line now and
// then.
type progress struct {
	ui    *ui
	watch func() migration.Status
	done  chan struct{}
	wait  sync.WaitGroup

	told      bool            // what it does, in phase
	phase     migration.Phase // of the last look
	lastCount int64
	lastAt    time.Time
	rate      float64
}

func startProgress(ui *ui, watch func() migration.Status) *progress {
	p := &progress{ui: ui, watch: watch, done: make(chan struct{})}
	if ui.terminal {
		p.wait.Go(p.draw)
	} else {
		p.wait.Go(p.log)
	}
	return p
}

func (p *progress) stop() {
	close(p.done)
	p.wait.Wait()
}

// measure updates the rate of transactions, over at least a second.
func (p *progress) measure(v migration.Status) {
	now := time.Now()
	if p.lastAt.IsZero() || v.Phase != p.phase || v.Stream.Transactions < p.lastCount { // another flow counts for itself
		p.rate = 0
		p.lastAt, p.lastCount = now, v.Stream.Transactions
	}
	if passed := now.Sub(p.lastAt); passed >= time.Second {
		p.rate = float64(v.Stream.Transactions-p.lastCount) / passed.Seconds()
		p.lastAt, p.lastCount = now, v.Stream.Transactions
	}
}

// tell notes once what can be asked of it now.
func (p *progress) tell(v migration.Status) {
	p.told = p.told && p.phase == v.Phase
	p.phase = v.Phase
	switch {
	case v.Phase == migration.Switched && (v.Back == nil || v.Back.State != state.BackFollowing):
		p.told = false // again, when it follows again
	case p.told:
	case v.Phase == migration.Switched:
		p.told = true
		p.ui.note("following back: what is written on the new server comes to the old one, until `walferry fallback` switches back or `walferry finish` gives the way back up")
	case v.Phase == migration.Following && v.Stream.LagSeconds != nil && *v.Stream.LagSeconds <= 1 && !v.ByItself:
		p.told = true
		p.ui.note("caught up: run `walferry cutover` when ready (`walferry cutover --dry-run` rehearses it)")
	}
}

// line describes the work in progress on one line of at most width columns; 0: of any length. What
// is left goes last.
func (p *progress) line(v migration.Status, width int) string {
	switch v.Phase {
	case migration.Copying:
		parts := []part{
			{4, fmt.Sprintf("%d of %d tables", v.Copy.TablesDone, v.Copy.Tables)},
			{3, bytesText(v.Copy.Bytes) + " of about " + bytesText(v.Copy.BytesTotal)},
			{1, countText(v.Copy.Rows) + " rows"},
			{5, etaText(v)},
		}
		if v.Indexes.TablesDone > 0 {
			parts = append(parts, part{2, fmt.Sprintf("indexes of %d tables", v.Indexes.TablesDone)})
		}
		return fit(width, "copying: ", parts...)
	case migration.Indexing:
		return fit(width, "indexing: ", part{2, v.Step}, part{1, fmt.Sprintf("indexes of %d of %d tables", v.Indexes.TablesDone, v.Indexes.Tables)})
	case migration.Following, migration.Switched:
		head := "following: "
		if v.Phase == migration.Switched {
			head = "following back: "
			if w := v.Back; w == nil {
				return fit(width, "switched: ", part{1, v.Step})
			} else if w.State != state.BackFollowing {
				return fit(width, "the way back: ", part{2, string(w.State) + " since " + w.Since.Local().Format(time.TimeOnly)}, part{1, w.Reason})
			}
			if v.Under != nil && !v.Under.DryRun {
				return fit(width, "falling back: ", part{1, v.Under.Step})
			}
		}
		lag := part{5, "lag not known yet"}
		if s := v.Stream; s.LagSeconds != nil && s.LagBytes != nil {
			lag.text = fmt.Sprintf("lag %s (%s)", secondsText(*s.LagSeconds), bytesText(*s.LagBytes))
		}
		return fit(width, head, part{3, countText(int64(p.rate)) + " transactions/s"}, lag,
			part{1, "applied " + v.Stream.AppliedLSN}, part{2, countText(v.Stream.Transactions) + " transactions"}, part{4, v.Note})
	case migration.Fenced, migration.Drained:
		return "cutting over: " + string(v.Phase)
	case migration.Finished:
		return fit(width, "finished: ", part{2, "the target is open"}, part{1, "doing what comes after the opening"})
	}
	return fit(width, string(v.Phase)+": ", part{1, v.Step})
}

// etaText is how long the copy still takes; empty: nobody knows.
func etaText(v migration.Status) string {
	if v.Copy.ETASeconds == nil {
		return ""
	}
	return "about " + secondsText(*v.Copy.ETASeconds) + " left"
}

func (p *progress) log() {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for n := 1; ; n++ {
		select {
		case <-p.done:
			return
		case <-tick.C:
		}
		v := p.watch()
		p.measure(v)
		p.tell(v)
		if n%int(logInterval/time.Second) == 0 {
			p.ui.logger.Info(p.line(v, 0))
		}
	}
}

// draw shows a bar for each table that is being copied, one for all of them, and below them a line
// that describes the work in progress.
func (p *progress) draw() {
	container := mpb.New(mpb.WithOutput(p.ui.screen), mpb.WithWidth(100), mpb.WithRefreshRate(200*time.Millisecond), mpb.WithAutoRefresh())
	p.ui.draw(func(line string) { fmt.Fprintln(container, line) })
	d := &drawing{p: p, container: container, tables: map[string]*mpb.Bar{}, rows: map[string]int64{}, name: 32, filler: 24, columns: p.columns()}
	if d.columns > 0 && d.columns < 110 {
		d.name, d.filler = max(10, min(24, d.columns/4)), max(5, d.columns/10) // what is left, and the time it takes, come last
	}
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	d.begin()
	for running := true; running; {
		select {
		case <-p.done:
			running = false
		case <-tick.C:
			v := p.watch()
			p.measure(v)
			p.tell(v)
			d.show(v)
		}
	}
	d.end()
	p.ui.draw(nil)
}

// columns is the width of the terminal; 0: it is not known.
func (p *progress) columns() int {
	columns, _, err := term.GetSize(int(p.ui.screen.Fd()))
	if err != nil {
		return 0
	}
	return columns
}

// drawing is the display on the terminal.
type drawing struct {
	p         *progress
	container *mpb.Progress
	status    *mpb.Bar
	total     *mpb.Bar
	tables    map[string]*mpb.Bar

	mu      sync.Mutex
	text    string
	eta     string
	rows    map[string]int64 // rows copied of the tables that have a bar
	columns int              // of the terminal; 0: not known

	name, filler int // columns
}

func (d *drawing) begin() {
	d.status = d.container.New(1, mpb.NopStyle(), mpb.BarPriority(1<<20), mpb.BarRemoveOnComplete(), mpb.PrependDecorators(decor.Any(func(decor.Statistics) string {
		d.mu.Lock()
		defer d.mu.Unlock()
		return d.text
	})))
}

// bar is one that is followed by what it stands for, and by something more that after gives. Of both,
// what is of the lower rank is left out where the terminal is too narrow.
func (d *drawing) bar(name string, total int64, priority int, after func() part) *mpb.Bar {
	return d.container.New(max(total, 1), mpb.BarStyle().Lbound("").Filler("█").Tip("").Padding("░").Rbound(""),
		mpb.BarPriority(priority), mpb.BarRemoveOnComplete(),
		mpb.BarWidth(d.filler),
		mpb.PrependDecorators(decor.Name(name, decor.WC{W: d.name, C: decor.DindentRight})),
		mpb.AppendDecorators(decor.Any(func(s decor.Statistics) string {
			d.mu.Lock()
			defer d.mu.Unlock()
			width := 0
			if d.columns > 0 {
				width = max(1, d.columns-d.name-d.filler-3) // blanks, and the last column, where terminals wrap
			}
			return " " + fit(width, "", part{2, bytesText(s.Current) + " of " + bytesText(s.Total)}, after())
		})))
}

func (d *drawing) show(v migration.Status) {
	columns := d.p.columns()
	d.mu.Lock()
	d.columns, d.text, d.eta = columns, d.p.line(v, max(0, columns-1)), etaText(v)
	for _, t := range v.Tables {
		d.rows[t.Table.Schema+"."+t.Table.Name] = t.Rows
	}
	d.mu.Unlock()
	copying := v.Phase == migration.Copying && v.Copy.TablesDone < v.Copy.Tables
	if copying && d.total == nil {
		d.total = d.bar("all tables", v.Copy.BytesTotal, 1<<19, func() part { return part{3, d.eta} })
	}
	if d.total != nil {
		d.total.SetTotal(max(v.Copy.BytesTotal, v.Copy.Bytes, 1), false)
		d.total.SetCurrent(v.Copy.Bytes)
		if !copying {
			d.total.Abort(true)
			d.total = nil
		}
	}
	running := map[string]bool{}
	if copying {
		for i, t := range v.Tables {
			name := t.Table.Schema + "." + t.Table.Name
			if len(d.tables) >= 12 && d.tables[name] == nil {
				continue
			}
			running[name] = true
			if d.tables[name] == nil {
				d.tables[name] = d.bar(shorten(clean(name), d.name), t.BytesTotal, i, func() part { return part{1, countText(d.rows[name]) + " rows"} })
			}
			d.tables[name].SetTotal(max(t.BytesTotal, t.Bytes, 1), false)
			d.tables[name].SetCurrent(t.Bytes)
		}
	}
	for name, bar := range d.tables {
		if !running[name] {
			bar.Abort(true)
			delete(d.tables, name)
			d.mu.Lock()
			delete(d.rows, name)
			d.mu.Unlock()
		}
	}
}

func (d *drawing) end() {
	for _, bar := range d.tables {
		bar.Abort(true)
	}
	if d.total != nil {
		d.total.Abort(true)
	}
	d.status.Abort(true)
	d.container.Wait()
}

func shorten(name string, width int) string {
	runes := []rune(name)
	if len(runes) <= width {
		return name
	}
	return "…" + string(runes[len(runes)-width+1:])
}
