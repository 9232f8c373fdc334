package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/internal/pgtest"
)

// S7: changes are followed as they are made. It is measured from the moment at which the source's
// client has its COMMIT answered to that at which another session of the target sees the row, both
// by one clock.
const (
	liveClients = 10
	liveRate    = 500                    // transactions a second, of all clients together
	liveSeconds = 20                     // at scale 1
	liveDelay   = 5 * time.Millisecond   // the round trip to both servers, in the second part
	liveLook    = 250 * time.Microsecond // between two looks at the target
)

// latencies are those of one run.
type latencies struct {
	p50, p99, max time.Duration
	behind        time.Duration // after the last commit, until all was there
}

// latencyResult is S7 with or without delay.
type latencyResult struct {
	id, what, goal string
	ours, theirs   []latencies
}

func (b *bench) latency(ctx context.Context) ([]*latencyResult, error) {
	say("S7: following live, %d transactions a second", liveRate)
	source, err := b.fresh(ctx, b.source, "source", "")
	if err != nil {
		return nil, err
	}
	defer b.dropSlots(context.WithoutCancel(ctx))
	tables := []string{
		`create table live (client int primary key, n int not null)`, `insert into live select i, 0 from generate_series(1, ` + fmt.Sprint(liveClients) + `) i`,
		`create table live_log (client int, n int, at timestamptz default clock_timestamp(), primary key (client, n))`,
	}
	if err := execute(ctx, source, append(tables, `create publication `+published+` for table live, live_log`)...); err != nil {
		return nil, err
	}
	template, err := b.fresh(ctx, b.target, "template", "")
	if err != nil {
		return nil, err
	}
	if err := execute(ctx, template, tables...); err != nil {
		return nil, err
	}
	var results []*latencyResult
	for _, part := range []struct {
		id, what, goal string
		roundTrip      time.Duration
	}{
		{"S7", "following live at 500 transactions/s, all on one machine", "p50 ≤ native's", 0},
		{"S7d", "the same with 5 ms round trip from walferry to both servers; native: from the target to the source", "p50 ≤ 10 ms: the delay and 5 ms", liveDelay},
	} {
		r := &latencyResult{id: part.id, what: part.what, goal: part.goal}
		for i := range b.pairs {
			runs := []struct {
				follow func(context.Context, string, string) (func() error, error)
				far    []bool // source, target
				by     string
				to     *[]latencies
			}{{b.liveWalferry, []bool{true, true}, "walferry", &r.ours}, {b.liveNative, []bool{true, false}, "native", &r.theirs}}
			if i%2 == 1 {
				runs[0], runs[1] = runs[1], runs[0]
			}
			for _, one := range runs {
				got, err := b.live(ctx, source, part.roundTrip, one.far, one.follow)
				if err != nil {
					return nil, fmt.Errorf("%s: %w", one.by, err)
				}
				*one.to = append(*one.to, got)
				say("  %-4s %-12s p50 %.2f ms, p99 %.2f ms, max %.1f ms, behind %.1f ms", part.id, one.by, ms(got.p50), ms(got.p99), ms(got.max), ms(got.behind))
			}
		}
		results = append(results, r)
	}
	return results, nil
}

