package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"slices"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/cutover"
	"github.com/walferry/walferry/internal/pgtest"
)

// streamWorkload is a backlog that is followed.
type streamWorkload struct {
	id, what string
	unit     string // of count
	goal     string
	count    func(*bench) int
	setup    func(ctx context.Context, b *bench, dsn string) error         // makes and fills the tables
	write    func(ctx context.Context, b *bench, dsn string) error         // the backlog
	decode   bool                                                          // nothing is applied: against a plain receive loop
	way      func(context.Context, *pgtest.Server, string) (string, error) // to the source; nil: over TCP as it is
	alone    bool                                                          // one run, of walferry
	peer     *streamPeer                                                   // nil: native
	fenced   bool                                                          // walferry applies through a fence: against walferry without one
}

const (
	slot      = "bench"
	backlogs  = "bench_base" // the slot that keeps the backlog; copied for each run
	published = "bench"
	// The last transaction of a backlog writes this row: where it is visible, all is.
	doneTable = `create table bench_done (id int primary key)`
	writeDone = `insert into bench_done values (1)`
)

// stream runs a workload: the source's database and the backlog once, and for each run a copy of
// the slot and of the target's database as they were before it.
func (b *bench) stream(ctx context.Context, w streamWorkload) (*result, error) {
	say("%s: %s", w.id, w.what)
	source, err := b.fresh(ctx, b.source, "source", "")
	if err != nil {
		return nil, err
	}
	if w.peer != nil {
		if _, err := exec.LookPath(w.peer.program); err != nil {
			say("  left out: %v", err)
			return nil, nil
		}
	}
	defer b.dropSlots(context.WithoutCancel(ctx))
	if err := w.setup(ctx, b, source); err != nil {
		return nil, fmt.Errorf("load: %w", err)
	}
	if err := b.prepareBacklog(ctx, w, source); err != nil {
		return nil, err
	}
	if w.way != nil { // the others are to go on without TLS
		defer execute(context.WithoutCancel(ctx), b.source.URL("postgres"), `alter system reset ssl`, `select pg_reload_conf()`) //nolint:errcheck // the server is thrown away
	}
	if w.peer != nil {
		if err := w.peer.prepare(b, ctx, source); err != nil {
			say("  left out: %s: %v", w.peer.name, err)
			return nil, nil
		}
	}
	end, err := w.writeAll(ctx, b, source)
	if err != nil {
		return nil, err
	}
	r := &result{id: w.id, what: w.what, goal: w.goal, unit: w.unit, count: w.count(b), peer: "native"}
	switch {
	case w.decode:
		r.peer = "receive loop"
	case w.peer != nil:
		r.peer = w.peer.name
	case w.fenced:
		r.peer = unfenced
	}
	var want string
	if !w.decode {
		if want, err = contents(ctx, source); err != nil {
			return nil, err
		}
	}
	once := func(follow side, applies bool) (run, error) { return b.once(ctx, w, source, want, follow, applies) }
	ours, theirs := b.sides(w, end)
	if w.alone {
		got, err := once(ours, true)
		r.ours = []run{got}
		return r, err
	}
	return b.pairsOf(ctx, w, r, ours, theirs, once)
}

// prepareBacklog creates the publication and the slot that keeps the backlog, and unless nothing is applied
// the target's database as it is before.
func (b *bench) prepareBacklog(ctx context.Context, w streamWorkload, source string) error {
	what := "all tables"
	if w.peer != nil {
		what = "tables in schema public" // it may have tables of its own
	}
	err := execute(ctx, source, doneTable, `create publication `+published+` for `+what,
		`select pg_create_logical_replication_slot('`+backlogs+`', 'pgoutput')`)
	if err != nil || w.decode {
		return err
	}
	template, err := b.fresh(ctx, b.target, "template", "")
	if err != nil {
		return err
	}
	if err := b.dumpTo(ctx, source, template); err != nil {
		return fmt.Errorf("copy to the target: %w", err)
	}
	return execute(ctx, template, `vacuum analyze`)
}

// writeAll writes the backlog, and returns where its last transaction ends.
func (w streamWorkload) writeAll(ctx context.Context, b *bench, source string) (end string, err error) {
	begun := time.Now()
	if err := w.write(ctx, b, source); err != nil {
		return "", fmt.Errorf("write the backlog: %w", err)
	}
	if err := execute(ctx, source, writeDone); err != nil {
		return "", err
	}
	if end, err = text(ctx, source, `select pg_current_wal_lsn()::text`); err != nil {
		return "", err
	}
	if err := execute(ctx, source, `checkpoint`); err != nil {
		return "", err
	}
	say("  backlog written in %.1f s", time.Since(begun).Seconds())
	return end, nil
}

