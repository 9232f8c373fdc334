// Demo moves a live database with the walferry binary, as a person would, and shows what it sees:
// `make demo`.
//
// It starts two throwaway servers, fills the source with the shop database, lets shop's writers
// loose on it, and runs check, migrate, status, verify, cutover, and, when the writers have worked on the new server for a
// while, fallback, a second cutover, verify, finish and cleanup. The writers are never told: they go where the database is when a
// fence refuses them. The demo fails if anything is not as promised.
//
// With -pgbouncer the writers come through a PgBouncer, by which walferry holds them at each switch: they must not see a single error.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/term"

	"github.com/walferry/walferry/internal/pgtest"
	"github.com/walferry/walferry/internal/shop"
	"github.com/walferry/walferry/internal/wait"
)

func main() {
	d := &demo{color: term.IsTerminal(int(os.Stdout.Fd()))}
	flag.StringVar(&d.walferry, "walferry", "bin/walferry", "the binary")
	flag.IntVar(&d.size, "mb", 60, "size of the shop database in MB")
	flag.IntVar(&d.sourceMajor, "source", 13, "major version of the source")
	flag.IntVar(&d.targetMajor, "target", 17, "major version of the target")
	flag.BoolVar(&d.pooled, "pgbouncer", false, "the writers come through a PgBouncer, which walferry steers")
	flag.StringVar(&d.program, "pgbouncer-program", "", "the program for -pgbouncer; empty: the installed one, or one that make servers has got")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	began := time.Now()
	err := d.run(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
	d.say("done in %s", time.Since(began).Round(time.Second))
}

// demo is one run.
type demo struct {
	walferry                 string
	size                     int
	sourceMajor, targetMajor int
	color                    bool

	pooled  bool
	program string // PgBouncer

	source, target string // connection strings
	bouncer        *pgtest.Bouncer
}

// The passwords hold what has broken other tools.
const (
	sourcePassword = `s@urce:/?#[]% '\&=+$ü`
	targetPassword = `t@rget:/?#[]% '\&=+$ü`
)

// clients is how many connections write; shop's batch is one more.
const clients = 4

func (d *demo) run(ctx context.Context) error {
	var err error
	if d.walferry, err = filepath.Abs(d.walferry); err != nil {
		return err
	}
	stop, err := d.launch(ctx)
	if err != nil {
		return err
	}
	defer stop()

	began := time.Now()
	if err := shop.Load(ctx, d.source, shop.Options{Size: d.size}); err != nil {
		return err
	}
	d.say("the shop database is loaded: about %d MB in %s; now its writers begin, and do not stop", d.size, time.Since(began).Round(time.Second))
	config := shop.Config{Source: d.source, Target: d.target, ToAndFro: true, Clients: clients, TPS: 10, Batch: 15 * time.Second, Seed: uint64(time.Now().UnixNano())}
	if d.pooled {
		if d.program == "" {
			if d.program, err = pgtest.AnyBouncer(); err != nil {
				return err
			}
		}
		if d.bouncer, err = pgtest.LaunchBouncer(d.program, []string{pgtest.Line("app", d.source)}, nil); err != nil {
			return err
		}
		defer d.bouncer.Close()
		config.Source, config.Target = d.bouncer.URL("app"), ""
		d.say("they come through PgBouncer, and know one address: that of app there")
	}
	writers, err := shop.Start(ctx, config)
	if err != nil {
		return err
	}
	readers := []*shop.Reader{{DSN: d.source}, {DSN: d.target, Migration: "default"}}
	reading, stopReading := context.WithCancel(ctx)
	defer stopReading()
	read := make(chan error, len(readers))
	for _, r := range readers {
		go func() { read <- r.Run(reading) }()
	}

	migrate, err := d.move(ctx)
	if err != nil {
		writers.Stop()
		return err
	}
	defer migrate.stop()
	report := writers.Stop()
	// Both servers at one position, after the last commit: the old one has it, too.
	if err := d.command(ctx, "verify"); err != nil {
		return err
	}
	stopReading()
	for range readers {
		if err := <-read; err != nil {
			return fmt.Errorf("a reader saw what cannot be: %w", err)
		}
	}
	for side, dsn := range map[string]string{"new": d.target, "old": d.source} {
		if err := writers.Check(ctx, dsn); err != nil {
			return fmt.Errorf("the %s server is not what the writers were told: %w", side, err)
		}
	}
	if err := d.command(ctx, "finish"); err != nil {
		return err
	}
	if err := migrate.wait(); err != nil {
		return fmt.Errorf("walferry migrate: %w", err)
	}
	if err := d.summary(report, readers[0].Snapshots()+readers[1].Snapshots()); err != nil {
		return err
	}
	return d.command(ctx, "cleanup")
}

// launch starts the two servers, each with an empty database. The returned function ends them.
func (d *demo) launch(ctx context.Context) (stop func(), err error) {
	d.say("a PostgreSQL %d source and a PostgreSQL %d target", d.sourceMajor, d.targetMajor)
	source, err := pgtest.Launch(ctx, pgtest.Options{Major: d.sourceMajor, Password: sourcePassword, Fsync: true})
	if err != nil {
		return nil, err
	}
	password := targetPassword
	if d.pooled {
		password = sourcePassword // PgBouncer has one for both
	}
	target, err := pgtest.Launch(ctx, pgtest.Options{Major: d.targetMajor, Password: password, Fsync: true})
	if err != nil {
		source.Close()
		return nil, err
	}
	stop = func() { target.Close(); source.Close() }
	if d.source, err = createDatabase(ctx, source); err == nil {
		d.target, err = createDatabase(ctx, target)
	}
	if err != nil {
		stop()
		return nil, err
	}
	return stop, nil
}

// move runs the commands up to the second cutover. It returns the migrate that goes on.
func (d *demo) move(ctx context.Context) (*background, error) {
	// The log without key is only ever inserted into; the user vouches for that.
	options := []string{"--insert-only", "shop.events", "--fall-back", "require", "--max-retained-wal-target", "5GB"}
	if d.pooled {
		options = append(options, "--pgbouncer", d.bouncer.URL("pgbouncer"), "--pgbouncer-database", "app", "--pgbouncer-ini", d.bouncer.File)
	}
	if err := d.command(ctx, append([]string{"check"}, options...)...); err != nil {
		return nil, err
	}
	migrate, err := d.begin(ctx, append([]string{"migrate"}, options...)...)
	if err != nil {
		return nil, err
	}
	if err = d.waitFollowing(ctx, migrate); err == nil {
		err = d.switches(ctx)
	}
	if err != nil {
		migrate.stop()
		return nil, err
	}
	return migrate, nil
}

// switches goes to the new server, back, and there again. The writers work for a while wherever the database is.
func (d *demo) switches(ctx context.Context) error {
	for _, args := range [][]string{{"status"}, {"verify"}, {"cutover", "--dry-run"}, {"cutover"}, nil, {"status"}, {"fallback"}, nil, {"cutover"}, nil} {
		if args == nil {
			wait.Sleep(ctx, 2*time.Second) //nolint:errcheck // the next command sees that ctx has ended
			continue
		}
		if err := d.command(ctx, args...); err != nil {
			return err
		}
	}
	return nil
}

// severed reports whether PgBouncer's clients are disconnected on the way back.
func (d *demo) severed() (bool, error) {
	version, err := pgtest.BouncerVersion(d.program)
	return err == nil && pgtest.BouncerKnows(version, 26) && d.sourceMajor < 16 && d.targetMajor >= 16, err
}

// summary tells what the writers have seen. Through a pooler they must have seen nothing.
func (d *demo) summary(r shop.Report, snapshots int64) error {
	if d.pooled {
		severed, err := d.severed()
		if err != nil {
			return err
		}
		d.say("\nthe writers: %d transactions committed through PgBouncer; the longest wait of one was %s", r.Committed(), r.Pause.Round(time.Millisecond))
		if r.Refused != 0 || r.Unknown != 0 || r.Resolved != 0 {
			return fmt.Errorf("clients were to notice nothing: %d attempts were refused, %d commits had no answer", r.Refused, r.Unknown+r.Resolved)
		}
		for class, n := range r.Errors {
			if severed && n <= clients+1 && class == "lost 08P01" {
				d.say("  none refused; each had to connect again once, on the way back: this PgBouncer keeps settings that PostgreSQL %d does not know (docs/switching.md)", d.sourceMajor)
				continue
			}
			return fmt.Errorf("clients were to notice nothing, and %d had an error: %s", n, class)
		}
		if len(r.Errors) == 0 {
			d.say("  none refused, no error")
		}
	} else {
		d.say("\nthe writers: %d transactions committed, %d of them on the old server and %d on the new one", r.Committed(), r.Source, r.Target)
		d.say("  %d rolled back on purpose, %d failed and reported to their callers, %d in doubt; the fences refused %d attempts", r.Aborted, r.Failed, r.Unknown, r.Refused)
		d.say("  they went over, back and over again by themselves, %d times in all; from the last commit on one server to the first on the other took each at most %s", r.Switches, r.Switch.Round(time.Millisecond))
	}
	d.say("none lost, none twice: both servers hold every transaction that a client was told is committed, and no other")
	d.say("readers of both servers looked %d times and always saw a state that the database had had", snapshots)
	return nil
}

var errNotFollowing = errors.New("migrate ended before it followed")
