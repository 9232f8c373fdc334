package main

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"

	"github.com/walferry/walferry/internal/cutover"
	"github.com/walferry/walferry/internal/migration"
	"github.com/walferry/walferry/internal/session"
	"github.com/walferry/walferry/internal/state"
)

// switchLine is the last line of a terminal while a switch is waited for: the step that migrate is at, and whom that waits for. What is
// told meanwhile is written above it.
type switchLine struct {
	ui *ui

	mu   sync.Mutex
	text string // that is shown
}

// switchLookInterval is how often the record is looked at: often enough for whoever waits, and seldom enough to cost nothing.
const switchLookInterval = 300 * time.Millisecond

// watchSwitch shows the line until done is called. Where there is no terminal nothing is shown, and the target is not asked.
func watchSwitch(ctx context.Context, ui *ui, config migration.Config) (done func()) {
	if !ui.terminal {
		return func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	l := &switchLine{ui: ui}
	var watching sync.WaitGroup
	watching.Go(func() { l.watch(ctx, config) })
	ui.draw(l.above)
	return func() {
		cancel()
		watching.Wait()
		ui.draw(nil)
		l.show("")
	}
}

// watch looks at the record. A target that does not answer is for the command itself to tell.
func (l *switchLine) watch(ctx context.Context, config migration.Config) {
	target, err := session.OpenLink(ctx, session.Config{DSN: config.Target, Application: cmp.Or(config.Name, "default") + " watch"}, nil)
	if err != nil {
		return
	}
	defer target.Close()
	store := state.At(target, cmp.Or(config.Name, "default"))
	tick := time.NewTicker(switchLookInterval)
	defer tick.Stop()
	for since, was := time.Now(), ""; ; {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		r, err := store.Load(ctx)
		if err != nil || r == nil {
			continue
		}
		under := r.Live.Under
		if under == nil {
			l.show("")
			continue
		}
		if under.Step != was {
			since, was = time.Now(), under.Step
		}
		l.show(underText(under, time.Since(since), l.columns()))
	}
}

func (l *switchLine) columns() int {
	columns, _, err := term.GetSize(int(l.ui.screen.Fd()))
	if err != nil || columns < 20 {
		return 80
	}
	return columns
}

// underText is the line: less than some columns, as terminals wrap in the last one.
func underText(u *state.Under, since time.Duration, columns int) string {
	text := "  " + cmp.Or(u.Step, "begins")
	if since >= time.Second {
		text += fmt.Sprintf(" %.0f s", since.Seconds())
	}
	var holders []string
	for _, h := range u.Holders {
		holders = append(holders, h.String())
	}
	who, short := "", ""
	if len(holders) > 0 {
		who = "; " + strings.TrimSpace(u.WaitsFor) + " " + strings.Join(holders, ", ")
		short = "; waiting for " + strings.Join(holders, ", ") // what it is that they hold was told above
	}
	runes := []rune(strings.ReplaceAll(clean(text+who), "\n", " "))
	if len(runes) >= columns {
		runes = []rune(strings.ReplaceAll(clean(text+short), "\n", " "))
	}
	if len(runes) >= columns {
		runes = append(runes[:columns-2], '…')
	}
	return string(runes)
}

// show replaces the line.
func (l *switchLine) show(text string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if text == l.text {
		return
	}
	l.text = text
	fmt.Fprint(l.ui.stderr, "\r\x1b[K"+text)
}

// above writes a line above it.
func (l *switchLine) above(line string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	fmt.Fprint(l.ui.stderr, "\r\x1b[K"+line+"\n"+l.text)
}

// stepsNamed is how many steps of each part of a switch are named, the longest first.
const stepsNamed = 4

// stepsText is what the parts of a switch took: before writes were refused, meanwhile, and after.
func stepsText(taken []state.Taken) string {
	refused := cutover.InFence(taken)
	first, last := slices.Index(refused, true), len(refused)-1
	for last >= 0 && !refused[last] {
		last--
	}
	if first < 0 {
		return ""
	}
	var b strings.Builder
	for _, part := range []struct {
		name  string
		steps []state.Taken
	}{{"before", taken[:first]}, {"refused", taken[first : last+1]}, {"after", taken[last+1:]}} {
		var total int64
		for _, t := range part.steps {
			total += t.MS
		}
		steps := slices.DeleteFunc(slices.Clone(part.steps), func(t state.Taken) bool { return t.MS == 0 })
		slices.SortStableFunc(steps, func(a, b state.Taken) int { return cmp.Compare(b.MS, a.MS) })
		var named []string
		for _, t := range steps[:min(len(steps), stepsNamed)] {
			named = append(named, fmt.Sprintf("%s %d", t.Name, t.MS))
		}
		fmt.Fprintf(&b, "  %-8s %6s ms", part.name, countText(total))
		if len(named) > 0 {
			b.WriteString(": " + strings.Join(named, ", ") + more(len(steps)-stepsNamed))
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// dumb reports whether a terminal says that it cannot move its cursor.
func dumb() bool { return os.Getenv("TERM") == "dumb" }
