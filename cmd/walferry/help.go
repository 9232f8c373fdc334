package main

import (
	"fmt"
	"strings"

	"github.com/urfave/cli/v2"
)

// helpCommand prints the help of walferry, or of one command.
func helpCommand(ui *ui) *cli.Command {
	return &cli.Command{
		Name: "help", Usage: "print the help of a command", ArgsUsage: "[command]",
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
	return &usageError{fmt.Sprintf("there is no command %q", name), didYouMean(name, names, "", "walferry --help")}
}

// commandHelp is the flag package's template for a command with the global options, which
// may stand behind the command as well, and the rule for the environment.
func commandHelp() string {
	var b strings.Builder
	b.WriteString(cli.CommandHelpTemplate + "\nGLOBAL OPTIONS:\n")
	for _, f := range globalFlags() {
		b.WriteString("   " + f.String() + "\n")
	}
	return b.String()
}

// completions are what a shell sources, such as: source <(walferry completion bash). The
// binary itself says what comes next.
var completions = map[string]string{
	"bash": `_walferry() {
  local cur="${COMP_WORDS[COMP_CWORD]}" words=("${COMP_WORDS[@]:0:COMP_CWORD}")
  [[ $cur == -* ]] && words+=("$cur")
  COMPREPLY=($(compgen -W "$("${words[@]}" --generate-bash-completion 2>/dev/null)" -- "$cur"))
}
complete -o bashdefault -o default -F _walferry walferry
`,
	"zsh": `autoload -U compinit bashcompinit && compinit && bashcompinit
source <(walferry completion bash)
`,
}

func completionCommand(ui *ui) *cli.Command {
	return &cli.Command{
		Name: "completion", Usage: "print what makes a shell complete walferry's commands and options", ArgsUsage: "bash|zsh|fish",
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
				return &usageError{fmt.Sprintf("there is no completion for %q", shell), "it is there for bash, zsh and fish: source <(walferry completion bash)"}
			}
			_, err := fmt.Fprint(ui.stdout, text)
			return writeErr(err)
		},
	}
}
