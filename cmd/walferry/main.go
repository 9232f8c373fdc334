// Walferry moves a live PostgreSQL database to another server, without stopping the applications:
// see https://github.com/walferry/walferry.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/fail"
	"github.com/walferry/walferry/internal/migration"
)

// The exit codes; scripts rely on them.
const (
	exitDone       = 0
	exitFailed     = 1 // failed while running
	exitUsage      = 2 // wrong usage or configuration
	exitBlocked    = 3 // check found something that blocks
	exitUnchanged  = 4 // a gate or deadline was not met, and everything is as before
	exitDifference = 5 // a comparison found differences, including one as of a finished cutover
	exitStopped    = 6 // stopped by a signal before the end; the same command resumes
)

func main() {
	// The first signal asks for a clean end, the second one stops at once.
	ctx, stop := context.WithCancelCause(context.Background())
	ui := newUI(os.Stdout, os.Stderr)
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	if !signal.Ignored(syscall.SIGHUP) { // by nohup
		signal.Notify(signals, syscall.SIGHUP)
	}
	go func() {
		got := <-signals
		ui.column()
		ui.note("%s: finishing work in progress; again to stop at once", got)
		stop(errStopped)
		for since := time.Now(); ; {
			// timeout(1), and a Ctrl-C that reaches the process group and is also forwarded,
			// deliver one signal twice.
			if <-signals; time.Since(since) > sameSignal {
				break
			}
		}
		ui.note("stopped at once")
		os.Exit(exitFailed)
	}()
	signal.Ignore(syscall.SIGPIPE) // a closed stdout is an error to its writer, not the end of a migration
	os.Exit(run(ctx, ui, os.Args))
}

// sameSignal is how long a second signal counts as the first one: nobody presses Ctrl-C twice that
// fast.
const sameSignal = 250 * time.Millisecond

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
	ui.hide(os.Getenv(variable("source")), os.Getenv(variable("target")))
	ui.args = args
	if completeValue(ui, args) {
		return exitDone
	}
	app := newApp(ui)
	args, err := hoist(args)
	if err == nil {
		err = checkVariables(optionNames(app))
	}
	if err == nil {
		err = app.RunContext(ctx, withMode(filesLast(app, args)))
	}
	if err == nil {
		return exitDone
	}
	ui.fail(err)
	return exitCode(err)
}

func exitCode(err error) int {
	var (
		check   *migration.CheckError
		foreign *catalog.StrangersError
	)
	switch {
	case fail.Is(err, fail.Usage):
		return exitUsage
	case errors.As(err, &check), errors.As(err, &foreign):
		return exitBlocked
	case fail.Is(err, fail.Gate):
		return exitUnchanged
	case fail.Is(err, fail.Difference):
		return exitDifference
	case fail.Is(err, fail.Stopped):
		return exitStopped
	}
	return exitFailed
}

// stopped is the error of a migrate that a signal has stopped before its end. Its supervisor, such
// as a Kubernetes Job, must not take that for success: nothing follows the source, and the slot
// holds back WAL.
func stopped(phase migration.Phase) error {
	advice := "`walferry migrate` resumes from here; until then the slot holds back WAL on the source"
	switch phase {
	case migration.Switched:
		advice = "the new server is the database; `walferry migrate` resumes the way back: until then the old server does not follow, and the way back's slot holds back WAL on the new one"
	case migration.Finished:
		advice = "the target is open; `walferry migrate` does the rest"
	}
	return &fail.Error{Kind: fail.Stopped, Problem: "stopped by a signal in phase " + string(phase), Advice: advice}
}

func newApp(ui *ui) *cli.App {
	app := &cli.App{
		Name:            "walferry",
		Usage:           "move a live PostgreSQL database to another server",
		UsageText:       "walferry [global options] command [options]",
		Version:         longVersion(),
		HideHelpCommand: true,

		EnableBashCompletion: true,
		Writer:               ui.stdout,
		ErrWriter:            ui.stderr,
		ExitErrHandler:       func(*cli.Context, error) {},
		Flags:                globalFlags(),
		Commands: []*cli.Command{
			checkCommand(ui), migrateCommand(ui), copyWorkerCommand(ui), statusCommand(ui), listCommand(ui), serveCommand(ui), groupsCommand(ui), verifyCommand(ui),
			cutoverCommand(ui), fallbackCommand(ui), finishCommand(ui), reportCommand(ui),
			abortCommand(ui), cleanupCommand(ui), fleetCommand(ui), streamCommand(ui), versionCommand(ui), helpCommand(ui), completionCommand(ui), manCommand(ui),
			guardCommand(ui),
		},
	}
	cli.VersionPrinter = func(c *cli.Context) { fmt.Fprintln(c.App.Writer, c.App.Version) }
	usage := func(c *cli.Context, err error, _ bool) error { return explainFlag(app, c.Command, err) }
	app.OnUsageError = usage
	for _, c := range app.Commands {
		c.OnUsageError = usage
		for _, sub := range c.Subcommands {
			prepareSub(app, c, sub)
		}
		c.HideHelpCommand = true
		c.CustomHelpTemplate = commandHelp()
		c.Flags = withVariables(c.Flags)
		if c.BashComplete == nil {
			c.BashComplete = completeCommand(ui, c)
		}
		action := c.Action
		if c.ArgsUsage != "" {
			continue
		}
		c.Action = func(ctx *cli.Context) error {
			if ctx.Args().Present() {
				return &fail.Error{Kind: fail.Usage, Problem: fmt.Sprintf("%s takes no argument %q", ctx.Command.Name, ctx.Args().First()), Advice: "see `walferry " + ctx.Command.Name + " --help`"}
			}
			return action(ctx)
		}
	}
	app.Action = func(ctx *cli.Context) error {
		if !ctx.Args().Present() {
			return cli.ShowAppHelp(ctx)
		}
		return noCommand(app, ctx.Args().First())
	}
	return app
}

// writeErr wraps a failure to print a result, except for a broken pipe.
func writeErr(err error) error {
	if err == nil || errors.Is(err, syscall.EPIPE) || errors.Is(err, io.ErrClosedPipe) {
		return nil
	}
	return fmt.Errorf("write the result: %w", err)
}

func versionCommand(ui *ui) *cli.Command {
	return &cli.Command{Name: "version", Usage: "print the version", Action: func(*cli.Context) error {
		_, err := fmt.Fprintln(ui.stdout, longVersion())
		return writeErr(err)
	}}
}
