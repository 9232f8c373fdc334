package status

import (
	"context"
	"time"

	"github.com/walferry/walferry/internal/groups"
	"github.com/walferry/walferry/internal/session"
	"github.com/walferry/walferry/internal/state"
)

// Group is a set of tables that was handed over.
type Group struct {
	Tables []string  `json:"tables"` // as schema.table, with partitions
	Since  time.Time `json:"since"`
}

// readGroups reads which groups belong to the new server.
func (st *Status) readGroups(ctx context.Context, to *session.Link, s *state.Store) error {
	handed, err := groups.ReadHanded(ctx, to, s)
	if err != nil {
		return err
	}
	st.Groups = []Group{}
	for _, h := range handed {
		g := Group{Since: h.Since}
		for _, t := range h.Tables {
			g.Tables = append(g.Tables, t.Plain())
		}
		st.Groups = append(st.Groups, g)
	}
	return nil
}
