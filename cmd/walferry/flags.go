package main

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/walferry/walferry/internal/fail"
	"github.com/walferry/walferry/internal/migration"
	"github.com/walferry/walferry/internal/nearest"
)

func globalFlags() []cli.Flag {
	return withVariables([]cli.Flag{
		&cli.StringFlag{Name: "source", Usage: "connection string of the database to move"},
		&cli.StringFlag{Name: "target", Usage: "connection string of the database to move to"},
		&cli.StringFlag{Name: "config", Usage: "YAML file with these options: source, target, name, include, ..."},
		&cli.StringFlag{Name: "name", Usage: "name of the migration, where there are several", DefaultText: "default"},
		&cli.StringFlag{Name: "log-level", Usage: "debug, info, warn or error", DefaultText: "info"},
		&cli.StringFlag{Name: "log-format", Usage: "text or json", DefaultText: "text"},
	})
}

// hoist moves global options that come after the command in front of it. Nothing after "--" is
// touched.
func hoist(args []string) ([]string, error) {
	names := map[string]bool{}
	for _, f := range globalFlags() {
		names[f.Names()[0]] = true
	}
	if len(args) == 0 {
		return args, nil
	}
	if last := len(args) - 1; args[last] == completionFlag {
		if before, err := hoist(args[:last]); err == nil {
			return append(before, completionFlag), nil
		}
		return args, nil // the last one is still being typed
	}
	front, rest := []string{args[0]}, []string{}
	for i := 1; i < len(args); i++ {
		if args[i] == "--" {
			rest = append(rest, args[i:]...)
			break
		}
		name, ok := strings.CutPrefix(args[i], "-")
		name = strings.TrimPrefix(name, "-")
		name, value, inline := strings.Cut(name, "=")
		switch {
		case !ok || !names[name]:
			rest = append(rest, args[i])
		case inline && value != "":
			front = append(front, args[i])
		case inline || i+1 == len(args) || args[i+1] == "" || strings.HasPrefix(args[i+1], "-"):
			// Otherwise the next option would silently become the value, and an unset shell
			// variable would mean the default.
			return nil, &fail.Error{Kind: fail.Usage, Problem: "--" + name + " needs a value", Advice: "see `walferry --help`"}
		default:
			front = append(front, args[i], args[i+1])
			i++
		}
	}
	return append(front, rest...), nil
}

// withMode gives the --fall-back of check a value where it has none: it asks what a way back needs.
func withMode(args []string) []string {
	at := slices.Index(args, "--fall-back")
	if at < 0 || !slices.Contains(args[:at], "check") || at+1 < len(args) && !strings.HasPrefix(args[at+1], "-") {
		return args
	}
	return slices.Concat(args[:at], []string{"--fall-back=" + string(migration.FallBackAuto)}, args[at+1:])
}

// explainFlag turns an error of the flag package into one that suggests the nearest option of the
// command; command is nil for options in front of it.
func explainFlag(app *cli.App, command *cli.Command, err error) error {
	flags, help := app.Flags, "walferry --help"
	if command != nil && app.Command(command.Name) != nil {
		flags, help = append(command.Flags[:len(command.Flags):len(command.Flags)], flags...), "walferry "+command.Name+" --help"
	}
	given, ok := strings.CutPrefix(err.Error(), "flag provided but not defined: ")
	if m := noNumber.FindStringSubmatch(err.Error()); m != nil {
		return &fail.Error{Kind: fail.Usage, Problem: fmt.Sprintf("%s %s is not a whole number", cmp.Or(m[2], "--"+m[4]), m[1]+m[3]), Advice: "see `" + help + "`"}
	}
	if !ok {
		return &fail.Error{Kind: fail.Usage, Problem: strings.ReplaceAll(err.Error(), " -", " --"), Advice: "see `" + help + "`"}
	}
	given = strings.TrimLeft(given, "-")
	var names, owners []string
	for _, f := range flags {
		names = append(names, f.Names()[0])
	}
	for _, c := range app.Commands {
		for _, f := range c.Flags {
			if f.Names()[0] == given {
				owners = append(owners, c.Name)
			}
		}
	}
	if len(owners) > 0 {
		return &fail.Error{Kind: fail.Usage, Problem: fmt.Sprintf("there is no option --%s here", given), Advice: "it belongs to " + strings.Join(owners, ", ") + ", and goes after the command"}
	}
	return &fail.Error{Kind: fail.Usage, Problem: fmt.Sprintf("there is no option --%s here", given), Advice: didYouMean(given, names, "--", help)}
}

// noNumber matches the package's errors for a variable, and for an option, that must be a number.
var noNumber = regexp.MustCompile(`^could not parse (".*") as int value from environment variable "(\w+)"|^invalid value (".*") for flag -([\w-]+): parse error$`)

// didYouMean suggests the nearest of names if one is close, or else where to look.
func didYouMean(given string, names []string, prefix, help string) string {
	if name, ok := nearest.Name(given, names); ok {
		return "did you mean " + prefix + name + "?"
	}
	return "see `" + help + "`"
}
