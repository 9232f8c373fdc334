package schema

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/fail"
	"github.com/walferry/walferry/internal/session"
)

// Options say what of the source's schema is wanted.
type Options struct {
	// Exclude are tables (schema, name) that do not move. Whatever depends on one, such as a view
	// or a foreign key, stays behind with it and is listed in the report of PreData or Finish.
	// Zero: everything moves.
	Exclude []catalog.Name

	// Refused are the names of objects that the target has refused, see Refused. Finish tries those
	// of before the data again.
	Refused []string
}

// Dump is the schema of a source. Its methods may be used by several goroutines.
type Dump struct {
	// Archive is what pg_dump wrote. It can be kept and used on another machine, see Open.
	Archive []byte

	Source string // version of the server it was made of
	Dumper string // version of the pg_dump that made it

	entries []*entry // that are wanted, in an order that satisfies their dependencies
	setup   string   // what the statements of the archive rely on
	left    []Skipped

	refused   []string
	indexes   map[string][]Index // by table
	matviews  []catalog.Name
	ambiguous map[key]bool // keys of several entries, as "a b" "c" and "a" "b c"
}

// lockWait bounds how long pg_dump waits for the ACCESS SHARE lock on each
// table. While it waits, every later lock of the application on that table
// waits behind it.
const lockWait = 30 * time.Second

// Dump reads the schema of the source. Publications, subscriptions, large
// objects, table rows and schema walferry are left out. Its errors are those of
// session.Parse, a [fail.Error] and a *FormatError.
func (t Tools) Dump(ctx context.Context, sourceDSN string, o Options) (*Dump, error) {
	c, err := newConninfo(sourceDSN, t.Major)
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, t.PgDump,
		"--format=custom", "--compress=0", "--encoding=UTF8",
		// Not --schema-only: only so the archive says which materialized views are filled.
		"--section=pre-data", "--section=post-data", "--no-blobs",
		"--no-publications", "--no-subscriptions", "--exclude-schema=walferry",
		"--lock-wait-timeout="+fmt.Sprint(lockWait.Milliseconds()), "--no-password",
		"--dbname="+c.text)
	cmd.Env = append(childEnv(), c.env...)
	cmd.Dir = "/"
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &limited{&stderr}
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) } // pg_dump then cancels its query
	cmd.WaitDelay = 5 * time.Second
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return nil, fmt.Errorf("dump schema: %w", context.Cause(ctx))
		}
		return nil, dumpError(err, session.Redact(stderr.String(), c.secrets...))
	}
	return Open(stdout.Bytes(), o)
}

// limited keeps the beginning of what is written to it: a server's messages can have any length.
type limited struct{ *bytes.Buffer }

func (l *limited) Write(p []byte) (int, error) {
	if room := 16<<10 - l.Len(); room > 0 {
		l.Buffer.Write(p[:min(room, len(p))])
	}
	return len(p), nil
}

// dumpError says why pg_dump failed, by what it wrote to stderr.
func dumpError(err error, stderr string) error {
	text := strings.ToValidUTF8(strings.TrimSpace(stderr), "?")
	text = strings.Map(func(r rune) rune {
		if r < ' ' && r != '\n' {
			return ' '
		}
		return r
	}, text)
	e := &fail.Error{Kind: fail.Run, Problem: "dump schema: " + err.Error(), Err: err}
	if text != "" {
		e.Problem = "dump schema: " + strings.ReplaceAll(text, "\n", "; ")
	}
	switch {
	case strings.Contains(text, "permission denied"):
		e.Advice = "pg_dump locks every table in ACCESS SHARE mode: grant usage on the schema and select on the tables and sequences in it to the role of the source"
	case strings.Contains(text, "lock timeout"):
		e.Advice = "another session holds an ACCESS EXCLUSIVE lock (ALTER TABLE, VACUUM FULL, ...): wait for it and run the same command again"
	case strings.Contains(text, "server version mismatch"):
		e.Advice = "install the client programs of the source's major version or newer, or use --schema none"
	case strings.Contains(text, "out of shared memory"):
		e.Advice = "raise max_locks_per_transaction on the source: pg_dump locks every table at once"
	case strings.Contains(text, "SSL support is not compiled in"):
		e.Advice = "this pg_dump cannot do TLS: put one of the distribution's or of postgresql.org first in PATH, or use --schema none"
	case strings.Contains(text, "certificate"):
		e.Advice = "give sslrootcert in the connection string: the file of PEM certificates that signed the server's"
	}
	return e
}

