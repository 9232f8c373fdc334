package migration

import (
	"strings"
	"testing"

	"github.com/walferry/walferry/internal/fail"
	"github.com/walferry/walferry/internal/state"
)

// A malformed position is refused: taken as 0 it would let the applier stop short of what is
// compared.
func TestAdvance_Malformed(t *testing.T) {
	for _, lsn := range []string{"", "0/0", "0", "0/16B3748 ", "0/16B37G8", "1/2/3"} {
		q := &state.Request{Kind: "advance", Args: state.Args{LSN: lsn, Token: "t"}}
		_, end, err := (&following{}).carryOut(t.Context(), q)
		gate := fail.Find(err, fail.Gate)
		if gate == nil || !strings.Contains(gate.Problem, "position") || end != nil {
			t.Errorf("%q: %v, want that it is refused", lsn, err)
		}
	}
}