// sides returns what is compared in a workload whose backlog ends at a position.
func (b *bench) sides(w streamWorkload, end string) (ours, theirs side) {
	switch {
	case w.decode:
		return b.decodeWalferry, b.decodePlain
	case w.fenced:
		return b.followThroughFence, func(ctx context.Context, source, target string) (run, error) {
			r, err := b.followWalferry(ctx, source, target)
			r.by = unfenced
			return r, err
		}
	case w.peer != nil:
		return b.followWalferry, func(ctx context.Context, source, target string) (run, error) {
			r, err := w.peer.follow(b, ctx, source, target, end)
			r.by = w.peer.name
			return r, err
		}
	}
	return b.followWalferry, b.followNative
}

// pairsOf runs both sides in turn, and adds the runs to r.
func (b *bench) pairsOf(ctx context.Context, w streamWorkload, r *result, ours, theirs side, once func(follow side, applies bool) (run, error)) (*result, error) {
	native := !w.decode && w.peer == nil && !w.fenced
	if native {
		// The server's shared memory is touched for the first time and WAL files are made, which
		// costs the first one.
		say("  the first run, which does not count:")
		if _, err := once(theirs, true); err != nil {
			return nil, err
		}
	}
	for i := range b.pairs {
		sides := []struct {
			follow side
			to     *[]run
		}{{ours, &r.ours}, {theirs, &r.theirs}}
		if i%2 == 1 { // neither is always the one that comes second
			slices.Reverse(sides)
		}
		for _, side := range sides {
			got, err := once(side.follow, !w.decode)
			if err != nil && w.peer != nil && side.to == &r.theirs && ctx.Err() == nil {
				say("  %s failed and is left out: %v", w.peer.name, err)
				return nil, nil
			}
			if err != nil {
				return nil, err
			}
			*side.to = append(*side.to, got)
		}
		if native {
			got, err := once(b.decodeOnly, false)
			if err != nil {
				return nil, err
			}
			r.walls = append(r.walls, got)
		}
	}
	return r, nil
}

// once is one run, on a slot and a target of its own. With applies the target must have the
// contents wanted afterwards.
func (b *bench) once(ctx context.Context, w streamWorkload, source, want string, follow side, applies bool) (got run, err error) {
	target := ""
	if applies {
		if target, err = b.fresh(ctx, b.target, "target", "template"); err != nil {
			return got, err
		}
	}
	if err := execute(ctx, source, `select pg_copy_logical_replication_slot('`+backlogs+`', '`+slot+`')`); err != nil {
		return got, err
	}
	through := source
	if w.way != nil {
		if through, err = w.way(ctx, b.source, source); err != nil {
			return got, err
		}
	}
	if got, err = follow(ctx, through, target); err != nil {
		return got, err
	}
	if applies {
		if err := holds(ctx, got.by, target, want); err != nil {
			return got, err
		}
	}
	got.say()
	return got, b.dropSlot(ctx, source, slot)
}

// followWalferry applies the backlog with the decoder and the applier in a process of their own.
func (b *bench) followWalferry(ctx context.Context, source, target string) (run, error) {
	return b.measure(ctx, "walferry", source, target, "apply", `select pid from pg_stat_activity where application_name = '`+childApplication+`' and datname = 'target'`)
}

// unfenced is who follows a backlog beside followThroughFence.
const unfenced = "walferry, no fence"

