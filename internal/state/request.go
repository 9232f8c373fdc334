package state

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/internal/fail"
	"github.com/walferry/walferry/internal/online"
)

// Request is what another process asks of the running migrate.
type Request struct {
	ID   int64
	Kind string // cutover, fallback, finish, abort, hold, advance, release
	Args Args
}

// switches reports whether the request is for a switch, in either direction.
func (r *Request) switches() bool { return r.Kind == "cutover" || r.Kind == "fallback" }

// notBegun is ErrNotBegun, in the words of what was asked for.
func (r *Request) notBegun() error {
	return &fail.Error{Kind: ErrNotBegun.Kind, Problem: strings.Replace(ErrNotBegun.Problem, "cutover", r.Kind, 1), Advice: ErrNotBegun.Advice, Err: ErrNotBegun}
}

// Args are what a request of its kind needs.
type Args struct {
	LSN     string  `json:"lsn,omitempty"`
	Token   string  `json:"token,omitempty"`   // of one verify
	Flow    string  `json:"flow,omitempty"`    // whose applier it is for; empty: that of the only one that runs
	Asker   string  `json:"asker,omitempty"`   // its name, for people
	Timeout float64 `json:"timeout,omitempty"` // seconds
	MaxLag  float64 `json:"max_lag,omitempty"` // seconds
	DryRun  bool    `json:"dry_run,omitempty"`
	NoFence bool    `json:"no_fence,omitempty"`
	// Without are objects that the target lacks and need not have.
	Without []string `json:"without,omitempty"`
	// AllowDifferences waives the gate of the last comparison.
	AllowDifferences bool `json:"allow_differences,omitempty"`
	// WaitsFor and Holders are whom an asker waits for before it asks; see Announcement.
	WaitsFor string          `json:"waits_for,omitempty"`
	Holders  []online.Holder `json:"holders,omitempty"`
	// Tables are patterns of a group that is to be handed over; nil: everything is switched.
	Tables []string `json:"tables,omitempty"`
	// Loose are patterns of tables whose joints with others may be cut by that.
	Loose []string `json:"loose,omitempty"`
}

// Answer is the answer to a request.
type Answer struct {
	Error  string `json:"error,omitempty"`
	Hint   string `json:"hint,omitempty"`
	Gate   bool   `json:"gate,omitempty"`   // nothing was changed, or everything is as before
	Holder string `json:"holder,omitempty"` // who holds the applier: try again later

	Cutover json.RawMessage `json:"cutover,omitempty"` // what a cutover has measured, as in Result

	Progress Progress `json:"progress"` // of a held applier
}

// err is the error that an answer amounts to.
func (a Answer) err() error {
	if a.Gate {
		return &fail.Error{Kind: fail.Gate, Problem: a.Error, Advice: a.Hint}
	}
	return &fail.Error{Kind: fail.Run, Problem: a.Error, Advice: a.Hint}
}

// Mailbox holds what other processes ask of the running migrate, and its answers. Those that ask use
// Ask and Outcome; the rest is the running migrate's.
type Mailbox struct{ store *Store }

// Mailbox returns the requests to the running migrate.
func (s *Store) Mailbox() Mailbox { return Mailbox{s} }

// staleAfter is the time after which a request whose asker is silent is void: its process was
// killed, and nobody would read the answer.
const staleAfter = 15 * time.Second

// Next takes the oldest open request of the migration, except those of a kind, or returns nil.
func (m Mailbox) Next(ctx context.Context, later string) (*Request, error) {
	r := &Request{}
	var args []byte
	err := m.store.home.Row(ctx, `
update walferry.request set taken_at = clock_timestamp()
 where id = (select min(id) from walferry.request
              where migration = $1 and answered_at is null and withdrawn_at is null and seen_at > requested_at and seen_at > clock_timestamp() - $2::float8 * interval '1 second' and kind not in ($3, '`+announced+`'))
   and withdrawn_at is null
returning id, kind, args::text`, []any{m.store.name, staleAfter.Seconds(), later}, &r.ID, &r.Kind, &args)
	if err != nil {
		if err = none(err); err != nil {
			err = fmt.Errorf("read requests: %w", err)
		}
		return nil, err
	}
	return r, json.Unmarshal(args, &r.Args)
}

// Open is a request that was not answered yet.
type Open struct {
	Kind    string
	DryRun  bool
	Seconds float64 // since it was asked
	Taken   bool    // the runner has begun to carry it out

	WaitsFor string          // what its asker waits for before it asks
	Holders  []online.Holder // whom; nil: it has asked
}

