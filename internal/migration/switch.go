package migration

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/decoder"
	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/cutover"
	"github.com/walferry/walferry/internal/online"
	"github.com/walferry/walferry/internal/schema"
	"github.com/walferry/walferry/internal/state"
)

// CutoverResult is what a cutover, or its rehearsal, measured.
type CutoverResult struct {
	DryRun     bool        `json:"dry_run,omitempty"`
	FencedAt   *time.Time  `json:"fenced_at"`
	DrainedAt  *time.Time  `json:"drained_at"`
	FinishedAt *time.Time  `json:"finished_at"` // nil for a dry run
	PauseMS    int64       `json:"pause_ms"`    // from the first refused write until the target may be written to
	LagMS      int64       `json:"lag_ms"`      // trip of the canary before the fence
	Tables     int         `json:"tables"`
	Sequences  int         `json:"sequences"`
	Already    bool        `json:"already,omitempty"`   // it was done before it was asked for
	ExpectMS   *int64      `json:"expect_ms,omitempty"` // by a rehearsal: its own pause, and what it left out, by measurement
	LeftOut    []LeftOut   `json:"left_out,omitempty"`
	touched    bool        // something was done that has to be undone
	sealed     bool        // there is no way back: the fence has no deadline any more
	position   decoder.LSN // of the fence: every write is before it
	Recopied   []string    `json:"recopied,omitempty"` // --insert-only tables that had been updated after all, and were copied again before the fence
	late       error       // why foreign keys could not be validated
	// Unvalidated are the statements that are still to be run for foreign keys which were created without a look at the rows.
	Unvalidated []string `json:"foreign_keys_to_validate,omitempty"`
	Disabled    []string `json:"disabled,omitempty"` // SQL that enables on the target what the opening could not; empty: nothing is left

	*Comparison // both sides as of the cutover; nil: not asked for
}

// cutover runs the gates, then fence, drain, sequences, seal, finished. Until the
// fence is sealed every failure, and the deadline, un-fences and leaves everything
// as before; the fence also opens by itself, by the source's clock, when this
// process dies. So does the end of wanted, as long as nothing is sealed. After the seal there is only
// the way forward, also for the next run.
func (f *following) cutover(whole, wanted context.Context, o CutoverOptions, step func(string)) (*CutoverResult, error) {
	result := &CutoverResult{DryRun: o.DryRun}
	ctx, cancel := context.WithTimeoutCause(wanted, o.Timeout, &GateError{Problem: fmt.Sprintf("the cutover was not done within %s", o.Timeout), Advice: "give a longer --timeout, or try when there is less load"})
	defer cancel()
	end, err := f.beginCutting(ctx)
	if err != nil {
		return result, err
	}
	defer end()
	lag, err := f.gates(ctx, o, step)
	if err != nil {
		return result, err
	}
	result.LagMS = lag.Milliseconds()
	step(fmt.Sprintf("lag %d ms", result.LagMS))
	if err := f.r.openingGate(ctx, o, step); err != nil {
		return result, err
	}
	if err := f.r.sequenceGate(ctx, o, step); err != nil {
		return result, err
	}
	if o.DryRun && o.NoFence {
		return result, nil
	}
	done := make(chan struct{})
	defer close(done)
	if err := f.settleWords(ctx, done, step); err != nil {
		return result, err
	}
	step("to un-fence by hand, on the source:\n" + cutover.UnfenceSQL(f.r.c.Name))
	conn, err := openSource(ctx, f.r.c, "fence")
	if err != nil {
		return result, err
	}
	defer func() { conn.Close(context.WithoutCancel(ctx)) }()

	result.touched = true
	var since time.Time
	fence, _, err := cutover.NewFence(ctx, conn, f.r.c.Name, f.r.tables)
	fence.Waits = step
	fence.Run = f.r.store.Run()
	if err == nil && !o.DryRun {
		err = f.r.connectProver(ctx)
	}
	defer f.r.closeLateKeys(ctx)
	if err == nil {
		err = f.r.prepareLateKeys(ctx)
	}
	if err == nil {
		err = fence.Prepare(ctx, conn)
	}
	if err == nil {
		err = f.quietMoment(ctx, o, step)
	}
	if err == nil && !o.DryRun {
		err = f.r.advance(ctx, Fenced)
	}
	if err == nil {
		since, err = f.fenceAndDrain(ctx, conn, fence, o, result, step)
	}
	if err == nil && !o.DryRun {
		err = f.finish(ctx, conn, fence, result, step)
	}
	if err != nil || o.DryRun {
		rehearsed := err == nil
		err = f.takeBack(ctx, o, since, result, err, step)
		if rehearsed && err == nil {
			if err := f.measureRest(ctx, result); err != nil {
				step("the real pause is longer than this one by what could not be measured: " + err.Error())
			}
		}
		return result, err
	}
	// Sealed: nothing can be taken back, whatever the deadline says.
	result.sealed = true
	err = within(ctx, 10*time.Minute, func(ctx context.Context) error { return f.r.conclude(ctx, since, result, step) })
	if err != nil {
		return result, err
	}
	f.r.afterOpen(whole, result, step)
	return result, nil
}

