package applier_test

import (
	"context"

	"github.com/walferry/walferry/internal/pgtest"
)

// servers starts a source and a target, for the examples, and returns their connection strings.
func servers(ctx context.Context) (source, target string, stop func()) {
	from, err := pgtest.Launch(ctx, pgtest.Options{Major: 15})
	must(err)
	to, err := pgtest.Launch(ctx, pgtest.Options{Major: 18})
	must(err)
	return from.URL("postgres"), to.URL("postgres"), func() {
		from.Close()
		to.Close()
	}
}
