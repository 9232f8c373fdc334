// Package plan says beforehand how long a migration takes, how much WAL its slot holds back and how much disk the target needs, by what a
// sample of the largest tables takes. It leaves both servers as they were: what it writes is rolled back.
package plan

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/session"
)

// Config says what is to be moved, and how much may be spent on looking.
type Config struct {
	Source, Target   string // connection strings
	Include, Exclude []string
	Jobs, IndexJobs  int

	Watch       time.Duration // for which the source's WAL is watched at least; zero: 5 s
	SampleBytes int64         // that are copied at most; zero: 256 MiB
	SampleTime  time.Duration // after which no other sample is begun; zero: 30 s
}

// Plan is what is to be expected. Durations are in seconds, sizes in bytes.
type Plan struct {
	Tables     int   `json:"tables"`      // that hold rows
	TableBytes int64 `json:"table_bytes"` // on the source, with TOAST
	IndexBytes int64 `json:"index_bytes"` // on the source

	Samples       []Sample `json:"samples"`         // of the largest tables
	WALWatched    float64  `json:"wal_watched"`     // for how long
	WALPerSecond  float64  `json:"wal_per_second"`  // that the source wrote meanwhile, all databases together
	Jobs          int      `json:"jobs"`            // tables or pieces copied at a time, as --jobs
	SecondsATable float64  `json:"seconds_a_table"` // that each table takes besides its rows

	Copy     *Range `json:"copy"`     // of all rows; null: there is no sample
	Indexes  *Range `json:"indexes"`  // of all indexes, with --index-jobs; null: there is no sample
	Total    *Range `json:"total"`    // until the target follows; null: there is no sample
	Retained *Range `json:"retained"` // WAL that the slot holds back until then; null: there is no sample
	Disk     *Range `json:"disk"`     // of tables and indexes on the target; null: there is no sample

	RestsOn []string `json:"rests_on"` // what the numbers rest on
	Unknown []string `json:"unknown"`  // what they do not say
}

// Range is from the least to the most.
type Range struct {
	Low  float64 `json:"low"`
	High float64 `json:"high"`
}

// Sample is a part of a table that was copied, and rolled back.
type Sample struct {
	Schema string `json:"schema"`
	Name   string `json:"name"`
	Bytes  int64  `json:"bytes"` // of the whole table

	Copied      float64 `json:"copied"`       // of them, as many as were expected of the pages that were chosen
	Seconds     float64 `json:"seconds"`      // of copying, of all streams together
	Fastest     float64 `json:"fastest"`      // bytes a second of one stream
	Slowest     float64 `json:"slowest"`      // bytes a second of one stream
	TargetBytes int64   `json:"target_bytes"` // that the sample takes on the target

	IndexBytes   int64   `json:"index_bytes"`   // of all indexes of the whole table, on the source
	IndexSeconds float64 `json:"index_seconds"` // of building those that can be built on a sample

	Skipped string `json:"skipped"` // why it was not copied; empty: it was

	of           *catalog.Table
	indexes      []index
	measured     float64 // bytes of the indexes that were built, as the source has them, of the part that was copied
	builtBytes   int64   // as the target has them
	rows, pieces int64
	setup        float64
}

// mostSamples is how many tables are sampled.
const mostSamples = 8

// Make makes a plan.
func Make(ctx context.Context, c Config) (*Plan, error) {
	c.Jobs = cmp.Or(c.Jobs, 4)
	c.IndexJobs = cmp.Or(c.IndexJobs, c.Jobs)
	c.Watch, c.SampleTime = cmp.Or(c.Watch, 5*time.Second), cmp.Or(c.SampleTime, 30*time.Second)
	c.SampleBytes = cmp.Or(c.SampleBytes, 256<<20)
	from, err := session.Open(ctx, session.Config{DSN: c.Source, Application: "plan"})
	if err != nil {
		return nil, fmt.Errorf("plan: %w", err)
	}
	defer from.Close(context.WithoutCancel(ctx))
	tables, err := catalog.Tables(ctx, from)
	if err != nil {
		return nil, fmt.Errorf("plan: %w", err)
	}
	if tables, err = catalog.Select(tables, c.Include, c.Exclude); err != nil {
		return nil, err
	}
	tables = slices.DeleteFunc(tables, func(t catalog.Table) bool { return t.Kind != 'r' })
	slices.SortFunc(tables, func(a, b catalog.Table) int { return cmp.Compare(b.Bytes, a.Bytes) })
	p := &Plan{Tables: len(tables), Jobs: c.Jobs, Samples: []Sample{}, RestsOn: []string{}, Unknown: []string{}}
	indexes, err := loadIndexes(ctx, from)
	if err != nil {
		return nil, fmt.Errorf("plan: %w", err)
	}
	for i := range tables {
		t := &tables[i]
		p.TableBytes += t.Bytes
		s := Sample{Schema: t.Schema, Name: t.Name.Name, Bytes: t.Bytes, of: t, indexes: indexes[t.OID]}
		for _, x := range s.indexes {
			s.IndexBytes += x.bytes
		}
		p.IndexBytes += s.IndexBytes
		if len(p.Samples) < mostSamples && t.Bytes > 0 {
			p.Samples = append(p.Samples, s)
		}
	}
	watch, err := watchWAL(ctx, from)
	if err != nil {
		return nil, fmt.Errorf("plan: %w", err)
	}
	if err := c.sample(ctx, p); err != nil {
		return nil, fmt.Errorf("plan: copy a sample, which is rolled back: %w", err)
	}
	if p.WALPerSecond, p.WALWatched, err = watch(c.Watch); err != nil {
		return nil, fmt.Errorf("plan: %w", err)
	}
	p.conclude(c)
	return p, nil
}