// live is one run. far says whether the source and the target are a round trip away.
func (b *bench) live(ctx context.Context, source string, roundTrip time.Duration, far []bool, follow func(context.Context, string, string) (func() error, error)) (l latencies, err error) {
	if err := execute(ctx, source, `truncate live_log`, `update live set n = 0`); err != nil {
		return l, err
	}
	target, err := b.fresh(ctx, b.target, "target", "template")
	if err != nil {
		return l, err
	}
	if err := execute(ctx, source, `select pg_create_logical_replication_slot('`+slot+`', 'pgoutput')`); err != nil {
		return l, err
	}
	ends := []string{source, target}
	for k, far := range far {
		if far && roundTrip > 0 {
			proxy, err := pgtest.NewProxy(ends[k])
			if err != nil {
				return l, err
			}
			defer proxy.Close()
			proxy.Set(pgtest.Network{Delay: roundTrip / 2})
			ends[k] = proxy.Through(ends[k])
		}
	}
	stop, err := follow(ctx, ends[0], ends[1])
	if err != nil {
		return l, err
	}
	l, err = b.watch(ctx, source, target)
	if err := errors.Join(err, stop()); err != nil {
		return l, err
	}
	return l, b.dropSlot(ctx, source, slot)
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// liveWalferry follows with a process of its own until stop.
func (b *bench) liveWalferry(ctx context.Context, source, target string) (stop func() error, err error) {
	cmd, err := startChild(ctx, "apply", source, target)
	if err != nil {
		return nil, err
	}
	return func() error {
		cmd.Process.Signal(syscall.SIGTERM) //nolint:errcheck // it may have ended
		return cmd.Wait()
	}, nil
}

// liveNative follows with a subscription until stop.
func (b *bench) liveNative(ctx context.Context, source, target string) (stop func() error, err error) {
	if err := subscribe(ctx, source, target); err != nil {
		return nil, err
	}
	return func() error { return unsubscribe(ctx, target) }, execute(ctx, target, `alter subscription bench enable`)
}

// watch makes transactions on the source and looks for them on the target. The first second is not
// measured.
func (b *bench) watch(ctx context.Context, source, target string) (l latencies, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	interval := time.Second * liveClients / liveRate
	total := max(3, b.n(liveSeconds)) * int(time.Second/interval)
	warm := int(time.Second / interval)
	var mu sync.Mutex
	committed := make([][]time.Time, liveClients) // of n = 1, 2, ...
	var writers sync.WaitGroup
	failures := make(chan error, liveClients+1)
	begun := time.Now()
	for c := range liveClients {
		writers.Go(func() {
			err := writeLive(ctx, source, c, total, begun, interval, func() {
				mu.Lock()
				committed[c] = append(committed[c], time.Now())
				mu.Unlock()
			})
			if err != nil {
				failures <- err
			}
		})
	}
	conn, err := pgx.Connect(ctx, target)
	if err != nil {
		return l, err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	seen := make([]int, liveClients)
	var all []time.Duration
	var last time.Time
	deadline := begun.Add(time.Duration(total)*interval + time.Minute)
	for left := liveClients; left > 0; {
		rows, err := conn.Query(ctx, `select client, n from live`)
		if err != nil {
			return l, err
		}
		now := time.Now()
		var client, n int
		_, err = pgx.ForEachRow(rows, []any{&client, &n}, func() error {
			c := client - 1
			mu.Lock()
			defer mu.Unlock()
			// A row may be there before its client has been told of the commit.
			for ; seen[c] < min(n, len(committed[c])); seen[c]++ {
				if at := committed[c][seen[c]]; seen[c] >= warm {
					all = append(all, max(0, now.Sub(at)))
				}
				if seen[c] == total-1 {
					left--
					last = now
				}
			}
			return nil
		})
		if err != nil {
			return l, err
		}
		if now.After(deadline) {
			return l, errors.New("the target has not got all that was committed within a minute")
		}
		select {
		case err := <-failures:
			return l, err
		case <-ctx.Done():
			return l, ctx.Err()
		case <-time.After(liveLook):
		}
	}
	writers.Wait()
	var end time.Time
	for _, of := range committed {
		if at := of[len(of)-1]; at.After(end) {
			end = at
		}
	}
	slices.Sort(all)
	return latencies{p50: all[len(all)/2], p99: all[len(all)*99/100], max: all[len(all)-1], behind: max(0, last.Sub(end))}, nil
}

// writeLive is a client of the source: it commits total transactions, one each interval, and calls
// committed after each.
func writeLive(ctx context.Context, source string, client, total int, begun time.Time, interval time.Duration, committed func()) error {
	conn, err := pgx.Connect(ctx, source)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	for n := 1; n <= total && ctx.Err() == nil; n++ {
		time.Sleep(time.Until(begun.Add(time.Duration(n)*interval + time.Duration(client)*interval/liveClients)))
		batch := &pgx.Batch{}
		batch.Queue(`update live set n = $2 where client = $1`, client+1, n)
		batch.Queue(`insert into live_log (client, n) values ($1, $2)`, client+1, n)
		if err := conn.SendBatch(ctx, batch).Close(); err != nil { // one transaction
			return err
		}
		committed()
	}
	return nil
}

var delays = []string{
	"", "workload", "to reach", "walferry: p50, p99 (medians of runs)", "native: p50, p99", "p50 of each pair, walferry / native",
	"all there after the last commit, walferry, at most", "measured",
}

// reportLatency makes a row of each result, under delays.
func (b *bench) reportLatency(results []*latencyResult) (rows [][]string) {
	middle := func(runs []latencies, of func(latencies) time.Duration) float64 {
		var d []time.Duration
		for _, r := range runs {
			d = append(d, of(r))
		}
		return ms(median(d))
	}
	p50, p99 := func(l latencies) time.Duration { return l.p50 }, func(l latencies) time.Duration { return l.p99 }
	for _, r := range results {
		var pairs []string
		var behind time.Duration
		for i := range r.ours {
			pairs = append(pairs, fmt.Sprintf("%.2f / %.2f", ms(r.ours[i].p50), ms(r.theirs[i].p50)))
			behind = max(behind, r.ours[i].behind)
		}
		both := func(runs []latencies) string {
			return fmt.Sprintf("%.2f ms, %.2f ms", middle(runs, p50), middle(runs, p99))
		}
		rows = append(rows, []string{r.id, r.what, r.goal, both(r.ours), both(r.theirs), strings.Join(pairs, "; "), fmt.Sprintf("%.1f ms", ms(behind)), b.measured(len(r.ours))})
	}
	return rows
}
