package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"
)

func globalFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "source", Usage: "connection string of the database to move (or WALFERRY_SOURCE)"},
		&cli.StringFlag{Name: "target", Usage: "connection string of the database to move to (or WALFERRY_TARGET)"},
		&cli.StringFlag{Name: "config", Usage: "YAML file with these options: source, target, name, include, ..."},
		&cli.StringFlag{Name: "name", Usage: "name of the migration, where there are several", DefaultText: "default"},
		&cli.StringFlag{Name: "log-level", Usage: "debug, info, warn or error", DefaultText: "info"},
		&cli.StringFlag{Name: "log-format", Usage: "text or json", DefaultText: "text"},
	}
}

// hoist moves the global options, which users write behind the command as well, in
// front of it. Nothing after "--" is touched.
func hoist(args []string) []string {
	names := map[string]bool{}
	for _, f := range globalFlags() {
		names[f.Names()[0]] = true
	}
	if len(args) == 0 {
		return args
	}
	front, rest := []string{args[0]}, []string{}
	for i := 1; i < len(args); i++ {
		if args[i] == "--" {
			rest = append(rest, args[i:]...)
			break
		}
		name, ok := strings.CutPrefix(args[i], "-")
		name = strings.TrimPrefix(name, "-")
		name, _, inline := strings.Cut(name, "=")
		switch {
		case !ok || !names[name]:
			rest = append(rest, args[i])
		case inline || i+1 == len(args):
			front = append(front, args[i])
		default:
			front = append(front, args[i], args[i+1])
			i++
		}
	}
	return append(front, rest...)
}

// explainFlag turns the flag package's error into one that names the nearest flag.
func explainFlag(app *cli.App, err error) error {
	text := err.Error()
	given, ok := strings.CutPrefix(text, "flag provided but not defined: ")
	if !ok {
		return &usageError{strings.ReplaceAll(text, " -", " --"), "see `walferry --help`"}
	}
	given = strings.TrimLeft(given, "-")
	var names []string
	for _, flags := range append([][]cli.Flag{app.Flags}, commandFlags(app)...) {
		for _, f := range flags {
			names = append(names, f.Names()[0])
		}
	}
	return &usageError{fmt.Sprintf("there is no option --%s here", given), didYouMean(given, names, "--")}
}

func commandFlags(app *cli.App) (all [][]cli.Flag) {
	for _, c := range app.Commands {
		all = append(all, c.Flags)
	}
	return all
}

// didYouMean names the nearest of names, if one is near.
func didYouMean(given string, names []string, prefix string) string {
	best, distance := "", 4
	for _, name := range names {
		if d := editDistance(given, name); d < distance && d < max(len(given), len(name)) {
			best, distance = name, d
		}
	}
	if best == "" {
		return "see `walferry --help`"
	}
	return "did you mean " + prefix + best + "?"
}

// editDistance is the number of letters to add, drop or change (Levenshtein).
func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for i := range row {
		row[i] = i
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			next := diagonal
			if a[i] != b[j] {
				next = 1 + slices.Min([]int{diagonal, row[j], row[j+1]})
			}
			diagonal, row[j+1] = row[j+1], next
		}
	}
	return row[len(b)]
}
