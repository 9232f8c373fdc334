package check

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/walferry/walferry/internal/catalog"
)

// restart returns how to change a setting that needs a restart.
func (s *server) restart(name, value string) (do string, sql []string) {
	if s.Platform != "" {
		return fmt.Sprintf("set %s = %s in the parameter group and reboot the (writer) instance", name, value), nil
	}
	return "restart the server afterwards", []string{fmt.Sprintf("alter system set %s = %s", name, catalog.Literal(value))}
}

// reload returns how to change a setting that needs none; several values form a list.
func (s *server) reload(name string, values ...string) (do string, sql []string) {
	if s.Platform != "" {
		return fmt.Sprintf("set %s = %s in the parameter group", name, strings.Join(values, ", ")), nil
	}
	literals := make([]string, len(values))
	for i, v := range values {
		literals[i] = catalog.Literal(v)
	}
	return "", []string{fmt.Sprintf("alter system set %s = %s", name, strings.Join(literals, ", ")), "select pg_reload_conf()"}
}

// number returns the value of a numeric setting in its unit, and whether there is one.
func (s *server) number(name string) (int, bool) {
	v, ok := s.settings[name]
	if !ok {
		return 0, false
	}
	n, err := strconv.Atoi(v.value)
	return n, err == nil
}

// wal checks what logical decoding needs of the source.
func (r *run) wal(context.Context) error {
	r.add(r.source.walLevel()...)
	r.add(r.source.outputPlugin()...)
	if !r.c.Resuming {
		r.add(r.source.slots(1)...)
	}
	r.add(r.source.retention()...)
	r.add(r.source.idle()...)
	r.minor()
	return nil
}

func (s *server) walLevel() []Finding {
	level := s.settings["wal_level"]
	if catalog.Decodes(s.Major, level.value) {
		return nil
	}
	f := Finding{ID: "wal-level", Severity: Block, On: s.side, Seen: "wal_level is " + level.value}
	switch {
	case s.Platform != "" && s.settings["rds.logical_replication"].value == "on":
		f.Seen += ", while rds.logical_replication is 1"
		f.Do = "reboot the (writer) instance: the parameter is static"
	case s.Platform != "":
		f.Do = "set rds.logical_replication = 1 in the instance's (Aurora: the cluster's) parameter group, not a default one, and reboot the (writer) instance"
	case level.pending:
		f.Seen += ", and changed in the configuration"
		f.Do = "restart the server"
	default:
		f.Do, f.SQL = s.restart("wal_level", "logical")
	}
	return []Finding{f}
}

// outputPlugin: the minor releases of August 2026 let a role with REPLICATION name only the plugins
// that output_plugin_libraries lists (CVE-2026-6471).
func (s *server) outputPlugin() []Finding {
	setting, ok := s.settings["output_plugin_libraries"]
	allowed := items(setting.value)
	if !ok || slices.Contains(allowed, "pgoutput") {
		return nil
	}
	do, sql := s.reload("output_plugin_libraries", append(allowed, "pgoutput")...)
	return []Finding{{
		ID: "output-plugin", Severity: Block, On: s.side,
		Seen: fmt.Sprintf("output_plugin_libraries is %q: pgoutput may not be used", setting.value), Do: do, SQL: sql,
	}}
}

// items returns those of a setting that is a list.
func items(setting string) []string {
	var list []string
	for item := range strings.SplitSeq(setting, ",") {
		if item = strings.Trim(item, " \t\""); item != "" {
			list = append(list, item)
		}
	}
	return list
}

// taken says how many of a limited number are.
func taken(name string, n, used int) string {
	if used < n {
		return fmt.Sprintf("of %s = %d only %d is free", name, n, n-used)
	}
	return fmt.Sprintf("all of %s = %d are taken", name, n)
}

