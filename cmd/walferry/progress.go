package main

import (
	"fmt"
	"sync"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
	"golang.org/x/term"

	"github.com/walferry/walferry/internal/migration"
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

	told      bool // that it has caught up
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
	if p.lastAt.IsZero() {
		p.lastAt, p.lastCount = now, v.Stream.Transactions
	}
	if passed := now.Sub(p.lastAt); passed >= time.Second {
		p.rate = float64(v.Stream.Transactions-p.lastCount) / passed.Seconds()
		p.lastAt, p.lastCount = now, v.Stream.Transactions
	}
}

// caughtUp notes once that the cutover can be requested.
func (p *progress) caughtUp(v migration.Status) {
	if p.told || v.Phase != migration.Following || v.Stream.LagSeconds == nil || *v.Stream.LagSeconds > 1 || v.ByItself {
		return
	}
	p.told = true
	p.ui.note("caught up: run `walferry cutover` when ready (`walferry cutover --dry-run` rehearses it)")
}

// line describes the work in progress on one line.
func (p *progress) line(v migration.Status) string {
	switch v.Phase {
	case migration.Copying:
		text := fmt.Sprintf("copying: %d of %d tables, %s of about %s, %s rows", v.Copy.TablesDone, v.Copy.Tables, bytesText(v.Copy.Bytes), bytesText(v.Copy.BytesTotal), countText(v.Copy.Rows))
		if v.Copy.ETASeconds > 0 {
			text += ", about " + secondsText(v.Copy.ETASeconds) + " left"
		}
		if v.Indexes.TablesDone > 0 {
			text += fmt.Sprintf("; indexes of %d tables", v.Indexes.TablesDone)
		}
		return text
	case migration.Indexing:
		return fmt.Sprintf("indexing: %s (indexes of %d of %d tables)", v.Step, v.Indexes.TablesDone, v.Indexes.Tables)
	case migration.Following:
		lag := "not known yet"
		if s := v.Stream; s.LagSeconds != nil && s.LagBytes != nil {
			lag = fmt.Sprintf("%s (%s)", secondsText(*s.LagSeconds), bytesText(*s.LagBytes))
		}
		text := fmt.Sprintf("following: %s transactions/s, lag %s, applied %s, %s transactions", countText(int64(p.rate)), lag, v.Stream.AppliedLSN, countText(v.Stream.Transactions))
		if v.Note != "" {
			text += ", " + v.Note
		}
		return text
	case migration.Fenced, migration.Drained:
		return "cutting over: " + string(v.Phase)
	case migration.Finished:
		return "finished: the target is open; doing what comes after the opening"
	}
	return string(v.Phase) + ": " + v.Step
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
		p.caughtUp(v)
		if n%int(logInterval/time.Second) == 0 {
			p.ui.logger.Info(p.line(v))
		}
	}
}

// draw shows a bar for each table that is being copied, one for all of them, and below them a line
// that describes the work in progress.
func (p *progress) draw() {
	container := mpb.New(mpb.WithOutput(p.ui.screen), mpb.WithWidth(100), mpb.WithRefreshRate(200*time.Millisecond), mpb.WithAutoRefresh())
	p.ui.draw(func(line string) { fmt.Fprintln(container, line) })
	d := &drawing{p: p, container: container, tables: map[string]*mpb.Bar{}, rows: map[string]int64{}, name: 32, filler: 24}
	if columns, _, err := term.GetSize(int(p.ui.screen.Fd())); err == nil && columns < 110 {
		d.name, d.filler = max(10, min(24, columns/4)), max(5, columns/10) // what is left, and the time it takes, come last
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
			p.caughtUp(v)
			d.show(v)
		}
	}
	d.end()
	p.ui.draw(nil)
}

// drawing is the display on the terminal.
type drawing struct {
	p         *progress
	container *mpb.Progress
	status    *mpb.Bar
	total     *mpb.Bar
	tables    map[string]*mpb.Bar

	mu   sync.Mutex
	text string
	eta  string
	rows map[string]int64 // rows copied of the tables that have a bar

	name, filler int // columns
}

func (d *drawing) begin() {
	d.status = d.container.New(1, mpb.NopStyle(), mpb.BarPriority(1<<20), mpb.BarRemoveOnComplete(), mpb.PrependDecorators(decor.Any(func(decor.Statistics) string {
		d.mu.Lock()
		defer d.mu.Unlock()
		return d.text
	})))
}

func (d *drawing) bar(name string, total int64, priority int, after decor.Decorator) *mpb.Bar {
	return d.container.New(max(total, 1), mpb.BarStyle().Lbound("").Filler("█").Tip("").Padding("░").Rbound(""),
		mpb.BarPriority(priority), mpb.BarRemoveOnComplete(),
		mpb.BarWidth(d.filler),
		mpb.PrependDecorators(decor.Name(name, decor.WC{W: d.name, C: decor.DindentRight})),
		mpb.AppendDecorators(decor.Any(func(s decor.Statistics) string {
			return fmt.Sprintf(" %s of %s", bytesText(s.Current), bytesText(s.Total))
		}), after))
}

func (d *drawing) show(v migration.Status) {
	d.mu.Lock()
	d.text = d.p.line(v)
	d.eta = ""
	if v.Copy.ETASeconds > 0 {
		d.eta = ", about " + secondsText(v.Copy.ETASeconds) + " left"
	}
	for _, t := range v.Tables {
		d.rows[t.Table.Schema+"."+t.Table.Name] = t.Rows
	}
	d.mu.Unlock()
	copying := v.Phase == migration.Copying && v.Copy.TablesDone < v.Copy.Tables
	if copying && d.total == nil {
		d.total = d.bar("all tables", v.Copy.BytesTotal, 1<<19, decor.Any(func(decor.Statistics) string {
			d.mu.Lock()
			defer d.mu.Unlock()
			return d.eta
		}))
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
				rows := decor.Any(func(decor.Statistics) string {
					d.mu.Lock()
					defer d.mu.Unlock()
					return ", " + countText(d.rows[name]) + " rows"
				})
				d.tables[name] = d.bar(shorten(clean(name), d.name), t.BytesTotal, i, rows)
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
