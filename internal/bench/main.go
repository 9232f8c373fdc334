// Command bench compares walferry with what a user would use instead. Each workload is run by
// walferry and by a peer in turn, on the same backlog or the same database, on servers of its own
// that flush what they commit; only the ratio of runs made in turn means anything.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"strconv"
	"syscall"
	"time"

	"github.com/walferry/walferry/internal/pgtest"
	"github.com/walferry/walferry/internal/schema"
)

// bench is one run of the program.
type bench struct {
	pairs     int
	scale     float64
	walferry  string // the binary
	programs  string // folder of the client programs that know the source
	source    *pgtest.Server
	target    *pgtest.Server
	workloads *regexp.Regexp
	out       string // the document; empty: none
	buffers   string // shared_buffers of either server
}

func main() {
	if len(os.Args) > 1 && os.Args[1] == childArgument {
		child(os.Args[2:])
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := benchmark(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func benchmark(ctx context.Context) error {
	b := &bench{}
	var only, dir string
	var source, target int
	flag.IntVar(&b.pairs, "pairs", 5, "runs of each side, in turn")
	flag.Float64Var(&b.scale, "scale", 1, "factor for the size of workloads; numbers of others than 1 are for trying out")
	flag.StringVar(&b.walferry, "walferry", "bin/walferry", "the binary to measure")
	flag.StringVar(&only, "run", ".*", "which workloads, a regular expression: S1, C.")
	flag.StringVar(&b.out, "out", "", "markdown file whose tables are replaced between its markers; empty: none")
	flag.StringVar(&dir, "dir", "", "folder for the servers' data; empty: a temporary one")
	flag.IntVar(&source, "source", 15, "major version of the source; pg_dump must know it")
	flag.IntVar(&target, "target", 17, "major version of the target")
	flag.Parse()
	if flag.NArg() > 0 {
		return fmt.Errorf("unknown argument %q", flag.Arg(0))
	}
	var err error
	if b.workloads, err = regexp.Compile("^(?:" + only + ")$"); err != nil {
		return fmt.Errorf("-run: %w", err)
	}
	client, err := schema.Find(ctx, source, source)
	if err != nil {
		return err
	}
	b.programs = filepath.Dir(client.PgDump)
	if dir == "" {
		if dir, err = os.MkdirTemp("/var/tmp", "walferry-bench-"); err != nil {
			return err
		}
		defer os.RemoveAll(dir) //nolint:errcheck // what is left is in a folder for temporary files
		if err := os.Chmod(dir, 0o755); err != nil {
			return err
		}
	}
	total := pgtest.Memory("MemTotal")
	if total == 0 {
		return errors.New("how much memory the machine has is not known")
	}
	b.buffers = strconv.FormatUint(total/8>>20, 10) + "MB" // of the two servers together: a quarter of the machine's, as the manual advises
	settings := map[string]string{
		"shared_buffers": b.buffers, "max_wal_size": "8GB", "checkpoint_timeout": "1h", "max_connections": "200", "autovacuum": "off",
		"wal_sender_timeout": "60s", "max_worker_processes": "20", "max_logical_replication_workers": "12", "max_sync_workers_per_subscription": "4",
	}
	for _, s := range []struct {
		major int
		name  string
		to    **pgtest.Server
	}{{source, "source", &b.source}, {target, "target", &b.target}} {
		*s.to, err = pgtest.Launch(ctx, pgtest.Options{Major: s.major, Dir: filepath.Join(dir, s.name), Fsync: true, Settings: settings})
		if err != nil {
			return err
		}
		defer (*s.to).Close() //nolint:errcheck // thrown away
	}
	return b.all(ctx, only)
}

// all runs the workloads, and publishes each when it is done.
func (b *bench) all(ctx context.Context, only string) error {
	measured := false
	one := func(id, section string, head []string, run func() ([][]string, error)) error {
		if !b.workloads.MatchString(id) {
			return nil
		}
		measured = true
		rows, err := run()
		if len(rows) > 0 && err == nil {
			err = b.publish(section, head, rows)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", id, err)
		}
		return nil
	}
	for _, w := range streamWorkloads() {
		err := one(w.id, "stream", comparisons, func() ([][]string, error) {
			r, err := b.stream(ctx, w)
			if r == nil {
				return nil, err
			}
			return b.report(r), nil
		})
		if err != nil {
			return err
		}
	}
	err := one("S7", "live", delays, func() ([][]string, error) {
		results, err := b.latency(ctx)
		return b.reportLatency(results), err
	})
	if err != nil {
		return err
	}
	if err := one("W1", "pause", pauseColumns, func() ([][]string, error) { return b.pauses(ctx) }); err != nil {
		return err
	}
	for _, w := range copyWorkloads() {
		err := one(w.id, "copy", comparisons, func() ([][]string, error) {
			results, err := b.copy(ctx, w)
			if err != nil {
				return nil, err
			}
			return b.report(results...), nil
		})
		if err != nil {
			return err
		}
	}
	for _, id := range []string{"G1", "G2", "G3"} {
		err := one(id, "growth", slopes, func() ([][]string, error) {
			points, err := b.growths(ctx, id)
			return b.reportGrowth(points), err
		})
		if err != nil {
			return err
		}
	}
	if !measured {
		return fmt.Errorf("no workload matches %q", only)
	}
	return nil
}

// say prints what is being done.
func say(format string, args ...any) {
	fmt.Printf(time.Now().Format("15:04:05 ")+format+"\n", args...)
}

// n is a number of a workload at the scale.
func (b *bench) n(at1 int) int { return max(1, int(float64(at1)*b.scale)) }
