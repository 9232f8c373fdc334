package applier

import (
	"context"
	"math"
	"time"

	"github.com/walferry/walferry/decoder"
)

// How groups follow each other. A group is sent at once when none is in flight, and when it is
// full. A small one is also sent while others are in flight, as many as the round trip has room
// for, at the pace at which the target finishes them: then nothing waits for the network, and
// nothing queues up at the target. Otherwise it grows: what arrives while the target is busy takes
// fewer statements and commits together.
const (
	smallGroup    = 100              // changes
	smallInterval = time.Millisecond // from the one before, at least
	flightsMax    = 16
	lookInterval  = time.Millisecond // at what has arrived for a group that cannot go yet
)

// groups applies the transactions that have arrived, and those that arrive, until one is in pieces,
// the gate closes, ctx ends or something fails. It does not wait for the results of a group before
// it sends the next: each statement fails on the server unless it does what it must, and then its
// COMMIT and all that follows is skipped or finds that the progress row has not moved. A group that
// fails in this way is applied again with each result checked, which identifies the change at
// fault.
func (r *run) groups(ctx context.Context) error {
	if err := r.applier.retry(ctx, r.applier.ready); err != nil {
		return err
	}
	if r.applier.converging() {
		r.upcoming(true)
		return r.careful(ctx, nil)
	}
	r.applier.session.facts.prune()
	work, cancel := linger(ctx, finishTimeout)
	defer cancel()
	// Describe the target's tables for what has arrived: that is impossible while groups are in
	// flight.
	if err := r.applier.session.resolve(work, &r.applier.config, r.upcoming(true)...); err != nil {
		return r.careful(ctx, r.applier.rollback(work, err))
	}
	s := r.applier.session
	o := &overlap{applier: r.applier, config: &r.applier.config, run: r, facts: s.facts, pipe: s.pipe(work)}
	o.gather()
	err := o.loop(ctx)
	if first := o.pipe.end(); first != nil {
		err = first
	}
	o.land()
	if !s.conn.IsClosed() {
		r.applier.doubts = nil
	}
	misfit := err != nil && len(o.flying) > 0 && o.flying[0].folding != nil && r.applier.misfit(err)
	o.giveBack()
	switch {
	case err == nil:
		return nil
	case misfit || !transient(err):
		r.applier.counts.failed.Add(1)
	case ctx.Err() == nil:
		r.applier.counts.failure()
		r.applier.log.Info("target failed; trying again", "error", err, "applied", r.applier.Applied())
	}
	return r.careful(ctx, r.applier.rollback(work, err))
}

// careful applies the next group, however long it takes, and checks every result before it commits.
// The error before only says that this is needed; if there is no group it is returned, unless it is
// transient.
func (r *run) careful(ctx context.Context, before error) error {
	group := r.upcoming(false)
	switch {
	case len(group) > 0:
		r.ahead = r.ahead[len(group):]
		return r.group(ctx, group)
	case before == nil, transient(before):
		return nil // the loop connects again
	}
	return before
}

// upcoming returns the group that could be made of what comes next; with poll, also of what is
// still in the inbox.
func (r *run) upcoming(poll bool) []*decoder.Tx {
	var f flight
	for !f.full(&r.applier.config) {
		n := len(f.items)
		if n == len(r.ahead) && !(poll && r.poll()) || !r.passable(r.ahead[n].tx) {
			break
		}
		f.add(r.ahead[n])
	}
	return transactions(f.items)
}

func transactions(items []item) []*decoder.Tx {
	txs := make([]*decoder.Tx, len(items))
	for i, it := range items {
		txs[i] = it.tx
	}
	return txs
}

// passable reports whether a Tx is whole and the gate lets it through.
func (r *run) passable(tx *decoder.Tx) bool {
	return whole(tx) && tx.CommitLSN < r.applier.gate.limit()
}

// poll reads one more item from the inbox, if there is one.
func (r *run) poll() bool {
	select {
	case it, ok := <-r.in.items:
		if ok {
			r.in.took(it)
			r.ahead = append(r.ahead, it)
		}
		return ok
	default:
		return false
	}
}

// overlap keeps several groups in flight to the target.
type overlap struct {
	applier *Applier
	config  *Config // the applier's
	run     *run
	facts   *facts // of the session whose connection the pipe has
	pipe    *pipe

	flying []*flight // oldest first
	bytes  int       // of flying
	landed int64     // the pipe's Syncs that have been handled
	sent   time.Time // when the last one was
	next   *flight   // being gathered

	arrived time.Time     // when the last one landed
	busy    time.Duration // that the target takes for a group, smoothed
}

// flight is a group that is being gathered, or in flight.
type flight struct {
	items    []item
	changes  int // in items
	bytes    int // of items
	from, to Progress
	sent     time.Time
	folding  *folding // nil: nothing is folded
	err      error    // of folding
}

// loop returns when all that was sent has landed, or with an error.
func (o *overlap) loop(ctx context.Context) error {
	done, stop := ctx.Done(), false
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		o.draw(stop)
		due, wait := o.due()
		if due && !stop {
			if err := o.send(); err != nil {
				return err
			}
			continue
		}
		if len(o.flying) == 0 && (stop || o.blocked() || o.applier.gate.limit() != math.MaxUint64) {
			return nil
		}
		items := o.run.in.items
		switch {
		case stop || o.next.full(o.config) || len(o.run.ahead) > 0:
			items = nil
		case len(o.next.items) > 0:
			items, wait = nil, min(wait, lookInterval) // do not wake up for each one that arrives
		}
		timer.Reset(wait)
		select {
		case <-done:
			done, stop = nil, true
		case <-o.applier.gate.changed:
			stop = true
		case <-o.pipe.news:
			o.land()
		case <-o.pipe.failed:
			return o.pipe.err
		case it, ok := <-items:
			if !ok {
				stop = true // the caller sees it again
				continue
			}
			o.run.in.took(it)
			o.run.ahead = append(o.run.ahead, it)
		case <-timer.C:
		}
	}
}

