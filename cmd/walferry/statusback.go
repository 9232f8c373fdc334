package main

import (
	"fmt"
	"strings"

	"github.com/walferry/walferry/internal/migration"
	"github.com/walferry/walferry/internal/state"
)

// wayBack adds how the way back is, where there is one, or was to be.
func (p *statusPage) wayBack(s migration.Status) {
	w := &s.WayBack
	since := ""
	if w.Since != nil {
		since = " since " + utc(*w.Since)
	}
	if s.Target.Error != "" {
		p.row("way back", "not known: the new server does not answer")
		p.stream(w.Stream)
		return
	}
	switch w.State {
	case state.BackFollowing:
		p.row("way back", "%s", followingText(s))
	case state.BackInterrupted:
		p.row("way back", "INTERRUPTED%s%s; the new server is not affected", since, behindText(s))
		p.row("", "%s", w.Reason)
		again := "it is tried again every minute"
		if !s.Running {
			again = "start `walferry migrate`, which tries again: NONE IS RUNNING"
		}
		p.do(strings.TrimSuffix(w.Do, "; it is tried again every minute"), again, giveUp(s))
	case state.BackLost:
		p.row("way back", "LOST%s: there is none any more; the new server has every row", since)
		p.row("", "%s", w.Reason)
		if len(s.Groups) > 0 {
			p.row("", "of what was handed over the old server is %s: that cannot be switched back", asOf(s))
			p.do(giveUp(s))
			break
		}
		p.row("", "the old server is %s", asOf(s))
		p.do("`walferry finish` ends the migration")
	case state.BackArmed:
		p.row("way back", "armed%s: what is written after the cutover will come to the old server", since)
		if !s.Running {
			p.row("", "no migrate is running: the next one removes it, or follows it")
		}
	default:
		p.noWayBack(s)
		return
	}
	p.slot("back slot", "new server", w.SlotStatus, w.RetainedLimit, w.RetainedLeft)
	if w.State != state.BackArmed && w.RetainedLimit == nil {
		p.row("", "NOTHING LIMITS THAT: set --max-retained-wal-target, or max_slot_wal_keep_size on the new server")
	}
	if w.Stream.AppliedLSN != "" && w.State != state.BackArmed {
		p.stream(w.Stream)
	}
	if w.State == state.BackFollowing && s.Running {
		p.row("lag", "%s", backLagText(s))
	}
}

// noWayBack says why there is no way back; nothing where nobody wants one.
func (p *statusPage) noWayBack(s migration.Status) {
	switch wanted := s.WayBack.Mode; {
	case s.Phase == migration.Aborted:
	case s.Phase == migration.Finished && s.WayBack.Reason != "":
		p.row("way back", "none: %s", s.WayBack.Reason)
	case s.Phase == migration.Switched:
		p.row("way back", "none: the old server is the database again; the next run of migrate follows it")
	case s.Phase != migration.Finished && wanted != "" && wanted != string(migration.NoFallBack):
		p.row("way back", "off; the cutover arms it (--fall-back %s)", wanted)
	}
}

// giveUp is how a way back is given up.
func giveUp(s migration.Status) string {
	if len(s.Groups) > 0 {
		return "`walferry cutover` switches the rest, too; `walferry finish` gives the way back up then"
	}
	return "`walferry finish` gives the way back up"
}

// do adds what can be done, and what happens by itself.
func (p *statusPage) do(what ...string) {
	var parts []string
	for _, part := range what {
		if part != "" && !strings.Contains(strings.Join(parts, "; "), part) {
			parts = append(parts, part)
		}
	}
	p.row("", "do: %s", strings.Join(parts, "; "))
}

// warn adds what must not stay as it is, and what can be done about it.
func (p *statusPage) warn(do, format string, args ...any) {
	p.row("WARNING", format, args...)
	p.do(do)
}

// followingText is of a way back that nothing keeps from following, but perhaps that nobody follows.
func followingText(s migration.Status) string {
	switch {
	case !s.Running:
		return "NOT FOLLOWED" + behindText(s) + ": no migrate is running, and what is written on the new server waits there"
	case s.Source.Error != "":
		return "following; but the old server does not answer now"
	}
	since := ""
	if s.WayBack.Since != nil {
		since = " since " + utc(*s.WayBack.Since)
	}
	behind := ""
	if l := s.WayBack.Stream.LagSeconds; l != nil {
		behind = ", " + shortText(*l) + " behind"
	}
	what := "`walferry fallback` goes back to the old server"
	if len(s.Groups) > 0 {
		what = "`walferry fallback --tables ...` switches a group back to the old server, without --tables all of them"
	}
	return "following" + since + behind + ": " + what
}