// followThroughFence is followWalferry to a target that refuses everybody's writes but the applier's.
func (b *bench) followThroughFence(ctx context.Context, source, target string) (run, error) {
	const pass = "bench"
	conn, err := pgx.Connect(ctx, target)
	if err != nil {
		return run{}, err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	f := cutover.Fence{Name: "bench", Pass: pass}
	if f.Tables, err = catalog.Tables(ctx, conn); err != nil {
		return run{}, err
	}
	if _, err := conn.Exec(ctx, `create schema if not exists walferry`); err != nil {
		return run{}, err
	}
	if err := f.Prepare(ctx, conn); err != nil {
		return run{}, err
	}
	if _, _, err := f.Raise(ctx, conn, time.Minute); err != nil {
		return run{}, err
	}
	if err := f.Seal(ctx, conn); err != nil {
		return run{}, err
	}
	u, err := url.Parse(target)
	if err != nil {
		return run{}, err
	}
	query := u.Query()
	query.Set(cutover.PassSetting, pass)
	u.RawQuery = query.Encode()
	return b.followWalferry(ctx, source, u.String())
}

func (b *bench) decodeWalferry(ctx context.Context, source, _ string) (run, error) {
	return b.measure(ctx, "walferry", source, "", "decode", "")
}

func (b *bench) decodeOnly(ctx context.Context, source, _ string) (run, error) {
	return b.measure(ctx, "decode only", source, "", "decode", "")
}

func (b *bench) decodePlain(ctx context.Context, source, _ string) (run, error) {
	return b.measure(ctx, "receive loop", source, "", "receive", "")
}

// measure runs a child until the target has the last row, or the child ends by itself.
func (b *bench) measure(ctx context.Context, by, source, target, mode, backend string) (run, error) {
	begun := time.Now()
	cmd, err := startChild(ctx, mode, source, target)
	if err != nil {
		return run{}, err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	r := run{by: by}
	sender := `select active_pid from pg_replication_slots where slot_name = '` + slot + `'`
	if target == "" {
		// The child stops when it has seen the last row, so its use is read as long as it runs.
		for {
			select {
			case err := <-ended:
				r.took = time.Since(begun)
				r.tool = usageAfter(cmd)
				return r, err
			case <-time.After(50 * time.Millisecond):
				if pid := number(ctx, source, sender); pid > 0 {
					r.sender = usageOf(pid)
				}
			}
		}
	}
	if r.took, err = awaitDone(ctx, target, begun, ended); err == nil {
		r.sender, r.backend = usageOf(number(ctx, source, sender)), usageOf(number(ctx, target, backend))
		r.tool = usageOf(cmd.Process.Pid)
	}
	cmd.Process.Signal(syscall.SIGTERM) //nolint:errcheck // it may have ended
	if e := <-ended; err == nil {
		err = e
	}
	return r, err
}

// followNative applies the backlog with a subscription.
func (b *bench) followNative(ctx context.Context, source, target string) (r run, err error) {
	r.by = "native"
	if err := subscribe(ctx, source, target); err != nil {
		return r, err
	}
	begun := time.Now()
	if err := execute(ctx, target, `alter subscription bench enable`); err != nil {
		return r, err
	}
	if r.took, err = awaitDone(ctx, target, begun, nil); err != nil {
		return r, err
	}
	r.sender = usageOf(number(ctx, source, `select active_pid from pg_replication_slots where slot_name = '`+slot+`'`))
	r.backend = usageOf(number(ctx, target, `select pid from pg_stat_subscription where subname = 'bench'`))
	return r, unsubscribe(ctx, target)
}

// startChild starts this program again for one kind of work.
func startChild(ctx context.Context, mode, source, target string) (*exec.Cmd, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, self, childArgument, mode)
	cmd.Env = append(os.Environ(), "WALFERRY_SOURCE="+source, "WALFERRY_TARGET="+target)
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	return cmd, cmd.Start()
}

// subscribe makes a subscription to the slot, which is not enabled yet.
func subscribe(ctx context.Context, source, target string) error {
	return execute(ctx, target, `create subscription bench connection `+catalog.Literal(source)+` publication `+published+
		` with (create_slot = false, slot_name = '`+slot+`', copy_data = false, enabled = false)`)
}

// unsubscribe drops it and leaves the slot.
func unsubscribe(ctx context.Context, target string) error {
	return execute(ctx, target, `alter subscription bench disable`, `alter subscription bench set (slot_name = none)`, `drop subscription bench`)
}

// awaitDone waits until the last row is visible on the target.
func awaitDone(ctx context.Context, target string, begun time.Time, ended <-chan error) (time.Duration, error) {
	conn, err := pgx.Connect(ctx, target)
	if err != nil {
		return 0, err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	for {
		var done bool
		if err := conn.QueryRow(ctx, `select exists (select from bench_done)`).Scan(&done); err != nil {
			return 0, err
		}
		if done {
			return time.Since(begun), nil
		}
		select {
		case err := <-ended:
			return 0, errors.Join(errors.New("the process has ended before its work was done"), err)
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-time.After(5 * time.Millisecond):
		}
	}
}
