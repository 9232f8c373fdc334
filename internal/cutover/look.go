package cutover

import (
	"context"

	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/fail"
	"github.com/walferry/walferry/internal/state"
)

// InFence reports of each step that was taken whether writes were refused meanwhile: from the fence until To was open.
func InFence(taken []state.Taken) []bool {
	in, refuses := make([]bool, len(taken)), false
	for i, t := range taken {
		refuses = refuses || t.Name == stepFence
		in[i] = refuses
		refuses = refuses && t.Name != stepOpen
	}
	return in
}

// LookForStatistics is StatisticsGate without gathering any.
func (s *Switch) LookForStatistics(ctx context.Context) error {
	bare, err := s.withoutStatistics(ctx)
	if err == nil && len(bare) > 0 {
		err = &fail.Error{Kind: fail.Gate, Problem: "tables of the target have no statistics: " + catalog.List(bare), Advice: "the cutover gathers them before it refuses a write; ANALYZE them on the target to save that time"}
	}
	return err
}
