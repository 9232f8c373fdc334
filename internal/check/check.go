// Package check finds out, before anything is changed, whether a migration can work: what would
// stop it, what may surprise, and the SQL that fixes it.
//
// It changes nothing on either server. Every query runs in a read-only transaction that is rolled
// back; what can only be learned by trying is tried there.
//
// Each file has the checks of one subject; each check has an id that is stable across versions.
package check

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/walferry/walferry/internal/catalog"
)

// Severity is what a finding means for the migration.
type Severity string

const (
	Block Severity = "block" // it would fail, or lose something: migrate refuses
	Warn  Severity = "warn"  // it works, but the operator should know and decide
	Info  Severity = "info"  // nothing to do
)

// Finding is one problem, on one object.
type Finding struct {
	ID       string   `json:"id"` // as in replica-identity; stable
	Severity Severity `json:"severity"`
	On       string   `json:"on"`               // source, target or tool
	Object   string   `json:"object,omitempty"` // as in "public"."orders"; empty: the server
	Seen     string   `json:"seen"`
	Do       string   `json:"do,omitempty"`  // what to do about it
	SQL      []string `json:"sql,omitempty"` // statements that fix it, to be run one by one on the server in On
}

// Config describes what will be migrated.
type Config struct {
	SourceDSN, TargetDSN string

	// Name is the name of the migration, from which those of slot and publication derive. Empty:
	// default.
	Name string

	// Include and Exclude choose tables as catalog.Select does; InsertOnly are patterns of those
	// declared to be only inserted into.
	Include, Exclude, InsertOnly []string

	// Schema is dump if pg_dump is to bring the schema to the target, none if it is there already.
	// Empty: dump.
	Schema string

	// Jobs is how many tables are copied at a time. Zero: 4.
	Jobs int

	// IndexJobs is how many indexes are built at a time, during the copy. Zero: as many as Jobs.
	IndexJobs int

	// Resuming means that the migration exists: its slot, publication, tables and rows are
	// expected.
	Resuming bool

	// FallBack is whether the cutover is to keep a way back: FallBackAuto, FallBackRequire, or FallBackOff. Empty: FallBackOff.
	FallBack string

	// MaxRetainedWALTarget is how many bytes of WAL the new server may keep for a way back. Zero or less: none was given.
	MaxRetainedWALTarget int64

	// Definitions creates the source's schema on the target, in a transaction that is rolled back,
	// to find out what the target rejects.
	Definitions bool

	// LongWriter is the age from which a writing transaction is worth a warning: the slot cannot be
	// created before it ends. Zero: 30 seconds.
	LongWriter time.Duration
}

// Report is the result of a check, blocking findings first.
type Report struct {
	Findings []Finding   `json:"findings"`
	Source   ServerFacts `json:"source"`
	Target   ServerFacts `json:"target"`
	Tables   int         `json:"tables"` // selected tables that hold rows: not partitioned
	Bytes    int64       `json:"bytes"`  // their size, with TOAST and without indexes
}

// Blocks reports whether a finding keeps the migration from starting.
func (r Report) Blocks() bool {
	return slices.ContainsFunc(r.Findings, func(f Finding) bool { return f.Severity == Block })
}

// Clients is the ID of what would keep the clients from being switched.
const Clients = "clients"

// Eased returns the report for a migration that goes on: what keeps a way back from being armed, or clients from being switched, is for its cutover to refuse, and
// meanwhile the source's WAL must not pile up.
func (r Report) Eased() Report {
	r.Findings = slices.Clone(r.Findings)
	for i := range r.Findings {
		if f := &r.Findings[i]; f.Severity == Block && (strings.HasPrefix(f.ID, "fb-") || f.ID == Clients) {
			f.Severity = Warn
			f.Seen += "; the cutover will refuse"
		}
	}
	return r
}

// run is one run of the checks.
type run struct {
	c              Config
	source, target *server
	all            []catalog.Table // of the source
	tables         []catalog.Table // selected
	insertOnly     map[uint32]bool
	replica        bool // the target's role may set session_replication_role
	findings       []Finding
}

