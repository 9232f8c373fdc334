package main

import (
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
	sender  usage // the source's walsender
	backend usage // the target's backend that applies
}

// result is a workload with its runs: ours[i] and theirs[i] were made in turn.
type result struct {
	id, what, goal string
	peer           string
	unit           string
	count          int
	ours, theirs   []run
	walls          []run // walferry on the same backlog, applying nothing: what the source alone takes
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

// header says when, where and how a section was measured.
func (b *bench) header(w *strings.Builder) {
	fmt.Fprintf(w, "%s; PostgreSQL %d to %d; %s. Written by `make bench`%s.", time.Now().Format("2006-01-02"), b.source.Major, b.target.Major, machine(), b.flags())
	if b.scale != 1 {
		fmt.Fprintf(w, " The numbers in the descriptions are those of scale 1: %g of each was run.", b.scale)
	}
	fmt.Fprint(w, "\n\n")
}

// report writes a table of workloads in markdown.
func report(w *strings.Builder, results []*result) {
	fmt.Fprintln(w, "| | workload | to reach | walferry | peer | times as fast, by medians | pair by pair | decode only, and its share of walferry's time | CPU s, walferry: tool, walsender, target | CPU s, peer: tool, walsender, target | RSS of the tool |")
	fmt.Fprintln(w, "|---|---|---|---|---|---|---|---|---|---|---|")
	for _, r := range results {
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
		fmt.Fprintf(w, "| %s | %s | %s | %s | %s: %s | %.2f | %.2f to %.2f | %s | %s | %s | %d MiB |\n", r.id, r.what, r.goal,
			rate(ours), r.peer, rate(theirs), theirs.Seconds()/ours.Seconds(), least, most, wall, cpu(r.ours), cpu(r.theirs), rss>>20)
	}
}

func (b *bench) flags() string {
	if len(os.Args) <= 3 { // -out and its file alone
		return ""
	}
	return " with BENCH='" + strings.Join(os.Args[3:], " ") + "'"
}

// machine says what the numbers were measured on.
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

// A document has a section for each kind of workload, between two lines:
const (
	begin = "<!-- begin %s: written by make bench -->"
	end   = "<!-- end -->"
)

func replaceSection(path, name, tables string) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	begin := fmt.Sprintf(begin, name)
	before, rest, ok := strings.Cut(string(text), begin)
	_, after, closed := strings.Cut(rest, end)
	if !ok || !closed {
		return fmt.Errorf("%s has no lines %q and %q", path, begin, end)
	}
	return os.WriteFile(path, []byte(before+begin+"\n"+tables+end+after), 0o644)
}
