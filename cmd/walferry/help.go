package main

import (
	"fmt"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/walferry/walferry/internal/fail"
)

// helpCommand prints the help of walferry, or of one command.
func helpCommand(ui *ui) *cli.Command {
	return &cli.Command{
		Name: "help", Usage: "print the help of a command", ArgsUsage: "[command]",
		BashComplete: func(c *cli.Context) {
			for _, command := range c.App.Commands {
				fmt.Fprintln(c.App.Writer, command.Name)
			}
		},
		Action: func(c *cli.Context) error {
			name := c.Args().First()
			if name == "" {
				return cli.ShowAppHelp(c)
			}
			if c.App.Command(name) == nil {
				return noCommand(c.App, name)
			}
			return cli.ShowCommandHelp(c, name)
		},
	}
}

func noCommand(app *cli.App, name string) error {
	var names []string
	for _, c := range app.Commands {
		names = append(names, c.Name)
	}
	return &fail.Error{Kind: fail.Usage, Problem: fmt.Sprintf("there is no command %q", name), Advice: didYouMean(name, names, "", "walferry --help")}
}

// commandHelp is the flag package's template for a command plus the global options, which may
// follow the command as well, and the rule for the environment.
func commandHelp() string {
	var b strings.Builder
	b.WriteString(cli.CommandHelpTemplate + "\nGLOBAL OPTIONS:\n")
	for _, f := range globalFlags() {
		b.WriteString("   " + f.String() + "\n")
	}
	return b.String()
}

// completions are sourced by a shell, such as: source <(walferry completion bash). The binary
// itself lists what may come next. It gets the word to be completed only if that is an option, and
// not if it is "--", which would end the options; bash makes = a word of its own.
var completions = map[string]string{
	"bash": `_walferry() {
  local cur="${COMP_WORDS[COMP_CWORD]}" words=("${COMP_WORDS[@]:0:$COMP_CWORD}")
  case "$cur" in
    =) words+=("$cur") cur= ;;
    - | --) words+=(-) ;;
    -*) words+=("$cur") ;;
  esac
  COMPREPLY=($(compgen -W "$("${words[@]}" --generate-bash-completion 2>/dev/null)" -- "$cur"))
}
complete -o bashdefault -o default -F _walferry walferry
`,
	"zsh": `autoload -U compinit bashcompinit && compinit && bashcompinit
source <(walferry completion bash)
`,
}

// optionValues are the values of options that take one of a few words.
var optionValues = map[string][]string{
	"until":        {"copied", "caught-up", "cutover"},
	"cutover":      {"manual", "auto"},
	"schema":       {"dump", "none"},
	"on-new-table": {"stop", "ignore"},
	"fall-back":    {"auto", "require", "off"},
	"sql":          {"source", "target"},
	"log-level":    {"debug", "info", "warn", "error"},
	"log-format":   {"text", "json"},
}

// completeValue prints the values of the option in front of the word to be completed, and reports
// whether there is such an option.
func completeValue(ui *ui, args []string) bool {
	if len(args) < 2 || args[len(args)-1] != completionFlag {
		return false
	}
	args = args[:len(args)-1]
	if args[len(args)-1] == "=" {
		args = args[:len(args)-1]
	}
	option, ok := strings.CutPrefix(args[len(args)-1], "--")
	option, _, inline := strings.Cut(option, "=") // zsh does not split at =
	prefix := ""
	if inline {
		prefix = "--" + option + "="
	}
	values := optionValues[option]
	for _, value := range values {
		fmt.Fprintln(ui.stdout, prefix+value)
	}
	return ok && len(values) > 0
}

// completionFlag asks the flag package for completions.
const completionFlag = "--generate-bash-completion"

// completeCommand prints what may follow a command: its options and the global ones.
func completeCommand(ui *ui, command *cli.Command) cli.BashCompleteFunc {
	return func(c *cli.Context) {
		cli.DefaultCompleteWithFlags(command)(c)
		last := ui.args[len(ui.args)-2]
		for _, f := range globalFlags() {
			if name := "--" + f.Names()[0]; strings.HasPrefix(last, "-") && strings.HasPrefix(name, last) {
				fmt.Fprintln(c.App.Writer, name)
			}
		}
	}
}

func completeWith(words ...string) cli.BashCompleteFunc {
	return func(c *cli.Context) {
		for _, word := range words {
			fmt.Fprintln(c.App.Writer, word)
		}
	}
}

func completionCommand(ui *ui) *cli.Command {
	return &cli.Command{
		Name: "completion", Usage: "print a script that completes walferry's commands and options in a shell", ArgsUsage: "bash|zsh|fish",
		BashComplete: completeWith("bash", "zsh", "fish"),
		Action: func(c *cli.Context) error {
			shell := c.Args().First()
			text, ok := completions[shell]
			if shell == "fish" {
				var err error
				if text, err = c.App.ToFishCompletion(); err != nil {
					return err
				}
				ok = true
			}
			if !ok {
				return &fail.Error{Kind: fail.Usage, Problem: fmt.Sprintf("there is no completion for %q", shell), Advice: "shells with completion are bash, zsh and fish: source <(walferry completion bash)"}
			}
			_, err := fmt.Fprint(ui.stdout, text)
			return writeErr(err)
		},
	}
}