// behindText is how far the old server is behind, as far as that is known.
func behindText(s migration.Status) string {
	var parts []string
	l := &s.WayBack.Stream
	if l.LagSeconds != nil {
		parts = append(parts, secondsText(*l.LagSeconds))
	}
	if l.LagBytes != nil {
		parts = append(parts, bytesText(*l.LagBytes)+" of WAL")
	} else if b := s.WayBack.RetainedBytes; b != nil && s.WayBack.WALStatus != "missing" {
		parts = append(parts, "at most "+bytesText(*b)+" of WAL")
	}
	if len(parts) == 0 {
		return ""
	}
	return ", " + strings.Join(parts, " and ") + " behind"
}

// asOf says which commits the old server has.
func asOf(s migration.Status) string {
	switch w := &s.WayBack; {
	case w.AppliedCommit != nil:
		return "as of " + w.Stream.AppliedLSN + ": its last transaction was committed on the new server at " + utc(*w.AppliedCommit)
	case w.Stream.AppliedLSN != "":
		return "as of " + w.Stream.AppliedLSN + ", where the way back begins"
	}
	return "as of a position that is not known: it does not answer"
}

// backLagText is lagText of the way back.
func backLagText(s migration.Status) string {
	l := s.WayBack.Stream
	switch {
	case l.LagBytes == nil:
		return "not known: a server does not answer"
	case l.LagSeconds == nil:
		return "not known yet, " + bytesText(*l.LagBytes)
	}
	return shortText(*l.LagSeconds) + ", " + bytesText(*l.LagBytes)
}

// shortText is secondsText that tells less than a second in milliseconds.
func shortText(s float64) string {
	if s < 1 {
		return fmt.Sprintf("%.0f ms", s*1000)
	}
	return secondsText(s)
}

// fences adds whether the servers refuse writes, and what is wrong with that.
func (p *statusPage) fences(s migration.Status) {
	from, to := sides(s)
	until := "cleanup"
	if s.Phase == migration.Switched {
		until = "a fallback opens it, or cleanup after `walferry finish`"
	}
	broken := s.WayBack.Unfenced != nil && *s.WayBack.Unfenced != ""
	if f := s.Source.Fence; f != nil && !broken {
		p.row("fence", "%s", fenceText(*f, from, until))
		if f.Sealed && s.Phase == migration.Drained && !s.Running {
			p.row("WARNING", "neither server takes writes: run `walferry migrate`, which opens the %s", to)
		}
	}
	if f := s.Target.Fence; f != nil {
		p.row("fence", "%s", fenceText(*f, to, "the next cutover opens it, or cleanup"))
		if f.Sealed && s.Phase == migration.Switched && s.Source.Fence != nil && s.Source.Fence.Sealed && !s.Running {
			p.row("WARNING", "neither server takes writes: run `walferry migrate`, which opens the %s", from)
		}
	}
	if broken {
		p.warn("see that no client uses it; `walferry verify` names what was written there; a fallback is safe only once it finds no difference",
			"THE OLD SERVER TAKES WRITES: %s. What is written there does not come to the new server, and may keep the way back from following", *s.WayBack.Unfenced)
	}
	if w := s.WayBack.Sequences; w != "" {
		p.warn("should the old server have to be opened by hand, set its sequences first; a fallback sets them as always", "SEQUENCES OF THE OLD SERVER ARE NOT KEPT AHEAD: %s", w)
	}
	for _, t := range s.WayBack.Unidentified {
		p.warn(fmt.Sprintf("on the new server, %s; or give it its key again; or `walferry finish`", t.SQL),
			"UPDATE AND DELETE OF %s FAIL ON THE NEW SERVER: it has lost its replica identity, and the way back publishes it", t.Table)
	}
	if s.Phase == migration.Switched && s.Target.Error != "" {
		p.warn("bring the new server back: nothing is lost then. If it is gone for good, what is later is, too: un-fence the old server by hand (docs/operating.md)",
			"THE NEW SERVER DOES NOT ANSWER. The old server is %s", asOf(s))
	}
}
