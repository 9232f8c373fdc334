package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"time"
)

// run is one measured run.
type run struct {
	by      string
	took    time.Duration
	tool    usage // the process of the tool; zero where the server is the tool
	sender  usage // the source's walsender; of a copy all sessions of the source that have ended
	backend usage // the target's backend that applies; of a copy all sessions of the target
}

// side is what is measured: it copies, or follows a backlog, from the source to the target until
// all is there. Without a target nothing is applied.
type side func(ctx context.Context, source, target string) (run, error)

func (r run) say() {
	say("  %-12s %6.2f s, CPU: tool %.1f s, source %.1f s, target %.1f s; RSS %d MiB",
		r.by, r.took.Seconds(), r.tool.cpu.Seconds(), r.sender.cpu.Seconds(), r.backend.cpu.Seconds(), r.tool.rss>>20)
}

// result is a workload with its runs: ours[i] and theirs[i] were made in turn.
type result struct {
	id, what, goal string
	peer           string
	unit           string
	count          int
	ours, theirs   []run
	walls          []run // walferry on the same backlog, applying nothing: what the source alone takes
	failed         error // of the peer: it is left out from then on
}

func median(d []time.Duration) time.Duration {
	s := slices.Sorted(slices.Values(d))
	if len(s)%2 == 1 {
		return s[len(s)/2]
	}
	return (s[len(s)/2-1] + s[len(s)/2]) / 2
}

// middle is the median of something of each run.
func middle(runs []run, of func(run) time.Duration) time.Duration {
	var all []time.Duration
	for _, r := range runs {
		all = append(all, of(r))
	}
	return median(all)
}

func took(r run) time.Duration { return r.took }

// setting says where a table was measured.
func (b *bench) setting() string {
	return fmt.Sprintf("PostgreSQL %d to %d; %s; shared_buffers %s. Written by `make bench`.", b.source.Major, b.target.Major, machine(), b.buffers)
}

// measured says when and how a row was.
func (b *bench) measured(pairs int) string {
	text := time.Now().Format("2006-01-02")
	if pairs > 1 {
		text += fmt.Sprintf(", %d pairs", pairs)
	}
	if b.scale != 1 {
		text += fmt.Sprintf(", scale %g: that part of what is described", b.scale)
	}
	return text
}

var comparisons = []string{
	"", "workload", "to reach", "walferry", "peer", "times as fast, by medians", "pair by pair", "decode only, and its share of walferry's time",
	"CPU s, walferry: tool, source, target", "CPU s, peer: tool, source, target", "RSS of the tool", "measured",
}

// report makes a row of each result, under comparisons.
func (b *bench) report(results ...*result) [][]string {
	var rows [][]string
	for _, r := range results {
		if r.failed != nil {
			rows = append(rows, []string{r.id, r.what, r.goal, "", r.peer + " failed", "", "", "", "", "", "", b.measured(0)})
			continue
		}
		ours, theirs := middle(r.ours, took), middle(r.theirs, took)
		least, most := 1e9, 0.0
		for i := range min(len(r.ours), len(r.theirs)) {
			ratio := r.theirs[i].took.Seconds() / r.ours[i].took.Seconds()
			least, most = min(least, ratio), max(most, ratio)
		}
		var rss int64
		for _, one := range r.ours {
			rss = max(rss, one.tool.rss)
		}
		cpu := func(runs []run) string {
			return fmt.Sprintf("%.1f, %.1f, %.1f",
				middle(runs, func(r run) time.Duration { return r.tool.cpu }).Seconds(),
				middle(runs, func(r run) time.Duration { return r.sender.cpu }).Seconds(),
				middle(runs, func(r run) time.Duration { return r.backend.cpu }).Seconds())
		}
		wall := ""
		if len(r.walls) > 0 {
			alone := middle(r.walls, took)
			wall = fmt.Sprintf("%.1f s, %.2f", alone.Seconds(), alone.Seconds()/ours.Seconds())
		}
		rate := func(d time.Duration) string {
			return fmt.Sprintf("%.1f s, %.0f %s", d.Seconds(), float64(r.count)/d.Seconds(), r.unit)
		}
		rows = append(rows, []string{
			r.id, r.what, r.goal, rate(ours), r.peer + ": " + rate(theirs), fmt.Sprintf("%.2f", theirs.Seconds()/ours.Seconds()),
			fmt.Sprintf("%.2f to %.2f", least, most), wall, cpu(r.ours), cpu(r.theirs), fmt.Sprintf("%d MiB", rss>>20), b.measured(len(r.theirs)),
		})
	}
	return rows
}

// machine describes what the numbers were measured on.
func machine() string {
	cpu := runtime.GOARCH
	if info, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(info)) {
			if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
				cpu = strings.TrimSpace(value)
				break
			}
		}
	}
	kernel := ""
	if out, err := exec.Command("uname", "-sr").Output(); err == nil {
		kernel = ", " + strings.TrimSpace(string(out))
	}
	return fmt.Sprintf("%d cores of %s%s, all on one machine over loopback", runtime.NumCPU(), cpu, kernel)
}
