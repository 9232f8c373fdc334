package applier

import (
	"errors"

	"github.com/walferry/walferry/decoder"
)

// The thresholds of a foldPolicy.
const (
	leastSet  = 4            // changes of one shape that are worth a statement for all of them
	leastFold = 2 * leastSet // changes that are worth a fold
	leastCopy = 50           // INSERTs that are worth a COPY
)

// foldPolicy decides when changes are applied by their net effect, and how.
type foldPolicy struct {
	leastSet, leastFold, leastCopy int // the constants, but in tests

	misfits  int         // folds that failed since the last that succeeded
	skip     int         // groups until the next is tried
	unfolded decoder.LSN // commit of a transaction in pieces that is not tried again
}

// skipFoldsMax bounds for how many groups no fold is tried after one has failed.
const skipFoldsMax = 256

func newFoldPolicy() foldPolicy {
	return foldPolicy{leastSet: leastSet, leastFold: leastFold, leastCopy: leastCopy}
}

// tried reports whether the next group may be folded, whatever its size.
func (p *foldPolicy) tried() bool { return p.skip == 0 }

// worth reports whether a group of so many changes is to be folded. It counts the groups.
func (p *foldPolicy) worth(changes int) bool {
	if changes < p.leastFold {
		return false
	}
	if p.skip > 0 {
		p.skip--
		return false
	}
	return true
}

// succeeded notes that a fold was applied.
func (p *foldPolicy) succeeded() { p.misfits = 0 }

// failed reports whether an error may be one of the fold alone, and not of the changes. Each that
// follows another makes the next attempt wait longer.
func (p *foldPolicy) failed(err error) bool {
	var fold *foldError
	var conflict *ConflictError
	var schema *SchemaError
	if !errors.As(err, &fold) && !errors.As(err, &conflict) && !errors.As(err, &schema) {
		return false
	}
	p.skip = min(1<<p.misfits, skipFoldsMax)
	p.misfits = min(p.misfits+1, 16)
	return true
}

// mayFold reports whether a group of so many changes is applied by its net effect. That gives up
// the order between tables, which only a session in replica role allows.
func (a *Applier) mayFold(changes int) bool {
	return a.session.facts.replica && !a.converging() && a.folds.worth(changes)
}

// misfit reports whether a group is to be applied change by change after err, which its fold has
// met.
func (a *Applier) misfit(err error) bool {
	if !a.folds.failed(err) {
		return false
	}
	a.log.Debug("applying changes one by one", "reason", err)
	return true
}