// The range of a sample's rate: it has no checkpoint, its pages may be cached, and nobody knows what else both servers have to do then.
const (
	faster = 0.75 // of the time that the fastest piece would take
	slower = 1.5  // times that of the slowest
)

// conclude works out what is to be expected.
func (p *Plan) conclude(c Config) {
	var copied, seconds, fastest, slowest, measured, building, disk, built float64
	var setup, pieces float64
	for i := range p.Samples {
		s := &p.Samples[i]
		if s.Copied == 0 {
			continue
		}
		copied, seconds, disk = copied+s.Copied, seconds+s.Seconds, disk+float64(s.TargetBytes)
		fastest, slowest = fastest+s.Copied/s.Fastest, slowest+s.Copied/s.Slowest
		measured, building, built = measured+s.measured, building+s.IndexSeconds*s.larger(), built+float64(s.builtBytes)
		setup, pieces = setup+s.setup, pieces+float64(s.pieces)
	}
	p.Unknown = append(
		p.Unknown, "what the pause of the switch will be: `walferry cutover --dry-run` measures it, once the target follows",
		"whether the target keeps up: it does while the source commits less than one session can apply (docs/benchmarks.md)",
		"WAL at other times: nights, batches, maintenance; watch walferry_slot_retained_bytes, and give --max-retained-wal",
		"foreign keys, which are checked after the copy, and extensions' indexes",
	)
	if copied == 0 {
		p.Unknown = append(p.Unknown, "how long it takes: there was no table to take a sample of")
		return
	}
	all, streams := float64(p.TableBytes), float64(min(c.Jobs, max(1, p.Tables)))
	p.SecondsATable = setup / pieces
	each := p.SecondsATable * float64(p.Tables) / streams
	p.Copy = &Range{faster*all/copied*fastest/streams + each, slower*all/copied*slowest/streams + each}
	p.Indexes = &Range{}
	if measured > 0 {
		took := float64(p.IndexBytes) / measured * building / float64(c.IndexJobs)
		p.Indexes = &Range{faster * took, slower * took}
	}
	p.Total = &Range{max(p.Copy.Low, p.Indexes.Low), p.Copy.High + p.Indexes.High}
	p.Retained = &Range{p.WALPerSecond * p.Total.Low, p.WALPerSecond * p.Total.High}
	least := all / copied * disk
	if measured > 0 {
		least += float64(p.IndexBytes) / measured * built
	}
	most := all + float64(p.IndexBytes)
	p.Disk = &Range{min(least, most), max(least, most)}
	p.RestsOn = append(
		p.RestsOn, fmt.Sprintf("the copy: %.0f MB of %d tables, copied to the target with %d sessions at once and rolled back; from %.2f of the time of the fastest piece to %.1f of the slowest", copied/(1<<20), len(p.Samples), c.Jobs, faster, slower),
		"the indexes: those of the sample, built there; the first figure of the total is for indexes that are built beside the copy, the second for one after the other",
		fmt.Sprintf("WAL: what the source wrote in %.0f s, of all its databases, for as long as copy and indexes take", p.WALWatched),
		"disk: the first figure is as the sample was on the target, the second as everything is on the source; WAL of the target (max_wal_size), and room to sort the largest index, come on top",
	)
}

// larger is how many times as long as its size says a whole index takes to be sorted.
func (s *Sample) larger() float64 {
	part := s.Copied / float64(s.Bytes)
	if s.rows < 2 || part >= 1 {
		return 1
	}
	return math.Log(float64(s.rows)/part) / math.Log(float64(s.rows))
}
