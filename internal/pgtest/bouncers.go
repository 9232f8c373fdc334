package pgtest

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
)

// systemBouncer is where Debian's package installs PgBouncer.
const systemBouncer = "/usr/sbin/pgbouncer"

// bouncerSuites are the releases of Debian whose PgBouncer is tested: the oldest that is in use (1.18), and
// the newest.
var bouncerSuites = []string{"bookworm", "sid"}

// oldBouncer and newBouncer are what tests must have run with: 1.18, and 1.24 or newer.
const oldBouncer, newBouncer = 18, 24

// debianKeyring is what Debian's lists are signed with. Without it they are not believed.
const debianKeyring = "/usr/share/keyrings/debian-archive-keyring.gpg"

func cachedBouncer(suite string) (string, error) {
	dir, err := cacheDir()
	if err != nil {
		return "", err
	}
	return filepath.Join(dir, "servers", "pgbouncer-"+suite), nil
}

// bouncerPaths are where a PgBouncer may be.
func bouncerPaths() []string {
	paths := []string{systemBouncer}
	for _, suite := range bouncerSuites {
		if dir, err := cachedBouncer(suite); err == nil {
			paths = append(paths, filepath.Join(dir, "pgbouncer"))
		}
	}
	return append(paths, os.Getenv("WALFERRY_TEST_PGBOUNCER"))
}

// BouncerVersion returns what a program says that it is, such as 1.18.0.
func BouncerVersion(path string) (string, error) {
	out, err := exec.Command(path, "--version").Output()
	if err != nil {
		return "", err
	}
	line, _, _ := strings.Cut(string(out), "\n")
	return strings.TrimPrefix(line, "PgBouncer "), nil
}

// BouncerKnows reports whether a version of PgBouncer is at least 1.minor.
func BouncerKnows(version string, minor int) bool {
	parts := strings.Split(version, ".")
	if len(parts) < 2 {
		return false
	}
	n, err := strconv.Atoi(parts[1])
	return err == nil && n >= minor
}

// prepareBouncers gets the releases of PgBouncer that are tested into the cache, where apt can. Nothing is installed: its
// package would start one.
func prepareBouncers(ctx context.Context, out io.Writer) error {
	for _, suite := range bouncerSuites {
		path := systemBouncer
		version, err := BouncerVersion(path)
		if err != nil || suite != bouncerSuites[0] || BouncerKnows(version, oldBouncer+1) {
			var dir string
			if dir, err = cachedBouncer(suite); err != nil {
				return err
			}
			path = filepath.Join(dir, "pgbouncer")
			if err = fetchBouncer(ctx, suite, dir); err == nil {
				version, err = BouncerVersion(path)
			}
		}
		if err != nil {
			if ctx.Err() != nil {
				return err
			}
			fmt.Fprintf(out, "PgBouncer of Debian %s: none, it is not tested: %v\n", suite, err)
			continue
		}
		fmt.Fprintf(out, "PgBouncer %-7s %s\n", version, path)
	}
	return nil
}

