package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/groups"
	"github.com/walferry/walferry/internal/migration"
)

func groupsCommand(ui *ui) *cli.Command {
	return &cli.Command{
		Name: "groups", Usage: "which tables belong together, who owns them, and why: by foreign keys, inheritance, sequences, triggers, rules, and transactions that were seen",
		Flags: []cli.Flag{jsonFlag()},
		Action: configured(ui, func(c *cli.Context, config migration.Config) error {
			r, err := migration.Groups(c.Context, config)
			if err != nil {
				return err
			}
			if c.Bool("json") {
				return ui.result(r)
			}
			_, err = io.WriteString(ui.stdout, clean(ui.named(groupsText(r))))
			return writeErr(err)
		}),
	}
}

// jointsShown is how many joints of a group are printed for people.
const jointsShown = 20

func groupsText(r groups.Report) string {
	var p statusPage
	alone := map[groups.Owner][]string{}
	for _, g := range r.Groups {
		if len(g.Tables) == 1 {
			alone[g.Owner] = append(alone[g.Owner], g.Tables[0])
			continue
		}
		count := fmt.Sprintf("%d tables", len(g.Tables))
		if g.Partitions > 0 {
			count += fmt.Sprintf(" and %d partitions", g.Partitions)
		}
		p.row("group", "%s, owner %s: %s", count, g.Owner, strings.Join(g.Tables, ", "))
		for i, j := range g.Joints {
			if i == jointsShown {
				p.row("", "and %d more; --json has all", len(g.Joints)-i)
				break
			}
			p.row("", "%s", j)
		}
	}
	for _, owner := range []groups.Owner{groups.Old, groups.New} {
		if tables := alone[owner]; len(tables) > 0 {
			p.row("alone", "%d tables, owner %s, that nothing is known to join to another: %s", len(tables), owner, strings.Join(tables, ", "))
		}
	}
	if len(r.Unowned) > 0 {
		p.row("note", "sequences of no table, of which nobody knows who draws from them: %s", catalog.List(r.Unowned))
	}
	switch {
	case r.Phase == "":
		p.row("seen", "nothing: the target has no migration %q, and these are all tables of the source", r.Name)
	case r.Since == nil:
		p.row("seen", "no transaction yet: what only transactions join is not known")
	default:
		p.row("seen", "%s transactions since %s", countText(r.Transactions), *r.Since)
	}
	return p.String()
}