// quietMoment waits, for a part of the time there is, until no transaction that has
// written is older than a second and the target is close: what would be waited for
// inside the fence is cheaper to wait for outside.
func (f *following) quietMoment(ctx context.Context, o CutoverOptions, step func(string)) error {
	for end := time.Now().Add(o.Timeout / 4); ; {
		if err := f.r.waitForWriters(ctx, time.Until(end), step); err != nil {
			return err
		}
		lag, err := f.canary(ctx)
		if err != nil || lag < time.Second || time.Now().After(end) {
			return err
		}
	}
}

// lateKeysPatience is how long the source stays closed, when a cutover is taken back, for what is to
// be undone on the target first.
const lateKeysPatience = 5 * time.Second

// takeBack un-fences after a rehearsal, or after a cutover that err has stopped.
func (f *following) takeBack(ctx context.Context, o CutoverOptions, since time.Time, result *CutoverResult, err error, step func(string)) error {
	f.r.prover.close()
	f.r.prover = nil
	f.r.opening.close()
	f.r.opening = nil
	// The caller's time may be over; un-fencing is not for it to stop.
	if err := within(ctx, lateKeysPatience, f.r.store.Mine); errors.Is(err, state.ErrOvertaken) {
		return err
	}
	// While the fence is up nothing comes that cascades could act on. But the source is not kept
	// closed by a target that does not answer, or whose tables somebody has.
	late := within(ctx, lateKeysPatience, f.r.dropLateForeignKeys)
	if late != nil {
		defer f.standStill(ctx)() // until they are gone after all
	}
	back := within(ctx, time.Minute, func(ctx context.Context) error {
		return f.r.unfenceOwn(ctx, func() {
			if !since.IsZero() {
				result.PauseMS = time.Since(since).Milliseconds()
				step("un-fenced")
			}
		}, step)
	})
	if errors.Is(back, state.ErrOvertaken) {
		return back
	}
	var closed *stillFencedError
	if errors.As(back, &closed) {
		f.mu.Lock()
		f.closed = true
		f.mu.Unlock()
		step("UN-FENCING FAILED: migrate goes on trying; run the SQL printed above on the source; unless it was being sealed, the fence also opens by itself at its deadline: " + back.Error())
	}
	if late != nil {
		late = within(ctx, time.Minute, f.r.dropLateForeignKeys)
	}
	back = errors.Join(late, back)
	if !o.DryRun {
		back = errors.Join(back, within(ctx, time.Minute, func(ctx context.Context) error { return f.r.advance(ctx, Following) }))
	}
	if err == nil {
		return back
	}
	if back != nil {
		return errors.Join(err, back)
	}
	gate := gateOf(ctx, err)
	return &GateError{Problem: gate.Problem + "; un-fenced, everything is as before", Advice: gate.Advice}
}