// slots are those that are needed, each with a walsender.
func (s *server) slots(need int) (findings []Finding) {
	if n, _ := s.number("max_replication_slots"); n-s.slotsUsed < need {
		do, sql := s.restart("max_replication_slots", strconv.Itoa(n+5))
		findings = append(findings, Finding{
			ID: "free-slots", Severity: Block, On: s.side,
			Seen: taken("max_replication_slots", n, s.slotsUsed),
			Do:   strings.TrimSpace("drop an unused slot (select * from pg_replication_slots), or raise the limit; " + do), SQL: sql,
		})
	}
	if n, _ := s.number("max_wal_senders"); n-s.sendersUsed < need {
		do, sql := s.restart("max_wal_senders", strconv.Itoa(n+5))
		findings = append(findings, Finding{
			ID: "free-senders", Severity: Block, On: s.side,
			Seen: taken("max_wal_senders", n, s.sendersUsed),
			Do:   strings.TrimSpace("end a replication connection (select * from pg_stat_replication), or raise the limit; " + do), SQL: sql,
		})
	}
	return findings
}

// idle: what may cost the connection, or a slot that nobody reads.
func (s *server) idle() (findings []Finding) {
	if n, ok := s.number("wal_sender_timeout"); ok && n > 0 && n < 10_000 {
		do, sql := s.reload("wal_sender_timeout", "60s")
		findings = append(findings, Finding{
			ID: "wal-sender-timeout", Severity: Warn, On: s.side,
			Seen: fmt.Sprintf("wal_sender_timeout is %d ms: a short stall of the network ends the stream", n), Do: do, SQL: sql,
		})
	}
	if n, ok := s.number("idle_replication_slot_timeout"); ok && n > 0 {
		do, sql := s.reload("idle_replication_slot_timeout", "0")
		when := "as during the copy"
		if s.side == "target" {
			when = "as while no migrate runs"
		}
		findings = append(findings, Finding{
			ID: "idle-slot-timeout", Severity: Warn, On: s.side,
			Seen: fmt.Sprintf("idle_replication_slot_timeout is %d s: the slot is lost if nothing reads it for that long, %s", n, when),
			Do:   do, SQL: sql,
		})
	}
	return findings
}

// retention: what may cost the slot.
func (s *server) retention() (findings []Finding) {
	if n, ok := s.number("max_slot_wal_keep_size"); ok && n >= 0 {
		do, sql := s.reload("max_slot_wal_keep_size", "-1")
		findings = append(findings, Finding{
			ID: "slot-wal-keep-size", Severity: Warn, On: s.side,
			Seen: fmt.Sprintf("max_slot_wal_keep_size is %d MB: if more WAL than that is written during the copy, the slot is lost and the copy starts over", n),
			Do:   strings.TrimSpace("make sure that it is enough, or remove the limit and watch the disk; " + do), SQL: sql,
		})
	}
	return findings
}

// fixed are the minor versions with the fix of a decoding bug: the key of an UPDATE whose key
// column is stored out of line (May 2022), and changes lost during an ALTER PUBLICATION (May 2025).
var fixed = map[int][2]int{10: {21, 0}, 11: {16, 0}, 12: {11, 0}, 13: {7, 21}, 14: {3, 18}, 15: {0, 13}, 16: {0, 9}, 17: {0, 5}}

func (r *run) minor() {
	s := r.source
	known, ok := fixed[s.Major]
	switch {
	case !ok:
		return
	case s.minor < known[0]:
		r.add(Finding{
			ID: "minor-version", Severity: Warn, On: "source",
			Seen: fmt.Sprintf("%s does not log the key of an updated row whose key column is stored out of line (fixed in %d.%d)", s.Version, s.Major, known[0]),
			Do:   "install the newest minor version; it matters for keys longer than about 2 kB only",
		})
	case known[1] == 0 || s.minor < known[1]:
		r.add(Finding{
			ID: "minor-version", Severity: Warn, On: "source",
			Seen: s.Version + " can lose changes of a table that is added to a publication while it is written to",
			Do:   "walferry never alters its publication; make sure that nobody else does. The fix is in 13.21, 14.18, 15.13, 16.9 and 17.5",
		})
	}
	if s.Major == 10 {
		r.add(Finding{
			ID: "truncate-not-decoded", Severity: Info, On: "source",
			Seen: "version 10 does not decode TRUNCATE",
			Do:   "walferry will create a BEFORE TRUNCATE trigger on every migrated table, and remove it at the end",
		})
	}
}
