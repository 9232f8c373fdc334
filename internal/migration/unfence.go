package migration

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/internal/cutover"
)

// stillFencedError says that writers may still be refused.
type stillFencedError struct{ error }

func (e *stillFencedError) Unwrap() error { return e.error }

// triggerPatience is how long the triggers of an open fence are tried that somebody's long
// transaction keeps from being taken away. What is left then does no harm.
const triggerPatience = 10 * time.Second

// unfence opens the fence, records that it is gone, and takes down what it can of its
// triggers. opened is called once writers pass.
func (r *runner) unfence(ctx context.Context, opened func(), step func(string)) error {
	conn, err := openSource(ctx, r.c, "un-fence")
	if err != nil {
		return &stillFencedError{err}
	}
	defer func() { conn.Close(context.WithoutCancel(ctx)) }()
	if err := cutover.Open(ctx, conn, r.c.Name); err != nil {
		return &stillFencedError{err}
	}
	opened()
	err = r.store.exec(ctx, `update walferry.migration set fenced_at = null, drained_at = null where name = $1`, r.c.Name)
	if err != nil {
		return err
	}
	patience, cancel := context.WithTimeout(ctx, triggerPatience)
	defer cancel()
	left, err := cutover.Remove(patience, conn, r.c.Name)
	if err != nil {
		left = append(left, cutover.Left{Table: "some tables", Why: err.Error()})
	}
	if len(left) > 0 {
		step("the fence is open; triggers of it that let everybody pass are left, until the next cutover, run of migrate, or cleanup: " + leftTriggers(left))
	}
	return nil
}

func leftTriggers(left []cutover.Left) string {
	var text []string
	for _, l := range left {
		text = append(text, fmt.Sprintf("on %s (%s)", l.Table, l.Why))
	}
	return list(text)
}

// removeFence takes a fence down for good.
func removeFence(ctx context.Context, conn *pgx.Conn, name string) error {
	if err := cutover.Open(ctx, conn, name); err != nil {
		return err
	}
	patience, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	left, err := cutover.Remove(patience, conn, name)
	if err != nil || len(left) == 0 {
		return err
	}
	e := &RunError{
		"the source accepts writes, but triggers of the fence could not be taken away " + leftTriggers(left),
		"end what is named, or wait for its end, and run the same command again",
	}
	for _, l := range left {
		var hint interface{ Hint() string }
		if errors.As(l.Err, &hint) {
			e.Advice = hint.Hint()
		}
	}
	return e
}