// gateOf is the gate that err, or the end of the time that ctx is bound by, was to a cutover.
func gateOf(ctx context.Context, err error) *GateError {
	gate := &GateError{Problem: err.Error(), Advice: "mend it and ask again"}
	var hint interface{ Hint() string }
	if errors.As(err, &hint) && hint.Hint() != "" {
		gate.Advice = hint.Hint()
	}
	var deadline *GateError
	if ctx.Err() == nil || !errors.As(context.Cause(ctx), &deadline) {
		if errors.As(err, &deadline) {
			return deadline
		}
		return gate
	}
	// Most of what was being done then ends with the same words.
	gate = &GateError{Problem: deadline.Problem, Advice: deadline.Advice}
	if doing := strings.TrimSuffix(strings.TrimSuffix(err.Error(), deadline.Problem), ": "); doing != "" {
		gate.Problem += ": " + doing
	}
	if waited := (*cutover.WaitError)(nil); errors.As(err, &waited) {
		gate.Advice = waited.Hint() + "; or " + deadline.Advice
	}
	return gate
}

// gates are the conditions for a cutover.
func (f *following) gates(ctx context.Context, o CutoverOptions, step func(string)) (lag time.Duration, err error) {
	r := f.r
	if phase := r.phase(); phase != Following {
		return 0, &GateError{Problem: fmt.Sprintf("the migration is in phase %s, not following", phase), Advice: "wait until it follows"}
	}
	// Before the barrier, which does not come back where the publication was altered.
	if err := r.source.Do(ctx, func(conn *pgx.Conn) error { return r.identityGate(ctx, conn) }); err != nil {
		return 0, err
	}
	lagCtx, cancel := context.WithTimeout(ctx, o.MaxLag)
	lag, err = f.canary(lagCtx)
	cancel()
	if err != nil || lag > o.MaxLag {
		gate := &GateError{Problem: fmt.Sprintf("the target lags: what was committed on the source had not come through after %s (--max-lag)", o.MaxLag), Advice: "wait until `walferry status` shows less lag, or allow more"}
		if holders := r.inApplierWay(ctx); len(holders) > 0 {
			gate.Problem += "; the applier waits for a lock on the target, held by " + online.List(holders)
			gate.Advice = "on the target, " + online.EndHint(holders) + "; then ask again"
		}
		return lag, gate
	}
	err = r.source.Do(ctx, func(conn *pgx.Conn) error {
		if err := noPrepared(ctx, conn); err != nil {
			return err
		}
		return r.writerGates(ctx, conn)
	})
	if err != nil {
		return lag, err
	}
	if err := r.comparisonGate(ctx, o); err != nil {
		return lag, err
	}
	return lag, r.targetGates(ctx, o.Without, step)
}

// inApplierWay are those whose locks on the target the applier waits for now, also when the time is over.
func (r *runner) inApplierWay(ctx context.Context) (holders []online.Holder) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	err := r.target.Do(ctx, func(conn *pgx.Conn) error {
		rows, err := conn.Query(ctx, `
select `+online.HolderColumns+`
  from pg_stat_activity w cross join lateral unnest(pg_blocking_pids(w.pid)) as l(pid) left join pg_stat_activity a on a.pid = l.pid
 where w.datname = current_database() and w.application_name = $1
 group by l.pid order by 4 desc`, "walferry "+r.c.Name+" apply")
		if err != nil {
			return err
		}
		holders, err = pgx.CollectRows(rows, pgx.RowToStructByPos[online.Holder])
		return err
	})
	if err != nil {
		r.c.Logger.Debug("look who is in the applier's way", "error", err)
	}
	return holders
}

// noPrepared: the source has no prepared transaction.
func noPrepared(ctx context.Context, conn *pgx.Conn) error {
	var prepared []string
	if err := conn.QueryRow(ctx, `select coalesce(array_agg(gid order by prepared), '{}') from pg_prepared_xacts where database = current_database()`).Scan(&prepared); err != nil {
		return fmt.Errorf("look for prepared transactions: %w", err)
	}
	if len(prepared) > 0 {
		return &GateError{Problem: "the source has prepared transactions: " + list(prepared), Advice: "COMMIT PREPARED or ROLLBACK PREPARED them"}
	}
	return nil
}

func list(names []string) string {
	if len(names) == 0 {
		return "none"
	}
	if len(names) > 10 {
		return strings.Join(names[:10], ", ") + fmt.Sprintf(" and %d more", len(names)-10)
	}
	return strings.Join(names, ", ")
}

