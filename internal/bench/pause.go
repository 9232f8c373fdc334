package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walferry/walferry/internal/cutover"
	"github.com/walferry/walferry/internal/migration"
)

// W1: for how long a switch refuses writes, with a way back and without. Each is a migration of its own, so that none profits
// from the one before, with clients that write until they are refused.
const (
	pauseTables  = 10
	pauseClients = 4
	pausePeriod  = 20 * time.Millisecond // between two transactions of a client
)

// pauses runs pairs switches of either kind, in turn.
func (b *bench) pauses(ctx context.Context) ([][]string, error) {
	say("W1: writes refused by a switch, with a way back and without")
	modes := []migration.FallBackMode{migration.NoFallBack, migration.FallBackRequire}
	taken := map[migration.FallBackMode][]time.Duration{}
	for i := range b.pairs {
		for _, mode := range modes {
			pause, err := b.pause(ctx, mode)
			if err != nil {
				return nil, fmt.Errorf("--fall-back %s: %w", mode, err)
			}
			if i > 0 { // the first of each touches the servers' memory for the first time
				taken[mode] = append(taken[mode], pause)
			}
			say("  --fall-back %-8s %4d ms", mode, pause.Milliseconds())
		}
		slices.Reverse(modes) // neither is always the one that comes second
	}
	row := []string{"W1", fmt.Sprintf("%d tables, %d clients that write", pauseTables, pauseClients), "with a way back ≤ 50 ms longer, by medians"}
	if b.pairs < 2 {
		return nil, errors.New("-pairs must be 2 at least: the first one does not count")
	}
	for _, mode := range []migration.FallBackMode{migration.FallBackRequire, migration.NoFallBack} {
		all := taken[mode]
		row = append(row, fmt.Sprintf("%d ms, %d to %d", median(all).Milliseconds(), slices.Min(all).Milliseconds(), slices.Max(all).Milliseconds()))
	}
	longer := median(taken[migration.FallBackRequire]) - median(taken[migration.NoFallBack])
	return [][]string{append(row, fmt.Sprintf("%d ms", longer.Milliseconds()), b.measured(b.pairs-1))}, nil
}

var pauseColumns = []string{"", "workload", "to reach", "with a way back: median, least to most", "without", "longer by", "measured"}

// pause migrates a small database that is written to, and returns for how long the switch refused writes.
func (b *bench) pause(ctx context.Context, mode migration.FallBackMode) (pause time.Duration, err error) {
	source, err := b.fresh(ctx, b.source, "source", "")
	if err != nil {
		return 0, err
	}
	target, err := b.fresh(ctx, b.target, "target", "")
	if err != nil {
		return 0, err
	}
	for i := range pauseTables {
		if err := execute(ctx, source, fmt.Sprintf(`create table t%d (id serial primary key, n int not null default 0)`, i)); err != nil {
			return 0, err
		}
	}
	c := migration.Config{Source: source, Target: target, Name: "bench", FallBack: mode}
	// The servers may keep all WAL: what it is measured for ends within seconds.
	c.MaxRetainedWALTarget = 1 << 40
	following := make(chan struct{})
	ended := make(chan error, 1)
	running, stop := context.WithCancel(ctx)
	defer func() {
		stop()
		err = errors.Join(err, <-ended, forget(context.WithoutCancel(ctx), c))
	}()
	go func() {
		_, err := migration.Migrate(running, c, migration.Observer{Started: func(watch func() migration.Status) {
			go func() {
				for watch().Phase != migration.Following && running.Err() == nil {
					time.Sleep(10 * time.Millisecond)
				}
				close(following)
			}()
		}})
		ended <- err
	}()
	select {
	case <-following:
	case err := <-ended:
		ended <- nil
		return 0, errors.Join(errors.New("migrate has ended before it followed"), err)
	}
	var writers sync.WaitGroup
	failed := make(chan error, pauseClients)
	for i := range pauseClients {
		writers.Go(func() { failed <- writeUntilFenced(running, source, i) })
	}
	time.Sleep(time.Second)
	result, err := migration.Cutover(ctx, c, nil)
	if err != nil {
		return 0, err
	}
	writers.Wait()
	for range pauseClients {
		err = errors.Join(err, <-failed)
	}
	if mode != migration.NoFallBack {
		if _, err := migration.Finish(ctx, c); err != nil {
			return 0, err
		}
	}
	// It ends by itself now; what it ends with is returned by the function above.
	select {
	case last := <-ended:
		ended <- last
	case <-ctx.Done():
	}
	return time.Duration(result.PauseMS) * time.Millisecond, err
}

// forget removes what a migration has left on the servers.
func forget(ctx context.Context, c migration.Config) error {
	_, err := migration.Cleanup(ctx, c)
	return err
}

// writeUntilFenced is a client that commits one transaction after the other until it is refused.
func writeUntilFenced(ctx context.Context, dsn string, client int) error {
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	for n := 0; ctx.Err() == nil; n++ {
		table := fmt.Sprintf("t%d", (n+client)%pauseTables)
		_, err := conn.PgConn().Exec(ctx, strings.ReplaceAll(`insert into % default values; update % set n = n + 1 where id = (select max(id) from %)`, "%", table)).ReadAll()
		var refused *pgconn.PgError
		switch {
		case errors.As(err, &refused) && refused.Code == cutover.SQLState:
			return nil
		case err != nil:
			return err
		}
		time.Sleep(pausePeriod)
	}
	return nil
}
