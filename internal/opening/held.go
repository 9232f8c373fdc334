// Package opening keeps what would act on the copied and applied rows, triggers and rules of the
// target, disabled until the target opens, and gives each its state back then.
package opening

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/state"
)

// Held is an element of walferry.migration.on_open: a trigger or rule of the target that is
// disabled until the opening.
type Held struct {
	catalog.Action          // as it was; State is what it gets back
	Known          []uint32 `json:"known,omitempty"` // the copies of a trigger that partitions had then
}

// parse reads on_open.
func parse(elements []string) (list []Held, err error) {
	for _, text := range elements {
		var h Held
		if old := oldHeld.FindStringSubmatch(text); old != nil {
			h.Schema, h.Table, h.Name = catalog.Unquote(old[1]), catalog.Unquote(old[2]), catalog.Unquote(old[5])
			h.State, h.Kind = map[string]string{"always": "A", "replica": "R", "": "O"}[old[3]], old[4]
		} else if err := json.Unmarshal([]byte(text), &h); err != nil {
			return nil, fmt.Errorf("read the held triggers: %w", err)
		}
		list = append(list, h)
	}
	return list, nil
}

// oldHeld is what older versions have recorded: the statement that enables a trigger or rule.
var oldHeld = regexp.MustCompile(`^alter table ("(?:[^"]|"")+")\.("(?:[^"]|"")+") enable (always|replica|) (trigger|rule) (.+)$`)

// texts returns what is recorded of a list.
func texts(list []Held) ([]string, error) {
	out := make([]string, len(list))
	for i, h := range list {
		text, err := json.Marshal(h)
		if err != nil {
			return nil, err
		}
		out[i] = string(text)
	}
	return out, nil
}

// Recorded reads what is held of a migration.
func Recorded(ctx context.Context, q catalog.Querier, name string) ([]Held, error) {
	elements, err := state.OnOpen(ctx, q, name)
	if err != nil {
		return nil, err
	}
	return parse(elements)
}

func record(ctx context.Context, tx pgx.Tx, name string, list []Held) error {
	elements, err := texts(list)
	if err != nil {
		return err
	}
	return state.PutOnOpen(ctx, tx, name, elements)
}

// opens returns the statements that give every held action its state back, in an order in which
// they can be run, and what has to be left out because the target no longer has it.
func opens(ctx context.Context, q catalog.Querier, list []Held) (sql []Statement, gone []Held, err error) {
	var actions []catalog.Action
	var known []uint32
	for _, h := range list {
		actions, known = append(actions, h.Action), append(append(known, h.Known...), h.OID)
	}
	if len(actions) == 0 {
		return nil, nil, nil
	}
	now, err := catalog.ActionsNow(ctx, q, actions)
	if err != nil {
		return nil, nil, err
	}
	var triggers []catalog.Action
	for i, h := range list {
		a, ok := now[i]
		if !ok {
			gone = append(gone, h)
			continue
		}
		if a.Kind == "trigger" {
			was := a
			was.State = h.State
			triggers = append(triggers, was)
		}
		sql = append(sql, Statement{Schema: a.Schema, Table: a.Table, SQL: a.Enable(h.State), Held: h, Exclusive: a.Kind == "rule"})
	}
	later, err := catalog.LaterCopies(ctx, q, triggers, known)
	if err != nil {
		return nil, nil, err
	}
	for _, a := range later {
		sql = append(sql, Statement{Schema: a.Schema, Table: a.Table, SQL: a.Enable(a.State), Held: Held{Action: a}})
	}
	slices.SortStableFunc(sql, func(a, b Statement) int {
		return cmp.Or(cmp.Compare(a.Schema, b.Schema), cmp.Compare(a.Table, b.Table))
	})
	return sql, gone, nil
}

// Statement enables one action of the target.
type Statement struct {
	Schema, Table string
	SQL           string
	Held          Held
	Exclusive     bool // it has to wait for readers, too
}