// Open reads an archive that Tools.Dump made. Options must be the same as then.
func Open(data []byte, o Options) (*Dump, error) {
	a, err := readArchive(data)
	if err != nil {
		return nil, err
	}
	d := &Dump{Archive: data, Source: a.server, Dumper: a.dumper, setup: setup, refused: o.Refused}
	gone := withDependents(a.entries, o.Exclude)
	for _, e := range a.entries {
		switch {
		case e.kind == "STDSTRINGS":
			d.setup += strings.Replace(e.sql, "SET ", "set local ", 1)
		case e.kind == "ENCODING" || e.kind == "SEARCHPATH" || e.section == sectionData:
		case leftOut(e):
		case gone[e.id] != nil:
			if g := gone[e.id]; g.tell {
				d.left = append(d.left, Skipped{Object: e.String(), Why: "it depends on " + g.on.String() + ", which is excluded"})
			}
		case managedOwners[e.owner] && e.kind != "TABLE" && e.kind != "SCHEMA" && e.section != sectionNone:
			d.left = append(d.left, Skipped{Object: e.String(), Why: "it belongs to the provider's role " + e.owner})
		default:
			e.sql = withoutVersions(e.sql)
			d.entries = append(d.entries, e)
		}
	}
	seen := map[key]bool{{}: true}
	d.ambiguous = map[key]bool{}
	for _, e := range d.entries {
		if e.kind == "MATERIALIZED VIEW" {
			d.matviews = append(d.matviews, catalog.Name{Schema: e.namespace, Name: e.tag})
		}
		if k := e.key(); seen[k] {
			d.ambiguous[k] = true
		} else {
			seen[k] = true
		}
	}
	d.index()
	return d, nil
}

// behind is why an entry stays behind: the excluded table it depends on in the
// end. tell is false for what is a part of something else that stays behind.
type behind struct {
	on   *entry
	tell bool
}

// withDependents returns the entries of excluded tables and all that depend on
// them, by dump id.
func withDependents(entries []*entry, exclude []catalog.Name) map[int]*behind {
	gone := map[int]*behind{}
	for _, e := range entries {
		if e.kind != "TABLE" && e.kind != "FOREIGN TABLE" {
			continue
		}
		for _, x := range exclude {
			if x == (catalog.Name{Schema: e.namespace, Name: e.tag}) {
				gone[e.id] = &behind{on: e}
			}
		}
	}
	spread(entries, gone)
	return gone
}

// spread adds to what stays behind everything that depends on it.
func spread(entries []*entry, gone map[int]*behind) {
	byID := map[int]*entry{}
	for _, e := range entries {
		byID[e.id] = e
	}
	// Dependencies mostly point backwards, but the order is also by kind.
	for before := 0; len(gone) != before; {
		before = len(gone)
		for _, e := range entries {
			for _, dep := range e.deps {
				if g := gone[dep]; g != nil && gone[e.id] == nil {
					gone[e.id] = &behind{on: g.on, tell: true}
				}
			}
		}
	}
	for _, e := range entries {
		g := gone[e.id]
		if g == nil || !g.tell {
			continue
		}
		switch e.kind {
		case "COMMENT", "ACL", "SECURITY LABEL", "DEFAULT", "SEQUENCE OWNED BY", "TABLE ATTACH", "INDEX ATTACH", "MATERIALIZED VIEW DATA":
			g.tell = false
			continue
		}
		for _, dep := range e.deps {
			if gone[dep] != nil && e.partOf(byID[dep]) {
				g.tell = false
			}
		}
	}
}

// managedOwners own what a hosting provider puts into every database.
var managedOwners = map[string]bool{
	"rdsadmin": true, "rdstopmgr": true, "rds_ad": true, "rds_reserved": true, "rds_extension": true, "rdsrepladmin": true,
	"cloudsqladmin": true, "cloudsqlagent": true, "azuresu": true,
}

// leftOut reports whether an entry has no place on the target; it is not reported.
func leftOut(e *entry) bool {
	switch e.kind {
	case "DATABASE", "DATABASE PROPERTIES", // always in an archive, for pg_restore --create
		"PUBLICATION", "PUBLICATION TABLE", "PUBLICATION TABLES IN SCHEMA", "SUBSCRIPTION", "SUBSCRIPTION TABLE", "STATISTICS DATA", "BLOB", "BLOB METADATA":
		return true
	case "ACL":
		return strings.HasPrefix(e.tag, "DATABASE ")
	case "COMMENT", "SECURITY LABEL":
		// Only the owner of an extension may comment on it, and its own control
		// file has done so on the target.
		return strings.HasPrefix(e.tag, "DATABASE ") || strings.HasPrefix(e.tag, "EXTENSION ") || strings.HasPrefix(e.tag, "PUBLICATION ") || strings.HasPrefix(e.tag, "SUBSCRIPTION ")
	case "TRIGGER":
		// Truncation markers of a version 10 source, a fence.
		return strings.Contains(e.sql, " EXECUTE FUNCTION walferry.") || strings.Contains(e.sql, " EXECUTE PROCEDURE walferry.")
	}
	return false
}
