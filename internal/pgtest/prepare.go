package pgtest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
)

// Prepare gets everything that the tests need for these major versions, all of them when there are
// none: the servers, npm to get them with, and psql and pg_dump. Where the system has apt-get and
// this is root, what is missing is installed; elsewhere the error names it.
func Prepare(ctx context.Context, majors []int, out io.Writer) error {
	all := len(majors) == 0
	if all {
		for major := Oldest; major <= Newest; major++ {
			majors = append(majors, major)
		}
	}
	if err := installPrograms(ctx, majors, out); err != nil {
		return err
	}
	var failed []error
	for _, major := range majors {
		b, err := obtain(ctx, major)
		if err == nil {
			var version string
			if version, err = b.version(ctx); err == nil {
				fmt.Fprintf(out, "PostgreSQL %-6s %s\n", version, b.bin)
			}
		}
		var absent *absentError
		if all && errors.As(err, &absent) {
			fmt.Fprintf(out, "PostgreSQL %-6d none: tests of it are skipped (%s names one that was built by hand)\n", major, serversVariable)
			continue
		}
		if err != nil {
			failed = append(failed, err)
		}
	}
	if all {
		failed = append(failed, prepareBouncers(ctx, out))
	}
	return errors.Join(failed...)
}

// installPrograms gets the programs that are not part of a server package.
func installPrograms(ctx context.Context, majors []int, out io.Writer) error {
	var missing, packages []string
	need := func(program, debian string) {
		if _, err := exec.LookPath(program); err != nil {
			missing = append(missing, program)
			packages = append(packages, debian)
		}
	}
	for _, major := range majors {
		if _, ok := find(major); !ok && releases[major] != "" {
			need("npm", "npm")
			break
		}
	}
	need("psql", "postgresql-client")
	need("pg_dump", "postgresql-client")
	if len(missing) == 0 {
		return nil
	}
	if _, err := exec.LookPath("apt-get"); err != nil || os.Geteuid() != 0 {
		return fmt.Errorf("not installed: %s; on Debian and Ubuntu they are in the packages %s, with Homebrew in node and postgresql",
			strings.Join(missing, ", "), strings.Join(packages, " "))
	}
	fmt.Fprintf(out, "installing %s\n", strings.Join(packages, " "))
	install := append([]string{"install", "-y", "-q"}, packages...)
	if aptGet(ctx, install...) == nil {
		return nil
	}
	// A fresh system has no list of packages.
	if err := aptGet(ctx, "update", "-q"); err != nil {
		return err
	}
	return aptGet(ctx, install...)
}

func aptGet(ctx context.Context, args ...string) error {
	cmd := exec.CommandContext(ctx, "apt-get", args...)
	cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("apt-get %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return nil
}
