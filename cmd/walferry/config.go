package main

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/walferry/walferry/internal/fail"
	"github.com/walferry/walferry/internal/migration"
)

// settings combines the flags, the environment and the file: a flag overrides the environment,
// which overrides the file. The flag package reads the environment, see withVariables.
type settings struct {
	flags *cli.Context
	file  *file
}

// load reads the configuration of a command, sets up the log and hides secrets.
func load(ui *ui, c *cli.Context) (*settings, error) {
	s := &settings{flags: c}
	var err error
	if path := c.String("config"); path != "" {
		if s.file, err = readFile(path); err != nil {
			return nil, err
		}
	}
	source, target := s.text("source"), s.text("target")
	ui.hide(append(s.list("pgbouncer"), source, target)...)
	if err := ui.setLog(s.text("log-level"), s.text("log-format"), cmp.Or(s.text("name"), "default")); err != nil {
		return nil, err
	}
	s.warn(ui)
	return s, nil
}

// configured is the action of a command that needs a whole migration.Config.
func configured(ui *ui, do func(c *cli.Context, config migration.Config) error) cli.ActionFunc {
	return func(c *cli.Context) error {
		s, err := load(ui, c)
		if err != nil {
			return err
		}
		config, err := s.config(ui)
		if err != nil {
			return err
		}
		return do(c, config)
	}
}

func (s *settings) text(name string) string {
	if s.flags.IsSet(name) {
		return s.flags.String(name)
	}
	if s.file != nil {
		return s.file.text(name)
	}
	return ""
}

func (s *settings) list(name string) []string {
	if s.flags.IsSet(name) {
		return whole(name, s.flags.StringSlice(name))
	}
	if s.file != nil {
		return s.file.list(name)
	}
	return nil
}

// whole joins again connection strings that were cut at a comma, as a password may have one: what does not begin as one belongs to the one before it.
func whole(name string, list []string) []string {
	if name != "pgbouncer" {
		return list
	}
	begins := []string{"postgres://", "postgresql://", "host=", "port=", "user=", "dbname="}
	var joined []string
	for _, part := range list {
		new := slices.ContainsFunc(begins, func(b string) bool { return strings.HasPrefix(part, b) })
		if n := len(joined); n > 0 && !new {
			joined[n-1] += "," + part
			continue
		}
		joined = append(joined, part)
	}
	return joined
}

// toggle returns an option that is true, false, or not given.
func (s *settings) toggle(name string) migration.Switch {
	var on bool
	switch {
	case s.flags.IsSet(name):
		on = s.flags.Bool(name)
	case s.file.has(name):
		on = s.file.flag(name)
	default:
		return ""
	}
	if on {
		return migration.On
	}
	return migration.Off
}

func (s *settings) number(name string) (n int, err error) {
	if s.flags.IsSet(name) || s.file == nil {
		n = s.flags.Int(name)
	} else {
		n, err = s.file.number(name)
	}
	return n, s.notZero(name, n == 0, err)
}

func (s *settings) duration(name string) (time.Duration, error) {
	text := s.text(name)
	if text == "" && !s.flags.IsSet(name) {
		return 0, nil
	}
	d, ok := parseDuration(text)
	if !ok {
		return 0, &fail.Error{Kind: fail.Usage, Problem: "--" + name + " " + strconv.Quote(text) + " is not a duration", Advice: "give seconds, or a number with its unit, such as 90s or 5m"}
	}
	return d, s.notZero(name, d == 0, nil)
}

func (s *settings) size(name string) (int64, error) {
	text := s.text(name)
	if text == "" && !s.flags.IsSet(name) {
		return 0, nil
	}
	n, ok := parseSize(text)
	if !ok {
		return 0, &fail.Error{Kind: fail.Usage, Problem: "--" + name + " " + strconv.Quote(text) + " is not a size", Advice: "give a whole number with kB, MB, GB or TB, such as 100GB"}
	}
	return n, s.notZero(name, n == 0, nil)
}

// notZero rejects an explicit zero, which the library would take for the default.
func (s *settings) notZero(name string, zero bool, err error) error {
	if err == nil && zero && (s.flags.IsSet(name) || s.file.has(name)) {
		err = &fail.Error{Kind: fail.Usage, Problem: "--" + name + " must not be 0", Advice: "leave it out for the default: see --help"}
	}
	return err
}

// config returns the migration that the settings describe.
func (s *settings) config(ui *ui) (c migration.Config, err error) {
	c = migration.Config{
		Source: s.text("source"), Target: s.text("target"), Name: s.text("name"),
		Include: s.list("include"), Exclude: s.list("exclude"), InsertOnly: s.list("insert-only"),
		Schema: s.text("schema"), Until: migration.Until(s.text("until")),
		Prove:       s.toggle("verify"),
		FallBack:    migration.FallBackMode(s.text("fall-back")),
		ToolVersion: toolVersion(), Logger: ui.logger,
	}
	if c.Jobs, err = s.number("jobs"); err != nil {
		return c, err
	}
	if c.IndexJobs, err = s.number("index-jobs"); err != nil {
		return c, err
	}
	if c.Cut.Timeout, err = s.duration("timeout"); err != nil {
		return c, err
	}
	if c.Cut.MaxLag, err = s.duration("max-lag"); err != nil {
		return c, err
	}
	if c.PieceBytes, err = s.size("piece-size"); err != nil {
		return c, err
	}
	for name, limit := range map[string]*int64{"max-retained-wal": &c.MaxRetainedWAL, "max-retained-wal-target": &c.MaxRetainedWALTarget} {
		if s.text(name) == "none" {
			*limit = migration.NoLimit
		} else if *limit, err = s.size(name); err != nil {
			return c, err
		}
	}
	if c.Clients, err = s.clients(); err != nil {
		return c, err
	}
	c.Cut.Without = s.list("without")
	for _, object := range c.Cut.Without {
		if kind, name, ok := strings.Cut(object, ":"); !ok || kind == "" || name == "" {
			return c, &fail.Error{Kind: fail.Usage, Problem: "--without " + strconv.Quote(object) + " does not name an object", Advice: "give its kind and name, such as view:public.mon: the cutover lists them"}
		}
	}
	c.OnNewTable = migration.OnNewTable(s.text("on-new-table"))
	switch cut := s.text("cutover"); cut {
	case "":
	case "manual":
		c.Auto = migration.Off
	case "auto":
		c.Auto = migration.On
	default:
		return c, &fail.Error{Kind: fail.Usage, Problem: "--cutover " + strconv.Quote(cut) + " is neither manual nor auto", Advice: "see `walferry migrate --help`"}
	}
	if c.Cut.Timeout < 0 || c.Cut.MaxLag < 0 {
		return c, &fail.Error{Kind: fail.Usage, Problem: "--timeout and --max-lag must not be negative", Advice: "give a duration such as 30s"}
	}
	return c, nil
}
