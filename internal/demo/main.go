// Demo moves a live database with the walferry binary, as a person would, and shows what it sees:
// `make demo`.
//
// It starts two throwaway servers, fills the source with the shop database, lets shop's writers
// loose on it, and runs check, migrate, status, verify, cutover, verify and cleanup. The writers
// are never told: they switch to the target by themselves when the fence refuses them. The demo
// fails if anything is not as promised.
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
	flag.IntVar(&d.size, "mb", 300, "size of the shop database in MB")
	flag.IntVar(&d.sourceMajor, "source", 13, "major version of the source")
	flag.IntVar(&d.targetMajor, "target", 17, "major version of the target")
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

	source, target string // connection strings
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
	d.say("a PostgreSQL %d source and a PostgreSQL %d target", d.sourceMajor, d.targetMajor)
	source, err := pgtest.Launch(ctx, pgtest.Options{Major: d.sourceMajor, Password: sourcePassword, Fsync: true})
	if err != nil {
		return err
	}
	defer source.Close()
	target, err := pgtest.Launch(ctx, pgtest.Options{Major: d.targetMajor, Password: targetPassword, Fsync: true})
	if err != nil {
		return err
	}
	defer target.Close()
	if d.source, err = createDatabase(ctx, source); err != nil {
		return err
	}
	if d.target, err = createDatabase(ctx, target); err != nil {
		return err
	}

	began := time.Now()
	if err := shop.Load(ctx, d.source, shop.Options{Size: d.size}); err != nil {
		return err
	}
	d.say("the shop database is loaded: about %d MB in %s; now its writers begin, and do not stop", d.size, time.Since(began).Round(time.Second))
	writers, err := shop.Start(ctx, shop.Config{Source: d.source, Target: d.target, Clients: clients, TPS: 10, Batch: 40 * time.Second, Seed: uint64(time.Now().UnixNano())})
	if err != nil {
		return err
	}
	readerCtx, stopReader := context.WithCancel(ctx)
	defer stopReader()
	reader := &shop.Reader{DSN: d.target, Migration: "default"}
	read := make(chan error, 1)
	go func() { read <- reader.Run(readerCtx) }()

	if err := d.move(ctx); err != nil {
		writers.Stop()
		return err
	}
	wait.Sleep(ctx, 3*time.Second) //nolint:errcheck // of work on the new database; what follows sees that ctx has ended
	report := writers.Stop()
	stopReader()
	if err := <-read; err != nil {
		return fmt.Errorf("a reader of the target saw what cannot be: %w", err)
	}
	if err := writers.Check(ctx, d.target); err != nil {
		return fmt.Errorf("the target is not what the writers were told: %w", err)
	}
	d.summary(report, reader.Snapshots())
	return d.command(ctx, "cleanup")
}

// move runs the commands. All but migrate end before the next one is run.
func (d *demo) move(ctx context.Context) error {
	// The log without key is only ever inserted into; the user vouches for that.
	selection := []string{"--insert-only", "shop.events"}
	if err := d.command(ctx, append([]string{"check"}, selection...)...); err != nil {
		return err
	}
	migrate, err := d.begin(ctx, append([]string{"migrate", "--verify"}, selection...)...)
	if err != nil {
		return err
	}
	defer migrate.stop()
	if err := d.waitFollowing(ctx, migrate); err != nil {
		return err
	}
	for _, args := range [][]string{{"status"}, {"verify"}, {"cutover", "--dry-run"}, {"cutover"}} {
		if err := d.command(ctx, args...); err != nil {
			return err
		}
	}
	if err := migrate.wait(); err != nil {
		return fmt.Errorf("walferry migrate: %w", err)
	}
	if err := d.command(ctx, "verify"); err != nil {
		return err
	}
	return d.command(ctx, "status")
}

func (d *demo) summary(r shop.Report, snapshots int64) {
	d.say("the writers: %d transactions committed, %d of them on the source and %d on the target", r.Committed(), r.Source, r.Target)
	d.say("  %d rolled back on purpose, %d failed and reported to their callers, %d in doubt; the fence refused %d attempts", r.Aborted, r.Failed, r.Unknown, r.Refused)
	d.say("  %d of %d clients went over by themselves; from the last commit on the source to the first on the target took each at most %s", r.Switched, clients+1, r.Switch.Round(time.Millisecond))
	d.say("none lost, none twice: the target holds every transaction that a client was told is committed, and no other")
	d.say("a reader of the target looked %d times and always saw a state that the source had had", snapshots)
}

var errNotFollowing = errors.New("migrate ended before it followed")
