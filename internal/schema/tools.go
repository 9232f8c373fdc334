package schema

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"

	"github.com/walferry/walferry/internal/fail"
)

// Tools are the client programs used to read a schema.
type Tools struct {
	PgDump  string // path of pg_dump
	Version string // such as 17.5
	Major   int
}

// binDirs are where distributions and Homebrew put the programs of the major versions.
var binDirs = []string{
	"/usr/lib/postgresql/*/bin",
	"/usr/pgsql-*/bin",
	"/opt/homebrew/opt/postgresql@*/bin",
	"/opt/homebrew/opt/libpq/bin",
	"/usr/local/opt/postgresql@*/bin",
	"/usr/local/opt/libpq/bin",
	"/usr/local/pgsql/bin",
	"/home/linuxbrew/.linuxbrew/opt/postgresql@*/bin",
}

// Find returns the pg_dump that suits a move between two major versions: of the
// target's major, else the next newer one, else the newest that is not older
// than the source (pg_dump refuses newer servers). The error is a [fail.Error], or
// the cause of ctx.
func Find(ctx context.Context, sourceMajor, targetMajor int) (Tools, error) {
	var found []Tools
	for _, path := range candidates() {
		if t, err := inspect(ctx, path); err == nil {
			found = append(found, t)
		}
	}
	if err := ctx.Err(); err != nil {
		return Tools{}, context.Cause(ctx)
	}
	return choose(found, sourceMajor, targetMajor)
}

func choose(found []Tools, sourceMajor, targetMajor int) (Tools, error) {
	wanted := max(sourceMajor, targetMajor)
	advice := fmt.Sprintf("install postgresql-client-%d (Debian, Ubuntu; from apt.postgresql.org) or postgresql%d (Red Hat; from yum.postgresql.org),"+
		" or create the schema on the target yourself and use --schema none", wanted, wanted)
	if len(found) == 0 {
		return Tools{}, &fail.Error{Kind: fail.Run, Problem: "find pg_dump: it is neither in PATH nor where packages put it", Advice: advice}
	}
	better := func(a, b Tools) bool { // a rather than b
		switch aNew, bNew := a.Major >= wanted, b.Major >= wanted; {
		case aNew != bNew:
			return aNew
		case a.Major == b.Major:
			return false // the one found first
		case aNew:
			return a.Major < b.Major
		default:
			return a.Major > b.Major
		}
	}
	best := found[0]
	for _, t := range found[1:] {
		if better(t, best) {
			best = t
		}
	}
	if best.Major < sourceMajor {
		return Tools{}, &fail.Error{
			Kind:    fail.Run,
			Problem: fmt.Sprintf("find pg_dump: the newest, %s, is version %s, and the source is PostgreSQL %d, which it refuses to read", best.PgDump, best.Version, sourceMajor),
			Advice:  advice,
		}
	}
	return best, nil
}

// candidates returns the paths of every pg_dump there is, that of PATH first.
func candidates() []string {
	var paths []string
	add := func(path string) {
		real, err := filepath.EvalSymlinks(path)
		// Debian's wrapper chooses a version by the local cluster that it takes the connection to
		// be for, and not the one it reports.
		if err != nil || filepath.Base(real) == "pg_wrapper" || slices.Contains(paths, real) {
			return
		}
		paths = append(paths, real)
	}
	for _, dir := range filepath.SplitList(os.Getenv("PATH")) {
		if filepath.IsAbs(dir) {
			add(filepath.Join(dir, "pg_dump"))
		}
	}
	for _, pattern := range binDirs {
		dirs, _ := filepath.Glob(pattern)
		for _, dir := range dirs {
			add(filepath.Join(dir, "pg_dump"))
		}
	}
	return paths
}

var versionPattern = regexp.MustCompile(`\) ((\d+)[.\w]*)`)

// inspect asks a pg_dump for its version.
func inspect(ctx context.Context, path string) (Tools, error) {
	cmd := exec.CommandContext(ctx, path, "--version")
	cmd.Env = childEnv()
	out, err := cmd.Output()
	if err != nil {
		return Tools{}, err
	}
	m := versionPattern.FindStringSubmatch(string(out))
	if m == nil {
		return Tools{}, errors.New("no version in the output of " + path)
	}
	major, err := strconv.Atoi(m[2])
	if err != nil {
		return Tools{}, err
	}
	return Tools{PgDump: path, Version: m[1], Major: major}, nil
}