// What is the kind of request that people know.
func (o Open) What() string {
	switch {
	case (o.Kind == "cutover" || o.Kind == "fallback") && o.DryRun:
		return "rehearsal"
	case o.Kind == "hold" || o.Kind == "advance" || o.Kind == "release":
		return "verify"
	}
	return o.Kind
}

// waiting is the condition on a request r that it has no answer and will get one: the runner has it, or
// its asker lives and wants it.
const waiting = `r.answered_at is null and (r.taken_at is not null
        or r.withdrawn_at is null and r.seen_at > r.requested_at and r.seen_at > clock_timestamp() - interval '15 seconds')`

// openColumns are those of an Open, of a request r.
const openColumns = `r.kind, coalesce((r.args ->> 'dry_run')::bool, false), extract(epoch from clock_timestamp() - r.requested_at)::float8, r.taken_at is not null,
       coalesce(r.args ->> 'waits_for', ''), coalesce(r.args ->> 'holders', 'null')`

// Open lists the requests that the runner has not answered, in their order. A record of an older
// version tells none.
func (m Mailbox) Open(ctx context.Context) (list []Open, err error) {
	err = m.store.home.Do(ctx, func(conn *pgx.Conn) error {
		there, err := m.store.Has(ctx, conn, "request")
		if err == nil && there {
			err = conn.QueryRow(ctx, laterThere()).Scan(&there)
		}
		if err != nil || !there {
			return err
		}
		rows, err := conn.Query(ctx, `select `+openColumns+` from walferry.request r where r.migration = $1 and `+waiting+` order by r.id`, m.store.name)
		if err != nil {
			return err
		}
		list, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (o Open, err error) {
			var holders string
			if err := row.Scan(&o.Kind, &o.DryRun, &o.Seconds, &o.Taken, &o.WaitsFor, &holders); err != nil {
				return o, err
			}
			return o, json.Unmarshal([]byte(holders), &o.Holders)
		})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read what was asked: %w", err)
	}
	return list, nil
}

// AddStep reports to the asker what was done.
func (m Mailbox) AddStep(ctx context.Context, id int64, step string) error {
	return m.store.home.Exec(ctx, `update walferry.request set steps = steps || $2::text where id = $1`, id, step)
}

// Answer ends a request. ok: it was done.
func (m Mailbox) Answer(ctx context.Context, id int64, ok bool, a Answer) error {
	text, err := json.Marshal(a)
	if err != nil {
		return err
	}
	return m.store.home.Exec(ctx, `update walferry.request set answered_at = clock_timestamp(), ok = $2, answer = $3::text::jsonb where id = $1`, id, ok, string(text))
}

// AnswerOld answers what an earlier runner had begun, which ended in a phase, and what nobody waits for any more. What
// nobody had begun and somebody waits for is this run's: it was asked of an earlier one that had just died, or of
// this one while it looked at both servers. So is a request to give the way back up, which this run completes, and a fallback that
// was begun where the old server is the database again: it is done, and this run has what it has measured.
func (m Mailbox) AnswerOld(ctx context.Context, phase Phase) error {
	began := Answer{Error: "the migrate that was asked has ended, and another one runs", Hint: "ask again", Gate: true}
	switching := began
	if phase == Fenced || phase == Drained || phase == Switched { // this run finishes the switch, or undoes it; or it was done
		switching.Gate, switching.Hint = false, "`walferry status` shows what has become of it"
	}
	var texts [2]string
	for i, a := range []Answer{began, switching} {
		text, err := json.Marshal(a)
		if err != nil {
			return err
		}
		texts[i] = string(text)
	}
	return m.store.home.Exec(ctx, answerOld, m.store.name, texts[0], texts[1], phase == Switched, phase == Following)
}

// answerOld tells the asker of a cutover that was begun what it has measured, where that is recorded with the phase.
const answerOld = `
with old as (select id, $4 and kind = 'cutover' and taken_at is not null and not coalesce((args ->> 'dry_run')::bool, false) as done
               from walferry.request where migration = $1 and answered_at is null
                and (taken_at is not null and kind <> 'finish' and not (kind = 'fallback' and $5) or withdrawn_at is not null or seen_at < clock_timestamp() - interval '15 seconds'))
update walferry.request r set answered_at = clock_timestamp(), ok = old.done,
       answer = case when old.done then jsonb_build_object('cutover', m.cutover) else (case when r.kind in ('cutover', 'fallback') then $3 else $2 end)::text::jsonb end
  from old, walferry.migration m where r.id = old.id and m.name = $1`

