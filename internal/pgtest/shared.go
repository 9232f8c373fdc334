package pgtest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// startTimeout leaves time for a download of the server.
const startTimeout = 5 * time.Minute

// New starts a server of the test's own, closed when the test ends.
func New(tb testing.TB, o Options) *Server {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), startTimeout)
	defer cancel()
	s, err := Launch(ctx, o)
	skipAbsent(tb, err)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := s.Close(); err != nil {
			tb.Errorf("close PostgreSQL %d: %v", s.Major, err)
		}
	})
	return s
}

// shared holds the servers that the tests of this process share, by major version. A server that
// did not start is not tried a second time.
var shared struct {
	sync.Mutex
	servers map[int]func() (*Server, error)
}

// Shared returns the server of a major version that the tests of this process share. It is started
// on first use and ends with [Main], or with the process. Tests must neither stop it nor change its
// settings.
func Shared(tb testing.TB, major int) *Server {
	tb.Helper()
	major = instead(major)
	shared.Lock()
	start, ok := shared.servers[major]
	if !ok {
		start = sync.OnceValues(func() (*Server, error) {
			ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
			defer cancel()
			return launchMajor(ctx, Options{}, major)
		})
		if shared.servers == nil {
			shared.servers = map[int]func() (*Server, error){}
		}
		shared.servers[major] = start
	}
	shared.Unlock()

	s, err := start()
	skipAbsent(tb, err)
	if err != nil {
		tb.Fatal(err)
	}
	return s
}

// skipAbsent skips a test whose server is not available on this machine.
func skipAbsent(tb testing.TB, err error) {
	tb.Helper()
	var absent *absentError
	if errors.As(err, &absent) {
		tb.Skip(absent)
	}
}

// Main is for a package's TestMain: it runs the tests and stops the shared servers. Without it they
// end a moment after the process has.
func Main(m *testing.M) {
	clientsFromEnvironment()
	m.Run() // its result becomes the exit code when TestMain returns
	shared.Lock()
	defer shared.Unlock()
	for _, start := range shared.servers {
		s, err := start()
		if err != nil {
			continue // the test has said so
		}
		if err := s.Close(); err != nil {
			fmt.Fprintln(os.Stderr, "pgtest:", err)
		}
	}
	shared.servers = nil
}

// Pair returns the URLs of fresh databases on a source and on a target. They are on shared servers
// of these major versions, unless WALFERRY_TEST_SOURCE or WALFERRY_TEST_TARGET holds the connection
// string of a running server whose role may create databases: then on that one, whatever its
// version.
func Pair(tb testing.TB, sourceMajor, targetMajor int) (source, target string) {
	tb.Helper()
	side := func(variable string, major int) string {
		if admin := os.Getenv(variable); admin != "" {
			return freshDatabase(tb, admin, func() bool { return true })
		}
		return Shared(tb, major).Database(tb)
	}
	return side("WALFERRY_TEST_SOURCE", sourceMajor), side("WALFERRY_TEST_TARGET", targetMajor)
}

// Default returns the major versions for tests that do not care: 15 and 18, or what
// WALFERRY_TEST_SOURCE_MAJOR and WALFERRY_TEST_TARGET_MAJOR say.
func Default() (source, target int) {
	return majorFrom("WALFERRY_TEST_SOURCE_MAJOR", 15), majorFrom("WALFERRY_TEST_TARGET_MAJOR", 18)
}

func majorFrom(variable string, otherwise int) int {
	text := os.Getenv(variable)
	if text == "" {
		return instead(otherwise)
	}
	major, err := strconv.Atoi(text)
	if err != nil {
		// A wrong value must not quietly test another version.
		panic(fmt.Sprintf("%s=%q is not a major version", variable, text))
	}
	return major
}

// insteadVariable moves tests that name a version to another one: 18=19 gives each that asks for a
// server of 18 one of 19; several are separated by commas.
const insteadVariable = "WALFERRY_TEST_INSTEAD"

// instead is the major version that a test gets which asks for this one.
func instead(major int) int {
	text := os.Getenv(insteadVariable)
	if text == "" {
		return major
	}
	for rule := range strings.SplitSeq(text, ",") {
		var from, to int
		if _, err := fmt.Sscanf(rule, "%d=%d", &from, &to); err != nil {
			panic(fmt.Sprintf("%s=%q: %q is not of the form 18=19", insteadVariable, text, rule))
		}
		if from == major {
			return to
		}
	}
	return major
}