// gather starts the next group.
func (o *overlap) gather() {
	from := o.applier.Progress()
	if n := len(o.flying); n > 0 {
		from = o.flying[n-1].to
	}
	o.next = &flight{from: from, to: from}
	if o.facts.replica && o.applier.folds.tried() {
		o.next.folding = o.facts.folding(true)
	}
}

func (f *flight) full(c *Config) bool {
	return f.changes >= c.GroupChanges || f.bytes >= c.GroupBytes || len(f.items) >= c.GroupChanges
}

func (f *flight) add(it item) {
	f.items = append(f.items, it)
	f.changes += len(it.tx.Changes)
	f.bytes += it.bytes
}

// takes reports whether a Tx may go into the next group.
func (o *overlap) takes(tx *decoder.Tx) bool {
	return o.run.passable(tx) && len(o.facts.unknown(tx)) == 0
}

// blocked reports whether what comes next cannot be in a group that is sent now.
func (o *overlap) blocked() bool { return len(o.run.ahead) > 0 && !o.takes(o.run.head()) }

// draw adds what has arrived to the next group.
func (o *overlap) draw(stop bool) {
	for !stop && !o.next.full(o.config) && (len(o.run.ahead) > 0 || o.run.poll()) && o.takes(o.run.head()) {
		it := o.run.take()
		f := o.next
		if there(it.tx, f.to.Applied) {
			if there(it.tx, o.applier.Applied()) {
				o.run.passed(it.tx)
				o.run.ack()
			}
			continue // the target has it, or it is in flight
		}
		f.add(it)
		f.to.add(it.tx, len(it.tx.Changes))
		if f.folding != nil && f.err == nil {
			f.err = f.folding.add(it.tx)
		}
	}
}

// due reports whether the next group is to be sent now, and if not, after how long at the latest to
// ask again.
func (o *overlap) due() (now bool, wait time.Duration) {
	const long = time.Hour
	f := o.next
	switch {
	case len(f.items) == 0:
		return false, long
	case len(o.flying) == 0:
		return true, 0
	case len(o.flying) >= flightsMax || o.bytes+f.bytes > 2*o.config.GroupBytes:
		return false, long
	case f.full(o.config):
		return true, 0
	}
	interval := max(smallInterval, o.busy)
	if f.changes > smallGroup || len(o.flying) > int(o.facts.roundTrip/interval) {
		return false, long
	}
	wait = interval - time.Since(o.sent)
	return wait <= 0, wait
}

// learn updates the estimate of how long the target is busy with a group.
func (o *overlap) learn(f *flight) {
	now := time.Now()
	took := now.Sub(f.sent) - o.facts.roundTrip
	if since := now.Sub(o.arrived); since < took {
		took = since
	}
	o.busy += (max(0, took) - o.busy) / 8
	o.arrived = now
}

// send sends the next group, with its COMMIT.
func (o *overlap) send() error {
	f := o.next
	body, err := f.plan(o.applier)
	if err != nil {
		return err
	}
	o.flying = append(o.flying, f)
	o.bytes += f.bytes
	o.sent = time.Now()
	f.sent = o.sent
	o.applier.doubts = append(o.applier.doubts, f.to.Applied)
	o.gather()
	if err := o.pipe.send(o.facts.head(true, o.config.Name, f.from, f.to), body); err != nil {
		return err
	}
	call(o.applier.hooks.beforeCommit)
	end := o.facts.batch(true)
	end.commit()
	if err := o.pipe.send(end); err != nil {
		return err
	}
	return o.pipe.sync()
}

// plan returns what has to be sent.
func (f *flight) plan(a *Applier) (*batch, error) {
	if folded := a.mayFold(f.changes); !folded || f.folding == nil {
		f.folding = nil
		return a.session.facts.batchOf(false, true, transactions(f.items)...)
	}
	if f.err != nil {
		return nil, f.err
	}
	return f.folding.end()
}

// land records which groups are durable.
func (o *overlap) land() {
	synced := o.pipe.synced.Load()
	if o.landed == synced {
		return
	}
	for ; o.landed < synced; o.landed++ {
		f := o.flying[0]
		o.flying = o.flying[1:]
		o.bytes -= f.bytes
		o.learn(f)
		o.applier.setProgress(f.to)
		o.applier.doubts = o.applier.doubts[1:]
		call(o.applier.hooks.afterCommit)
		if f.folding != nil {
			o.applier.folds.succeeded()
		}
		txs := transactions(f.items)
		for _, tx := range txs {
			o.run.passed(tx)
		}
		o.applier.counts.durable(txs)
	}
	o.run.ack()
}

// giveBack puts what has not landed back at the head.
func (o *overlap) giveBack() {
	var items []item
	for _, f := range append(o.flying, o.next) {
		items = append(items, f.items...)
	}
	o.run.ahead = append(items, o.run.ahead...)
}
