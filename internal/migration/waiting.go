package migration

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/internal/cutover"
	"github.com/walferry/walferry/internal/opening"
	"github.com/walferry/walferry/internal/wait"
)

// waiting is what waits on the target for its opening.
type waiting struct{ r *runner }

func (w waiting) FindKeys(ctx context.Context) (cutover.Keys, error) {
	keys, err := w.r.prepareLateKeys(ctx)
	if err != nil || keys == nil {
		return nil, err
	}
	return keys, nil
}

func (w waiting) DropKeys(ctx context.Context) error { return w.r.dropLateForeignKeys(ctx) }

func (w waiting) ValidateKeys(ctx context.Context, result *CutoverResult, tell func(string)) error {
	failed := w.r.pending().Validate(ctx, tell)
	err := wait.Within(ctx, 10*time.Second, func(ctx context.Context) error { return addUnvalidated(ctx, w.r.target, w.r.store, result) })
	if failed != nil {
		return failed
	}
	return err
}

func (w waiting) PrepareOpening(ctx context.Context, tell func(string)) (*pgx.Conn, error) {
	return w.r.closed().Prepare(ctx, tell)
}

func (w waiting) EnableEach(ctx context.Context) (sql, left []string, err error) {
	list, err := w.r.closed().EnableEach(ctx)
	if err != nil {
		return nil, nil, err
	}
	left, err = opening.TextsOf(list)
	return opening.SQLOf(list), left, err
}

func (w waiting) EnableRest(ctx context.Context, patience time.Duration) ([]string, error) {
	return w.r.closed().EnableRest(ctx, patience)
}

func (w waiting) RefreshViews(ctx context.Context) (int, error) {
	if w.r.c.Schema == "none" {
		return 0, nil
	}
	return w.r.refreshViews(ctx)
}
