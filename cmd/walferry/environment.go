package main

import (
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/walferry/walferry/internal/fail"
)

// variablePrefix starts the name of every environment variable of walferry's.
const variablePrefix = "WALFERRY_"

// variable returns the environment variable of an option: WALFERRY_MAX_LAG for --max-lag.
func variable(option string) string {
	return variablePrefix + strings.ToUpper(strings.ReplaceAll(option, "-", "_"))
}

// withVariables lets every option be set by its variable as well.
func withVariables(flags []cli.Flag) []cli.Flag {
	for _, f := range flags {
		vars := []string{variable(f.Names()[0])}
		switch f := f.(type) {
		case *cli.StringFlag:
			f.EnvVars = vars
		case *cli.StringSliceFlag:
			f.EnvVars = vars
		case *cli.IntFlag:
			f.EnvVars = vars
		case *cli.BoolFlag:
			f.EnvVars = vars
		}
	}
	return flags
}

// foreignVariables have our prefix but are not options: Kubernetes sets some in every pod next to a
// Service named walferry, and this project's tests are configured by others.
var foreignVariables = regexp.MustCompile(`^WALFERRY_(SERVICE_(HOST|PORT(_.*)?)|PORT(_.*)?|TEST_.*|PGTEST_.*)$`)

// checkVariables rejects variables that would be silently ignored: a misspelled WALFERRY_NAME would
// act on the migration "default". An empty variable counts as unset and is removed, which the flag
// package would not do.
func checkVariables(options []string) error {
	var known []string
	for _, option := range options {
		known = append(known, variable(option))
	}
	for _, pair := range os.Environ() {
		name, value, _ := strings.Cut(pair, "=")
		if !strings.HasPrefix(name, variablePrefix) || foreignVariables.MatchString(name) {
			continue
		}
		if value == "" {
			os.Unsetenv(name)
		} else if !slices.Contains(known, name) {
			return &fail.Error{Kind: fail.Usage, Problem: "there is no option for the environment variable " + name, Advice: didYouMean(name, known, "", "walferry --help")}
		}
	}
	return nil
}

// optionNames returns the names of all options of all commands.
func optionNames(app *cli.App) (names []string) {
	add := func(flags []cli.Flag) {
		for _, f := range flags {
			if name := f.Names()[0]; name != "help" && name != "version" && !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
	}
	add(app.Flags)
	for _, c := range app.Commands {
		add(c.Flags)
		for _, sub := range c.Subcommands {
			add(sub.Flags)
		}
	}
	return names
}

// onCommandLine reports whether an option is among the arguments, where everyone on the machine can
// read its value.
func onCommandLine(args []string, option string) bool {
	return slices.ContainsFunc(args, func(arg string) bool {
		name, ok := strings.CutPrefix(arg, "-")
		name, _, _ = strings.Cut(strings.TrimPrefix(name, "-"), "=")
		return ok && name == option
	})
}
