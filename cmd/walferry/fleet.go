package main

import (
	"flag"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/urfave/cli/v2"

	"github.com/walferry/walferry/internal/check"
	"github.com/walferry/walferry/internal/fail"
	"github.com/walferry/walferry/internal/fleet"
	"github.com/walferry/walferry/internal/migration"
)

// fleetCommand has the commands for many databases. They know nothing of --source and --target: servers are in their file.
func fleetCommand(ui *ui) *cli.Command {
	subs := []*cli.Command{
		fleetCheckCommand(ui), fleetRunCommand(ui), fleetStatusCommand(ui), fleetCutoverCommand(ui), fleetFallbackCommand(ui), fleetFinishCommand(ui),
		fleetAbortCommand(ui), fleetCleanupCommand(ui), fleetReportCommand(ui), fleetRenderCommand(ui),
	}
	var list strings.Builder
	w := tabwriter.NewWriter(&list, 0, 0, 2, ' ', 0)
	for _, sub := range subs {
		fmt.Fprintf(w, "  fleet %s\t%s\n", sub.Name, sub.Usage)
	}
	w.Flush() //nolint:errcheck // a Builder takes everything
	return &cli.Command{
		Name: "fleet", Usage: "the same for many databases, by one file; 'walferry fleet' lists its commands", ArgsUsage: "command FILE",
		Description: "FILE is a YAML file with servers, databases, limits and waves: see docs/fleet.md.\n\n" + strings.TrimSuffix(list.String(), "\n"),
		Subcommands: subs,
		Action: func(c *cli.Context) error {
			if name := c.Args().First(); name != "" {
				return noSub(c.Command, name)
			}
			return cli.ShowSubcommandHelp(c)
		},
	}
}

func noSub(command *cli.Command, name string) error {
	var names []string
	for _, sub := range command.Subcommands {
		names = append(names, sub.Name)
	}
	return &fail.Error{Kind: fail.Usage, Problem: fmt.Sprintf("there is no command %q of %s", name, command.Name), Advice: didYouMean(name, names, "", "walferry "+command.Name+" --help")}
}

// prepareSub does for a command of a command what newApp does for those of the app.
func prepareSub(app *cli.App, command, sub *cli.Command) {
	sub.HideHelpCommand, command.HideHelpCommand = true, true
	sub.Flags = withVariables(sub.Flags)
	sub.OnUsageError = func(c *cli.Context, err error, _ bool) error {
		err = explainFlag(&cli.App{Flags: app.Flags, Commands: command.Subcommands}, sub, err)
		if e := fail.Find(err, fail.Usage); e != nil {
			e.Advice = strings.Replace(e.Advice, "`walferry "+sub.Name, "`walferry "+command.Name+" "+sub.Name, 1)
		}
		return err
	}
}

// filesLast moves the options of a command of fleet in front of its other arguments, so that they may follow the file, too.
func filesLast(app *cli.App, args []string) []string {
	at := 1
	for at < len(args) && strings.HasPrefix(args[at], "-") { // global options, each of which has a value
		if !strings.Contains(args[at], "=") {
			at++
		}
		at++
	}
	if at+1 >= len(args) || args[at] != "fleet" || args[len(args)-1] == completionFlag {
		return args
	}
	command := app.Command("fleet")
	i := slices.IndexFunc(command.Subcommands, func(sub *cli.Command) bool { return sub.Name == args[at+1] })
	if i < 0 {
		return args
	}
	valued := map[string]bool{}
	for _, f := range command.Subcommands[i].Flags {
		if d, ok := f.(cli.DocGenerationFlag); ok && d.TakesValue() {
			valued[f.Names()[0]] = true
		}
	}
	var front, files []string
	for rest := args[at+2:]; len(rest) > 0; rest = rest[1:] {
		name := strings.TrimLeft(rest[0], "-")
		switch {
		case rest[0] == "--":
			files = append(files, rest...)
			rest = rest[len(rest)-1:]
		case name == rest[0]:
			files = append(files, name)
		case valued[name] && len(rest) > 1:
			front = append(front, rest[:2]...)
			rest = rest[1:]
		default:
			front = append(front, rest[0])
		}
	}
	return slices.Concat(args[:at+2], front, files)
}

// fleetKeys are the options of migrate that a fleet's file may have: what is switched when its waves say.
var fleetKeys = slices.DeleteFunc(slices.Clone(fileKeys), func(key string) bool {
	return slices.Contains([]string{"source", "target", "name", "log-level", "log-format", "cutover", "listen", "listen-token-file", "listen-tls-cert", "listen-tls-key"}, key)
})

