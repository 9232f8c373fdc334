package migration

import (
	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/fail"
)

// sourceGone is the error of a source that cannot be reached after the cutover.
func sourceGone(err error) error {
	return &fail.Error{
		Kind:   fail.Run,
		Advice: "if the old server is gone for good, `drop schema walferry cascade` on the target is what is left for cleanup to do, unless another migration has its state there",
		Err:    err,
	}
}

func list(names []string) string { return catalog.List(names) }
