package state

import (
	"fmt"
	"strings"
	"time"
)

// String returns the options as a shell takes them, without those that have their defaults.
func (o Options) String() string {
	args := o.args()
	for i, arg := range args {
		if strings.Trim(arg, plainInShell) != "" {
			args[i] = "'" + strings.ReplaceAll(arg, "'", `'\''`) + "'"
		}
	}
	return strings.Join(args, " ")
}

// plainInShell are characters that have no meaning to a shell.
const plainInShell = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.,:-"

func (o Options) args() (args []string) {
	for _, part := range []struct {
		option string
		values []string
	}{{"--include", o.Include}, {"--exclude", o.Exclude}, {"--insert-only", o.InsertOnly}, {"--without", o.Without}} {
		for _, value := range part.values {
			args = append(args, part.option, value)
		}
	}
	for _, part := range []struct{ option, value, usual string }{
		{"--schema", o.Schema, "dump"},
		{"--until", o.Until, "cutover"},
		{"--cutover", o.Cutover, "manual"},
		{"--on-new-table", o.OnNewTable, "stop"},
		{"--fall-back", o.FallBack, "off"},
	} {
		if part.value != "" && part.value != part.usual {
			args = append(args, part.option, part.value)
		}
	}
	if o.Verify {
		args = append(args, "--verify")
	}
	if o.MaxRetainedWAL > 0 {
		args = append(args, "--max-retained-wal", sizeArg(o.MaxRetainedWAL))
	}
	if o.MaxRetainedWALTarget > 0 {
		args = append(args, "--max-retained-wal-target", sizeArg(o.MaxRetainedWALTarget))
	}
	for _, part := range []struct {
		option         string
		seconds, usual float64
	}{{"--timeout", o.Timeout, 60}, {"--max-lag", o.MaxLag, 5}} {
		if part.seconds != 0 && part.seconds != part.usual {
			args = append(args, part.option, time.Duration(part.seconds*float64(time.Second)).String())
		}
	}
	return args
}

// sizeArg returns a size in the largest unit that it is a whole number of.
func sizeArg(n int64) string {
	units := []string{"B", "kB", "MB", "GB", "TB"}
	i := 0
	for i < len(units)-1 && n%1024 == 0 {
		n, i = n/1024, i+1
	}
	return fmt.Sprintf("%d%s", n, units[i])
}
