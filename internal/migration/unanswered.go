package migration

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// answerRest answers what nobody has begun to carry out when a run ends, so that whoever
// asked learns how things are. An abort is left alone: it goes on by itself.
func (r *runner) answerRest(ctx context.Context) {
	if r.lock.Ping(ctx) != nil {
		return // another migrate may have it, and answers
	}
	for {
		q, err := r.store.nextRequest(ctx, "abort")
		if err != nil || q == nil {
			if err != nil {
				r.c.Logger.Debug("read requests", "error", err)
			}
			return
		}
		a := answerAfter(q, r.phase(), r.cutover)
		if err := r.store.answer(ctx, q.ID, a.Error == "", a); err != nil {
			r.c.Logger.Debug("answer "+q.Kind, "error", err)
			return
		}
	}
}

// answerAfter is the answer to a request that no run has begun to carry out, by the phase in
// which the last one has ended. cutover is what it has measured.
func answerAfter(q *request, phase Phase, cutover *CutoverResult) answer {
	asked := q.Kind == "cutover" && !q.Args.DryRun
	switch {
	case phase == Finished && asked && cutover != nil:
		already := *cutover
		already.Already = true
		return answer{Cutover: &already}
	case phase == Finished && q.Kind == "cutover":
		return answer{Error: "the cutover is done already", Hint: "see `walferry status`", Gate: true}
	case phase == Finished:
		return answer{Error: "the cutover was done meanwhile", Hint: "verify again", Gate: true}
	case phase == Aborted:
		return answer{Error: "the migration was aborted meanwhile", Hint: "`walferry cleanup` removes what is left of it", Gate: true}
	case (phase == Fenced || phase == Drained) && q.Kind == "cutover":
		return answer{Error: "the running migrate ended within a cutover", Hint: "run `walferry migrate` again: it finishes it, or takes it back"}
	}
	return answer{Error: "the running migrate ended before it could begin: nothing was changed", Hint: ErrNoRunner.Advice, Gate: true}
}

// unanswered is what becomes of a request whose runner has ended without an answer: it is
// taken back, so that no later run carries it out.
func (s *store) unanswered(ctx context.Context, id int64, q *request) (a answer, err error) {
	if q.Kind == "abort" {
		return a, errUnanswered
	}
	var begun bool
	err = s.Do(ctx, func(conn *pgx.Conn) error {
		return conn.QueryRow(ctx, `update walferry.request set answered_at = coalesce(answered_at, clock_timestamp()), ok = coalesce(ok, false) where id = $1 returning steps <> '{}'`, id).Scan(&begun)
	})
	if err != nil {
		return a, fmt.Errorf("take the request back: %w", err)
	}
	r, err := s.load(ctx)
	if err != nil || r == nil {
		return a, errUnanswered
	}
	if r.Phase == Finished && q.Kind == "cutover" && !q.Args.DryRun {
		a.Cutover, err = s.outcome(ctx, nil)
		return a, err
	}
	if begun {
		return a, errUnanswered
	}
	a = answerAfter(q, r.Phase, nil)
	if !a.Gate {
		return a, &RunError{Problem: a.Error, Advice: a.Hint}
	}
	return a, &GateError{Problem: a.Error, Advice: a.Hint}
}