// fleetFile reads the file of a fleet, whose path is the last argument, and sets up the log.
func fleetFile(ui *ui, c *cli.Context, arguments ...string) (*fleet.File, fleet.Options, error) {
	o := fleet.Options{Names: fleetKeys, Make: func(where string, values map[string]any) (migration.Config, error) {
		f := &file{path: where, values: map[string]any{}}
		for key, value := range values {
			if list, ok := value.([]any); ok {
				value = slices.Clone(list) // the texts of files are put into it
			}
			f.values[key] = value
		}
		if err := f.check(); err != nil {
			return migration.Config{}, err
		}
		if err := f.include(); err != nil {
			return migration.Config{}, err
		}
		s := &settings{flags: cli.NewContext(c.App, flag.NewFlagSet("", flag.ContinueOnError), nil), file: f}
		config, err := s.config(ui)
		ui.hide(config.Clients.PgBouncer...)
		return config, err
	}}
	want := append(arguments, "FILE")
	if c.NArg() != len(want) {
		return nil, o, &fail.Error{Kind: fail.Usage, Problem: fmt.Sprintf("fleet %s takes %s, and has %d arguments", c.Command.Name, strings.Join(want, " and "), c.NArg()), Advice: "FILE is the YAML file of the fleet: see docs/fleet.md"}
	}
	for _, option := range []string{"source", "target", "config", "name"} {
		if onCommandLine(ui.args, option) {
			return nil, o, &fail.Error{Kind: fail.Usage, Problem: "fleet has no --" + option, Advice: "servers and databases are in its file"}
		}
	}
	if err := ui.setLog(c.String("log-level"), c.String("log-format"), ""); err != nil {
		return nil, o, err
	}
	f, err := fleet.Read(c.Args().Get(len(arguments)), o)
	if err != nil {
		return nil, o, err
	}
	ui.hide(f.Secrets()...)
	if f.Open {
		ui.note("%s holds a password and can be read by other users: chmod 600 %s", f.Path, f.Path)
	}
	return f, o, nil
}

// resolved reads the file of a fleet and asks the servers for its databases.
func resolved(ui *ui, c *cli.Context, arguments ...string) (*fleet.Fleet, error) {
	f, o, err := fleetFile(ui, c, arguments...)
	if err != nil {
		return nil, err
	}
	return fleet.Resolve(c.Context, f, o)
}

func fleetCheckCommand(ui *ui) *cli.Command {
	return &cli.Command{
		Name: "check", Usage: "what would stop any of the migrations, or all of them together; changes nothing", ArgsUsage: "FILE",
		Flags: []cli.Flag{jsonFlag()},
		Action: func(c *cli.Context) error {
			f, err := resolved(ui, c)
			if err != nil {
				return err
			}
			report, err := f.Check(c.Context)
			if err != nil {
				return err
			}
			if c.Bool("json") {
				err = ui.result(report)
			} else {
				err = ui.printFleet(report)
			}
			if err == nil && report.Blocks() {
				err = &migration.CheckError{}
			}
			return err
		},
	}
}

// printFleet prints the report: servers, then findings, each with the migrations that it is about.
func (u *ui) printFleet(r *fleet.Report) error {
	var b strings.Builder
	for _, s := range r.Servers {
		fmt.Fprintf(&b, "%s: from it %d, to it %d, at most %d slots at a time\n", s.Address, s.Sources, s.Targets, s.Following)
		room := func(what string, room fleet.Room) {
			if room.Need > 0 {
				fmt.Fprintf(&b, "  %-12s needs %d of %d, others have %d\n", what, room.Need, room.Limit, room.Used)
			}
		}
		room("slots", s.Slots)
		room("wal senders", s.Senders)
		room("connections", s.Connected)
	}
	count := map[check.Severity]int{}
	finding := func(f check.Finding, whose string) {
		count[f.Severity]++
		on := f.On
		if f.Object != "" {
			on += ", " + f.Object
		}
		fmt.Fprintf(&b, "\n%-5s %s (%s)%s\n      %s\n", strings.ToUpper(string(f.Severity)), f.ID, indent(on), whose, indent(f.Seen))
		if f.Do != "" {
			fmt.Fprintf(&b, "      -> %s\n", indent(f.Do))
		}
		for _, sql := range f.SQL {
			fmt.Fprintf(&b, "         %s\n", strings.TrimSuffix(indent(sql), ";")+";")
		}
	}
	for _, p := range r.Problems {
		count[check.Block]++
		fmt.Fprintf(&b, "\nBLOCK instance\n      %s\n", indent(p))
	}
	for _, s := range r.Servers {
		for _, f := range s.Findings {
			finding(f, "")
		}
	}
	for _, shared := range r.Shared() {
		finding(shared.Finding, ": "+someNames(shared.Names, len(r.Databases)))
	}
	fmt.Fprintf(&b, "\n%d databases: %d block, %d warn: ", len(r.Databases), count[check.Block], count[check.Warn])
	if r.Blocks() {
		b.WriteString("fix what blocks, then check again\n")
	} else {
		b.WriteString("ready to run\n")
	}
	_, err := io.WriteString(u.stdout, clean(b.String()))
	return writeErr(err)
}

// someNames are the first of the names of migrations; of is how many there are.
func someNames(names []string, of int) string {
	const most = 5
	switch {
	case len(names) == of && of > 1:
		return fmt.Sprintf("all %d", of)
	case len(names) > most:
		return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
	}
	return strings.Join(names, ", ")
}