// targetGates: every index and constraint, statistics on every table that has rows. Those that
// are missing, as after a crash of the target, are gathered.
func (r *runner) targetGates(ctx context.Context, without []string, step func(string)) error {
	bare, err := r.withoutStatistics(ctx)
	if err == nil && len(bare) > 0 {
		var tables []catalog.Table
		for _, t := range r.ordinary() {
			if slices.Contains(bare, t.String()) {
				tables = append(tables, t)
			}
		}
		step("the target has no statistics of some tables, as after a crash; gathering them: " + list(bare))
		if err := schema.Analyze(ctx, r.c.Target, identifiers(tables), nil, r.c.Jobs); err != nil {
			return &GateError{Problem: "tables of the target have no statistics, and they could not be gathered: " + err.Error(), Advice: "ANALYZE them on the target: " + list(bare)}
		}
		bare, err = r.withoutStatistics(ctx)
	}
	if err != nil {
		return err
	}
	if len(bare) > 0 {
		return &GateError{Problem: "tables of the target have no statistics: " + list(bare), Advice: "ANALYZE them on the target"}
	}
	return r.schemaGate(ctx, without)
}

// withoutStatistics are the tables of the target that have rows and no statistics.
func (r *runner) withoutStatistics(ctx context.Context) (bare []string, err error) {
	var names []string
	for _, t := range r.ordinary() {
		names = append(names, t.String())
	}
	err = r.target.Row(ctx, `
select coalesce(array_agg(t.name order by t.name), '{}') from unnest($1::text[]) as t(name)
 where pg_relation_size(to_regclass(t.name)) > 0
   and exists (select from pg_attribute a where a.attrelid = to_regclass(t.name) and a.attnum > 0 and not a.attisdropped)
   and pg_stat_get_last_analyze_time(to_regclass(t.name)) is null and pg_stat_get_last_autoanalyze_time(to_regclass(t.name)) is null
   and not exists (select from pg_statistic s where s.starelid = to_regclass(t.name))`, []any{names}, &bare)
	if err != nil {
		// pg_statistic is for superusers; an owner sees only the times.
		err = r.target.Row(ctx, `
select coalesce(array_agg(t.name order by t.name), '{}') from unnest($1::text[]) as t(name)
 where pg_relation_size(to_regclass(t.name)) > 0
   and pg_stat_get_last_analyze_time(to_regclass(t.name)) is null and pg_stat_get_last_autoanalyze_time(to_regclass(t.name)) is null`, []any{names}, &bare)
	}
	if err != nil {
		return nil, fmt.Errorf("look for statistics on the target: %w", err)
	}
	return bare, nil
}

// fenceAndDrain returns the moment from which writes were refused; the zero time
// when none was.
func (f *following) fenceAndDrain(ctx context.Context, conn *pgx.Conn, fence cutover.Fence, o CutoverOptions, result *CutoverResult, step func(string)) (since time.Time, err error) {
	position, since, err := fence.Raise(ctx, conn, o.Timeout)
	if err != nil {
		return since, err
	}
	result.FencedAt, result.Tables, result.position = &since, len(fence.Tables), parseLSN(position)
	step(fmt.Sprintf("fenced %d tables; the last position is %s", len(fence.Tables), position))
	if !o.DryRun {
		if err := f.r.store.SetFenced(ctx, since); err != nil {
			return since, err
		}
	}
	// The beat is written after the fence: when it has come back, everything has.
	if _, err := f.canary(ctx); err != nil {
		if holders := f.r.inApplierWay(ctx); len(holders) > 0 {
			return since, fmt.Errorf("drain: the applier waits for a lock on the target, held by %s: %w", online.List(holders), err)
		}
		return since, fmt.Errorf("drain: %w", err)
	}
	// The applier itself may not know yet what the target has committed: ask the target,
	// as for everything that is durable.
	applied, err := f.r.applied(ctx)
	if err != nil {
		return since, fmt.Errorf("drain: read the progress: %w", err)
	}
	if applied < result.position {
		return since, fmt.Errorf("drain: the beat came back at %s, before the fence's position %s", applied, position)
	}
	if err := errors.Join(f.passed(result.position), f.r.wordsHold(ctx)); err != nil {
		return since, err
	}
	drained := time.Now()
	result.DrainedAt = &drained
	step(fmt.Sprintf("drained in %d ms", drained.Sub(since).Milliseconds()))
	return since, nil
}

