// Walferry moves a live PostgreSQL database to another server, without stopping
// the applications: see https://github.com/walferry/walferry.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/urfave/cli/v2"

	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/migration"
	"github.com/walferry/walferry/internal/session"
)

// The exit codes; scripts rely on them.
const (
	exitDone       = 0
	exitFailed     = 1 // failed while running
	exitUsage      = 2 // wrong usage or configuration
	exitBlocked    = 3 // check found something that blocks
	exitUnchanged  = 4 // a gate or deadline was not met, and everything is as before
	exitDifference = 5 // verify found differences
)

func main() {
	// The first signal asks the work to end well, the second one ends it.
	ctx, stop := context.WithCancelCause(context.Background())
	ui := newUI(os.Stdout, os.Stderr)
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go func() {
		got := <-signals
		ui.column()
		ui.note("%s: finishing what is in hand; again to stop at once", got)
		stop(errStopped)
		<-signals
		ui.note("stopped at once")
		os.Exit(exitFailed)
	}()
	signal.Ignore(syscall.SIGPIPE) // a closed stdout is an error of its writer, not the end of a migration
	os.Exit(run(ctx, ui, os.Args))
}

var errStopped = errors.New("stopped by a signal")

// run is main without the process.
func run(ctx context.Context, ui *ui, args []string) (code int) {
	defer func() {
		if p := recover(); p != nil {
			ui.panicked(p)
			code = exitFailed
		}
	}()
	ui.hide(args...)
	ui.hide(os.Getenv("WALFERRY_SOURCE"), os.Getenv("WALFERRY_TARGET"))
	args, err := hoist(args)
	if err == nil {
		err = newApp(ui).RunContext(ctx, args)
	}
	if err == nil {
		return exitDone
	}
	ui.fail(err)
	return exitCode(err)
}

func exitCode(err error) int {
	var (
		usage   *usageError
		config  *migration.UsageError
		dsn     *session.ParseError
		pattern *catalog.PatternError
		check   *migration.CheckError
		gate    *migration.GateError
		differs *differenceError
		proof   *migration.DifferenceError
	)
	switch {
	case errors.As(err, &usage), errors.As(err, &config), errors.As(err, &dsn), errors.As(err, &pattern):
		return exitUsage
	case errors.As(err, &check):
		return exitBlocked
	case errors.As(err, &gate):
		return exitUnchanged
	case errors.As(err, &differs), errors.As(err, &proof):
		return exitDifference
	}
	return exitFailed
}

// usageError is wrong usage or configuration.
type usageError struct {
	problem string
	advice  string
}

func (e *usageError) Error() string { return e.problem }

// Hint is what the operator can do.
func (e *usageError) Hint() string { return e.advice }

func newApp(ui *ui) *cli.App {
	app := &cli.App{
		Name:            "walferry",
		Usage:           "move a live PostgreSQL database to another server",
		UsageText:       "walferry [global options] command [options]",
		HideVersion:     true,
		HideHelpCommand: true,
		Writer:          ui.stdout,
		ErrWriter:       ui.stderr,
		ExitErrHandler:  func(*cli.Context, error) {},
		Flags:           globalFlags(),
		Commands: []*cli.Command{
			checkCommand(ui), migrateCommand(ui), statusCommand(ui), verifyCommand(ui), cutoverCommand(ui),
			abortCommand(ui), cleanupCommand(ui), streamCommand(ui), versionCommand(ui),
		},
	}
	usage := func(c *cli.Context, err error, _ bool) error { return explainFlag(app, c.Command, err) }
	app.OnUsageError = usage
	for _, c := range app.Commands {
		c.OnUsageError = usage
		c.HideHelpCommand = true
		action := c.Action
		c.Action = func(ctx *cli.Context) error {
			if ctx.Args().Present() {
				return &usageError{fmt.Sprintf("%s takes no argument %q", ctx.Command.Name, ctx.Args().First()), "see `walferry " + ctx.Command.Name + " --help`"}
			}
			return action(ctx)
		}
	}
	app.Action = func(ctx *cli.Context) error {
		if !ctx.Args().Present() {
			return cli.ShowAppHelp(ctx)
		}
		var names []string
		for _, c := range app.Commands {
			names = append(names, c.Name)
		}
		return &usageError{fmt.Sprintf("there is no command %q", ctx.Args().First()), didYouMean(ctx.Args().First(), names, "", "walferry --help")}
	}
	return app
}

// writeErr tells a broken pipe from other failures to print a result.
func writeErr(err error) error {
	if err == nil || errors.Is(err, syscall.EPIPE) || errors.Is(err, io.ErrClosedPipe) {
		return nil
	}
	return fmt.Errorf("write the result: %w", err)
}

func versionCommand(ui *ui) *cli.Command {
	return &cli.Command{Name: "version", Usage: "print the version", Action: func(*cli.Context) error {
		_, err := fmt.Fprintln(ui.stdout, strings.TrimSpace(longVersion()))
		return writeErr(err)
	}}
}