// Run checks both servers. An error means that the check itself failed: a server cannot be reached,
// a pattern matches nothing.
func Run(ctx context.Context, c Config) (Report, error) {
	r := &run{c: c}
	if r.c.Name == "" {
		r.c.Name = "default"
	}
	if r.c.Jobs == 0 {
		r.c.Jobs = 4
	}
	if r.c.IndexJobs == 0 {
		r.c.IndexJobs = r.c.Jobs
	}
	if r.c.LongWriter == 0 {
		r.c.LongWriter = 30 * time.Second
	}
	defer r.close(context.WithoutCancel(ctx))
	var err error
	if r.source, err = r.open(ctx, "source", c.SourceDSN); err != nil {
		return Report{}, err
	}
	if r.target, err = r.open(ctx, "target", c.TargetDSN); err != nil {
		return Report{}, err
	}
	if err := r.load(ctx); err != nil {
		return Report{}, err
	}
	if c.Resuming {
		r.add(Finding{
			ID: "migration-begun", Severity: Info, On: "target", Object: r.c.Name,
			Seen: "the migration has begun: its slot, publication, tables and rows are expected",
			Do:   "`walferry status` shows where it stands, `walferry migrate` resumes it",
		})
	}
	for _, subject := range []func(context.Context) error{
		r.connections, r.wal, r.names, r.readers, r.privileges, r.messages, r.identities, r.tableTraits, r.activity,
		r.constraints, r.sequences, r.targetServer, r.targetTables, r.logins, r.extensions, r.stemmers, r.schema, r.definitions, r.fallBack,
	} {
		if err := subject(ctx); err != nil {
			return Report{}, err
		}
	}
	return r.report(), nil
}

func (r *run) close(ctx context.Context) {
	for _, s := range []*server{r.source, r.target} {
		if s != nil {
			s.close(ctx)
		}
	}
}

// load reads the source's tables and selects among them.
func (r *run) load(ctx context.Context) error {
	var err error
	if r.all, err = catalog.Tables(ctx, r.source.tx); err != nil {
		return fmt.Errorf("check the source: %w", err)
	}
	if r.tables, err = catalog.Select(r.all, r.c.Include, r.c.Exclude); err != nil {
		return err
	}
	r.insertOnly = map[uint32]bool{}
	only, err := catalog.Match(r.tables, r.c.InsertOnly)
	if err != nil {
		return err
	}
	for i := range only {
		r.insertOnly[only[i].OID] = true
	}
	return nil
}

func (r *run) report() Report {
	report := Report{Findings: r.findings, Source: r.source.ServerFacts, Target: r.target.ServerFacts}
	for i := range r.tables {
		if r.tables[i].Kind == 'r' {
			report.Tables++
			report.Bytes += r.tables[i].Bytes
		}
	}
	return report.sorted()
}

// With returns the report with what others have found.
func (r Report) With(found ...Finding) Report {
	r.Findings = append(slices.Clone(r.Findings), found...)
	return r.sorted()
}

func (r Report) sorted() Report {
	rank := map[Severity]int{Block: 0, Warn: 1, Info: 2}
	slices.SortStableFunc(r.Findings, func(a, b Finding) int {
		return cmp.Or(rank[a.Severity]-rank[b.Severity], strings.Compare(a.On, b.On), strings.Compare(a.ID, b.ID))
	})
	return r
}

func (r *run) add(f ...Finding) { r.findings = append(r.findings, f...) }

// each is how many objects with the same problem get their own finding.
const each = 20

// addEach adds findings of one problem; those past the twentieth share one, with all of their SQL.
func (r *run) addEach(findings []Finding) { r.add(bounded(findings)...) }

func bounded(findings []Finding) []Finding {
	if len(findings) <= each {
		return findings
	}
	rest := findings[each]
	rest.SQL = nil
	var objects []string
	for _, f := range findings[each:] {
		rest.SQL = append(rest.SQL, f.SQL...)
		if len(objects) < each {
			objects = append(objects, f.Object)
		}
	}
	rest.Seen = fmt.Sprintf("the same of %d more: %s", len(findings)-each, strings.Join(objects, ", "))
	if len(findings)-each > len(objects) {
		rest.Seen += " …"
	}
	rest.Object = fmt.Sprintf("and %d more", len(findings)-each)
	return append(slices.Clone(findings[:each]), rest)
}

// list joins the first few names for a sentence.
func list(names []string) string {
	if len(names) <= each {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:each], ", "), len(names)-each)
}
