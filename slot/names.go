package slot

import (
	"context"
	"fmt"
	"math/rand/v2"
)

// Names are the names of a migration's objects on its source.
type Names struct {
	Slot        string
	Publication string
	Inserts     string // the publication of tables of which only inserts and truncates are published
}

// InsertsSuffix is what the name of that publication has after a migration's: no migration's own
// name may end in it.
const InsertsSuffix = "_insert"

// NamesOf returns the names that belong to a migration's.
func NamesOf(migration string) Names {
	name := "walferry_" + migration
	return Names{Slot: name, Publication: name, Inserts: name + InsertsSuffix}
}

// ExportTemporary is [Export] with a slot that ends with its snapshot, named after what it is for.
// The rest of the name is no process id: in containers everybody's is 1.
func ExportTemporary(ctx context.Context, dsn, purpose string, c ExportConfig) (*Exported, error) {
	c.Slot, c.Temporary = fmt.Sprintf("walferry_%s_%08x", purpose, rand.Uint32()), true
	return Export(ctx, dsn, c)
}
