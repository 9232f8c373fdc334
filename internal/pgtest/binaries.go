package pgtest

import (
	"context"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
)

// Oldest and Newest are the first and the last major version there is a server for.
const (
	Oldest = 10
	Newest = 19
)

// binaries is one installation of a PostgreSQL server.
type binaries struct {
	major int
	bin   string // folder with initdb and postgres
	lib   string // folder of shared libraries that the loader must be told of; empty: none
}

// installedDirs are the places where distributions and Homebrew put the programs of one major
// version.
var installedDirs = []string{
	"/usr/lib/postgresql/%d/bin",
	"/usr/pgsql-%d/bin",
	"/opt/homebrew/opt/postgresql@%d/bin",
	"/usr/local/opt/postgresql@%d/bin",
	"/home/linuxbrew/.linuxbrew/opt/postgresql@%d/bin",
}

// serversVariable holds a pattern like those of installedDirs, to be searched before them: for a
// server that was built by hand.
const serversVariable = "WALFERRY_TEST_SERVERS"

// clientsFromEnvironment lets pg_dump of the newest server that serversVariable names be found: no
// other reads a source of that version.
func clientsFromEnvironment() {
	pattern := os.Getenv(serversVariable)
	for major := Newest; major >= Oldest && strings.Contains(pattern, "%d"); major-- {
		dir := fmt.Sprintf(pattern, major)
		if _, err := os.Stat(filepath.Join(dir, "pg_dump")); err == nil {
			os.Setenv("PATH", dir+string(filepath.ListSeparator)+os.Getenv("PATH"))
			return
		}
	}
}

// absentError reports that there is no server of a major version and no known package of it: not a
// fault of the test that wanted it.
type absentError struct{ major int }

func (e *absentError) Error() string {
	return fmt.Sprintf("PostgreSQL %d is not installed, and there is no package of it to install by itself: install it, or name its programs' folder, as in %s='/opt/postgresql-%%d/bin'", e.major, serversVariable)
}

// obtain returns a server of a major version: an installed one, one from the cache, or one that it
// installs into the cache.
func obtain(ctx context.Context, major int) (binaries, error) {
	if major < Oldest || major > Newest {
		return binaries{}, fmt.Errorf("there is no PostgreSQL %d to test with: majors are %d to %d", major, Oldest, Newest)
	}
	if b, ok := find(major); ok {
		return b, nil
	}
	if releases[major] == "" {
		return binaries{}, &absentError{major}
	}
	if err := install(ctx, major); err != nil {
		return binaries{}, fmt.Errorf("install PostgreSQL %d: %w", major, err)
	}
	b, ok := find(major)
	if !ok {
		return binaries{}, fmt.Errorf("install PostgreSQL %d: no server in the package", major)
	}
	return b, nil
}

// find looks for a server of a major version on this machine.
func find(major int) (binaries, bool) {
	for _, pattern := range append([]string{os.Getenv(serversVariable)}, installedDirs...) {
		if !strings.Contains(pattern, "%d") {
			continue
		}
		b := binaries{major: major, bin: fmt.Sprintf(pattern, major)}
		if b.present() {
			return b, true
		}
	}
	native, err := cachedPackage(major)
	if err != nil || releases[major] == "" {
		return binaries{}, false
	}
	b := binaries{
		major: major,
		bin:   filepath.Join(native, "native", "bin"),
		lib:   filepath.Join(native, "native", "lib"),
	}
	return b, b.present()
}

// newest is the highest major version that needs no download, else the highest there is a package
// of.
func newest() int {
	for major := Newest; major >= Oldest; major-- {
		if _, ok := find(major); ok {
			return major
		}
	}
	return slices.Max(slices.Collect(maps.Keys(releases)))
}

func (b binaries) present() bool {
	for _, program := range []string{"initdb", "postgres"} {
		info, err := os.Stat(filepath.Join(b.bin, program))
		if err != nil || info.Mode()&0o111 == 0 {
			return false
		}
	}
	return true
}

// env is the environment for b's programs: the current one without libpq's variables, which would
// lead them elsewhere.
func (b binaries) env() []string {
	var env []string
	for _, e := range os.Environ() {
		if !strings.HasPrefix(e, "PG") && !strings.HasPrefix(e, "LC_") && !strings.HasPrefix(e, "LANG") {
			env = append(env, e)
		}
	}
	// initdb takes the time zone from here; looking for the system's takes it long.
	env = append(env, "TZ=UTC")
	if b.lib != "" && runtime.GOOS == "linux" {
		env = append(env, "LD_LIBRARY_PATH="+b.lib)
	}
	return env
}

// version returns what the server says of itself, such as "15.18".
func (b binaries) version(ctx context.Context) (string, error) {
	a, err := serverAccount()
	if err != nil {
		return "", err
	}
	cmd := exec.CommandContext(ctx, filepath.Join(b.bin, "postgres"), "--version")
	cmd.Env, cmd.Dir = b.env(), "/"
	a.run(cmd)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("run postgres --version: %w: %s", err, out)
	}
	// postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)
	fields := strings.Fields(string(out))
	if len(fields) < 3 || !strings.HasPrefix(fields[2], strconv.Itoa(b.major)) {
		return "", fmt.Errorf("run postgres --version: want a server of major %d, got %q", b.major, out)
	}
	return fields[2], nil
}