// AnswerRest answers what nobody has begun to carry out when a run ends in a phase, so that the
// askers learn how things are. An abort is left alone: its asker does it itself. cutover is what a
// finished one has measured, for whoever has asked for it; nil: there is none.
func (m Mailbox) AnswerRest(ctx context.Context, phase Phase, cutover json.RawMessage) error {
	for {
		q, err := m.Next(ctx, "abort")
		if err != nil || q == nil {
			return err
		}
		a := answerAfter(q, phase, cutover)
		if err := m.Answer(ctx, q.ID, a.Error == "", a); err != nil {
			return fmt.Errorf("answer %s: %w", q.Kind, err)
		}
	}
}

// answerAfter is the answer to a request that no run has begun to carry out, by the phase in which
// the last one has ended. cutover is what it has measured.
func answerAfter(q *Request, phase Phase, cutover json.RawMessage) Answer {
	asked := q.Kind == "cutover" && !q.Args.DryRun
	switch {
	case phase == Finished && q.Kind == "finish":
		return Answer{}
	case phase == Finished && q.Kind == "fallback":
		return Answer{Error: "the way back was given up meanwhile", Hint: "the new server is the database: see `walferry status`", Gate: true}
	case phase == Finished && asked && cutover != nil:
		return Answer{Cutover: cutover}
	case (phase == Finished || phase == Switched) && q.Kind == "cutover":
		return Answer{Error: "the cutover is done already", Hint: "see `walferry status`", Gate: true}
	case phase == Finished:
		return Answer{Error: "the cutover was done meanwhile", Hint: "verify again", Gate: true}
	case phase == Aborted:
		return Answer{Error: "the migration was aborted meanwhile", Hint: "`walferry cleanup` removes what is left of it", Gate: true}
	case (phase == Fenced || phase == Drained) && q.switches():
		return Answer{Error: "the running migrate ended within a " + q.Kind, Hint: "run `walferry migrate` again: it finishes it, or undoes it"}
	case phase == Switched && q.Kind == "finish":
		return Answer{Error: "the running migrate ended before the way back was given up", Hint: "ask again: the command does it itself where no migrate is running"}
	}
	return Answer{Error: "the running migrate ended before it could begin: nothing was changed", Hint: ErrNoRunner.Advice, Gate: true}
}

// lookInterval is how often an asker looks for its answer, and a runner whether the asker still
// wants it.
const lookInterval = 100 * time.Millisecond

// unwanted reports of request $1 whether its asker has taken it back, whether the asker is silent,
// and whether the migration $2 is to be aborted.
const unwanted = `
select coalesce(bool_or(id = $1 and withdrawn_at is not null), false), coalesce(bool_or(id = $1 and ` + silent + `), false),
       coalesce(bool_or(kind = 'abort' and answered_at is null and withdrawn_at is null and not ` + silent + `), false)
  from walferry.request where id = $1 or migration = $2 and answered_at is null`

const silent = `seen_at < clock_timestamp() - $3::float8 * interval '1 second'`

// desertedLooks is how often in a row an asker must be silent: if the target was away for longer
// than staleAfter, the asker needs a moment to show that it is alive.
const desertedLooks = 50

// WhileWanted returns ctx until a request is taken back, deserted, or overtaken by one to abort:
// its cause is ErrWithdrawn, ErrDeserted or ErrAborting then. An id of 0 is what nobody has asked
// for: only an abort ends it.
func (m Mailbox) WhileWanted(ctx context.Context, id int64) (wanted context.Context, stop func()) {
	wanted, cancel := context.WithCancelCause(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(lookInterval)
		defer tick.Stop()
		for deserted := 0; wanted.Err() == nil; {
			var withdrawn, silent, aborting bool
			err := m.store.home.Row(wanted, unwanted, []any{id, m.store.name, staleAfter.Seconds()}, &withdrawn, &silent, &aborting)
			if err != nil || !silent {
				deserted = 0
			} else {
				deserted++
			}
			switch {
			case err != nil: // the next look may succeed
			case withdrawn:
				cancel(ErrWithdrawn)
			case aborting:
				cancel(ErrAborting)
			case deserted > desertedLooks:
				cancel(ErrDeserted)
			}
			select {
			case <-wanted.Done():
			case <-tick.C:
			}
		}
	}()
	return wanted, func() {
		cancel(nil)
		<-done
	}
}