// fetchBouncer unpacks a release's PgBouncer, with the libraries of that release, into a folder of the cache.
func fetchBouncer(ctx context.Context, suite, final string) error {
	unlock, err := lock("pgbouncer-" + suite)
	if err != nil {
		return err
	}
	defer unlock()
	if _, err := os.Stat(final); err == nil {
		return nil
	}
	if _, err := os.Stat(debianKeyring); err != nil {
		return errors.New("this is not Debian; WALFERRY_TEST_PGBOUNCER names one")
	}
	if err := os.MkdirAll(filepath.Dir(final), 0o755); err != nil {
		return err
	}
	work, err := os.MkdirTemp(filepath.Dir(final), ".new-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	mirrors, err := aptMirrors(ctx)
	if err != nil {
		return err
	}
	errs := []error{errors.New("apt has no mirror of Debian")}
	for i, mirror := range mirrors {
		a := apt{dir: filepath.Join(work, fmt.Sprint("apt", i)), root: filepath.Join(work, "root")}
		if err := a.fetch(ctx, mirror, suite); err != nil {
			errs = append(errs, err)
			continue
		}
		if err := wrapBouncer(a.root, final); err != nil {
			return err
		}
		if err := makeReadable(a.root); err != nil {
			return err
		}
		return os.Rename(a.root, final)
	}
	return errors.Join(errs...)
}

// aptMirrors returns the archives that this system's apt gets its packages from.
func aptMirrors(ctx context.Context) (mirrors []string, err error) {
	out, err := exec.CommandContext(ctx, "apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages").Output()
	if err != nil {
		return nil, fmt.Errorf("ask apt where it gets packages from: %w", err)
	}
	seen := map[string]bool{}
	for lines := bufio.NewScanner(bytes.NewReader(out)); lines.Scan(); {
		if uri := lines.Text(); !seen[uri] && strings.HasSuffix(strings.TrimSuffix(uri, "/"), "/debian") {
			seen[uri] = true
			mirrors = append(mirrors, uri)
		}
	}
	return mirrors, nil
}

// apt is apt with lists of its own, that leaves the system as it is.
type apt struct{ dir, root string }

func (a apt) run(ctx context.Context, program string, args ...string) ([]byte, error) {
	options := []string{
		"-o", "Dir::Etc::sourcelist=" + filepath.Join(a.dir, "sources.list"), "-o", "Dir::Etc::sourceparts=-",
		"-o", "Dir::State=" + filepath.Join(a.dir, "state"), "-o", "Dir::State::status=/dev/null",
		"-o", "Dir::Cache=" + filepath.Join(a.dir, "cache"), "-o", "Acquire::Languages=none",
		"-o", fmt.Sprint("APT::Sandbox::User=#", os.Geteuid()),
	}
	cmd := exec.CommandContext(ctx, program, append(options, args...)...)
	cmd.Dir = a.dir
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("%s %s: %w: %s", program, args[0], err, bytes.TrimSpace(errs.Bytes()))
	}
	return out, err
}

// fetch unpacks PgBouncer and the libraries that it needs below root.
func (a apt) fetch(ctx context.Context, mirror, suite string) error {
	for _, dir := range []string{"state/lists/partial", "cache/archives/partial"} {
		if err := os.MkdirAll(filepath.Join(a.dir, dir), 0o755); err != nil {
			return err
		}
	}
	line := fmt.Sprintf("deb [signed-by=%s] %s %s main\n", debianKeyring, mirror, suite)
	if err := os.WriteFile(filepath.Join(a.dir, "sources.list"), []byte(line), 0o644); err != nil {
		return err
	}
	if _, err := a.run(ctx, "apt-get", "update", "-q"); err != nil {
		return err
	}
	out, err := a.run(ctx, "apt-cache", "depends", "--recurse", "--important", "pgbouncer")
	if err != nil {
		return err
	}
	get := []string{"download", "-q", "pgbouncer"}
	for lines := bufio.NewScanner(bytes.NewReader(out)); lines.Scan(); {
		// What it depends on begins at the margin. Programs and Perl, which other packages need, it does without.
		if name := lines.Text(); strings.HasPrefix(name, "lib") && !strings.Contains(name, "perl") {
			get = append(get, name)
		}
	}
	if _, err := a.run(ctx, "apt-get", get...); err != nil {
		return err
	}
	packages, err := filepath.Glob(filepath.Join(a.dir, "*.deb"))
	if err != nil {
		return err
	}
	for _, p := range packages {
		if out, err := exec.CommandContext(ctx, "dpkg-deb", "-x", p, a.root).CombinedOutput(); err != nil {
			return fmt.Errorf("unpack %s: %w: %s", filepath.Base(p), err, out)
		}
	}
	return nil
}

// wrapBouncer makes the program pgbouncer below root: it runs that of the package with the loader and the libraries of its own
// release, which will be in the folder final.
func wrapBouncer(root, final string) error {
	var loader string
	dirs := map[string]bool{}
	for _, pattern := range []string{"lib/*", "usr/lib/*", "lib"} {
		libraries, err := filepath.Glob(filepath.Join(root, pattern, "*.so.*"))
		if err != nil {
			return err
		}
		for _, path := range libraries {
			at, err := filepath.Rel(root, path)
			if err != nil {
				return err
			}
			dirs[filepath.Join(final, filepath.Dir(at))] = true
			if strings.HasPrefix(filepath.Base(at), "ld-linux") {
				loader = filepath.Join(final, at)
			}
		}
	}
	if loader == "" {
		return errors.New("the release's packages have no loader")
	}
	var path []string
	for dir := range dirs {
		path = append(path, dir)
	}
	script := fmt.Sprintf("#!/bin/sh\nexec '%s' --library-path '%s' '%s' \"$@\"\n", loader, strings.Join(path, ":"), filepath.Join(final, "usr", "sbin", "pgbouncer"))
	return os.WriteFile(filepath.Join(root, "pgbouncer"), []byte(script), 0o755)
}
