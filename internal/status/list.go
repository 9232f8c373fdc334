package status

import (
	"context"
	"time"

	"github.com/walferry/walferry/internal/session"
	"github.com/walferry/walferry/internal/state"
)

// Listed is a migration in a list of all that a target knows. Its JSON is stable.
type Listed struct {
	Name     string      `json:"name"`
	Phase    state.Phase `json:"phase"`
	Since    *time.Time  `json:"since"`           // when that phase was entered; nil: an older version has not recorded it
	Running  bool        `json:"running"`         // a migrate holds its lock now
	SeenAt   time.Time   `json:"seen_at"`         // when a migrate last wrote what it does, by the target's clock
	Database string      `json:"source_database"` // its name on the source
	Tables   int         `json:"tables"`
	Error    string      `json:"error"` // why the last run stopped; empty: it did not fail
	Version  string      `json:"version"`
}

// List returns the migrations to a target, by name. It asks only the target. One whose record is gone meanwhile is left out.
func List(ctx context.Context, target session.Config) ([]Listed, error) {
	home, err := session.OpenLink(ctx, target, nil)
	if err != nil {
		return nil, err
	}
	defer home.Close()
	var names []string
	all := state.At(home, "")
	err = all.Read(ctx, func() error {
		names, err = all.Known(ctx)
		return err
	})
	if err != nil {
		return nil, err
	}
	list := []Listed{}
	for _, name := range names {
		s := state.At(home, name)
		err := s.Read(ctx, func() error {
			r, err := s.Load(ctx)
			if err == nil && r != nil {
				list = append(list, listed(r))
			}
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return list, nil
}

func listed(r *state.Record) Listed {
	l := Listed{Name: r.Name, Phase: r.Phase, Running: r.Alive, SeenAt: r.SeenAt.UTC(), Database: r.Database, Tables: len(r.Tables), Error: r.Error, Version: r.ToolVersion}
	for i := range r.Live.Phases {
		if e := &r.Live.Phases[i]; e.Phase == r.Phase {
			l.Since = &e.At // the last time, if there are more
		}
	}
	return l
}