// finish does what needs the fence up, and ends with the seal.
func (f *following) finish(ctx context.Context, conn *pgx.Conn, fence cutover.Fence, result *CutoverResult, step func(string)) (err error) {
	r := f.r
	if err := r.store.SetDrained(ctx, *result.DrainedAt); err != nil {
		return err
	}
	if err := r.advance(ctx, Drained); err != nil {
		return err
	}
	if _, result.Recopied, err = r.words(ctx); err != nil {
		return err
	}
	if result.Sequences, err = r.setSequences(ctx, conn); err != nil {
		return err
	}
	step(fmt.Sprintf("set %d sequences", result.Sequences))
	if err := r.createLateKeys(ctx, step); err != nil {
		return err
	}
	if err := r.prover.open(ctx); err != nil {
		return err
	}
	// What is a claim of the fence's until here is proved by the stream; once more when the target's
	// tables are locked: there may have been locks to wait for, and what comes through then cannot be applied.
	if err := f.proveFence(ctx, conn, fence, result); err != nil {
		return err
	}
	if err := r.prepareOpening(ctx, step); err != nil {
		return err
	}
	if err := f.proveFence(ctx, conn, fence, result); err != nil {
		return err
	}
	return fence.Seal(ctx, conn)
}

// proveFence makes sure that nobody has passed the fence, and that the source is what it was at the gates.
func (f *following) proveFence(ctx context.Context, conn *pgx.Conn, fence cutover.Fence, result *CutoverResult) error {
	if _, err := f.canary(ctx); err != nil {
		return fmt.Errorf("look whether anybody has passed the fence: %w", err)
	}
	return errors.Join(f.passed(result.position), fence.Unchanged(ctx, conn), f.r.lastGate(ctx, conn))
}

// afterInterruptedCutover decides for a run that finds the phase Fenced or Drained:
// a sealed fence has refused every write since it was raised, so the rest of the
// cutover is done; any other is taken down, and the migration follows on.
func (r *runner) afterInterruptedCutover(ctx context.Context) (Phase, error) {
	conn, err := openSource(ctx, r.c, "fence")
	if err != nil {
		return "", err
	}
	defer func() { conn.Close(context.WithoutCancel(ctx)) }()
	state, err := cutover.Look(ctx, conn, r.c.Name)
	if err != nil {
		return "", err
	}
	if r.phase() != Drained || !state.Sealed || !state.Covers(r.tables) {
		r.c.Logger.Warn("a cutover was interrupted before its end: un-fencing and following again")
		return Following, nil // which takes down what stands
	}
	r.c.Logger.Warn("a cutover was interrupted after the fence was sealed: finishing it")
	if err := (cutover.Fence{Name: r.c.Name, Run: r.store.Run()}).Adopt(ctx, conn); err != nil {
		return "", err
	}
	if _, err := r.setSequences(ctx, conn); err != nil {
		r.c.Logger.Warn("the sequences stay as the run that sealed the fence has set them", "reason", err)
	}
	since := time.Now()
	if r.rec.FencedAt != nil {
		since = *r.rec.FencedAt
	}
	result := &CutoverResult{FencedAt: r.rec.FencedAt, DrainedAt: r.rec.DrainedAt, Tables: state.Triggers}
	err = r.connectProver(ctx)
	if err == nil {
		err = r.prover.open(ctx)
	}
	if err != nil { // the target must be opened all the same
		r.c.Logger.Error("both sides cannot be compared as of the cutover", "error", err)
		result.Comparison = &Comparison{Error: err.Error()}
		r.prover.close()
		r.prover = nil
	}
	step := func(s string) { r.c.Logger.Info("cutover: " + s) }
	// The run that sealed the fence had them; but where it did not learn of its seal it
	// may have died while it took everything back.
	if err := r.lateForeignKeys(ctx, step); err != nil {
		return "", err
	}
	if err := r.conclude(ctx, since, result, step); err != nil {
		return "", err
	}
	r.afterOpen(ctx, result, step)
	return Finished, nil
}
