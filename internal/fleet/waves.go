package fleet

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// Approval says who has a wave cut over.
type Approval string

// The answers.
const (
	Asked  Approval = "asked"  // the zero value's meaning: whoever asks for the cutover approves of it
	Manual Approval = "manual" // the same, but the file has to name who has approved
	Auto   Approval = "auto"   // `fleet run` does, as soon as all of the wave follows
)

// Wave is databases that are cut over together: one after the other on each source instance.
type Wave struct {
	Number   int
	After    int // the wave that has to be over before; 0: none
	Approve  Approval
	Approved string // who has
	Window   *Window
	// StopAfter is how many cutovers may fail before the others are left as they are.
	StopAfter int
	// Over means that it is done with, and cleaned up: nothing is known of its migrations, and they are not begun anew.
	Over bool
	line int
}

// Window is when a wave may be cut over.
type Window struct {
	Text     string
	days     map[time.Weekday]bool // of its begin; nil: every day
	from, to int                   // minutes of the day; to is less where it goes past midnight
	zone     *time.Location
}

func (r *reader) eachWave(n *yaml.Node) error {
	return r.each(n, "waves", nil, func(key, n *yaml.Node) error {
		number, err := r.number(key, "the number of a wave", 1)
		if err != nil {
			return err
		}
		what := "wave " + key.Value
		w := &Wave{Number: number, line: key.Line, Approve: Asked, StopAfter: 1}
		err = r.each(n, what, []string{"after", "approve", "approved", "window", "stop-after", "over"}, func(key, n *yaml.Node) (err error) {
			switch key.Value {
			case "after":
				w.After, err = r.number(n, what+": after", 1)
			case "stop-after":
				w.StopAfter, err = r.number(n, what+": stop-after", 1)
			case "over":
				if n.Kind != yaml.ScalarNode || n.Decode(&w.Over) != nil {
					err = r.wrong(n, "%s: over is neither true nor false", what)
				}
			case "approved":
				w.Approved, err = r.text(n, what+": approved")
			case "approve":
				w.Approve = Approval(n.Value)
				if !slices.Contains([]Approval{Asked, Manual, Auto}, w.Approve) {
					err = r.wrong(n, "%s: approve is none of asked, manual, auto", what)
				}
			case "window":
				if w.Window, err = parseWindow(n.Value); err != nil {
					err = r.wrong(n, "%s: window: %v", what, err)
				}
			}
			return err
		})
		r.waves[number] = w
		return err
	})
}

// finishWaves adds waves that only databases name, and holds them against each other.
func (r *reader) finishWaves() error {
	used := map[int]bool{}
	for _, i := range r.file.Instances {
		for _, p := range i.Databases {
			if !p.Exclude {
				used[p.Wave] = true
			}
			if r.waves[p.Wave] == nil && !p.Exclude {
				r.waves[p.Wave] = &Wave{Number: p.Wave, Approve: Asked, StopAfter: 1}
			}
		}
	}
	for _, w := range r.waves {
		at := &yaml.Node{Line: w.line}
		if !used[w.Number] {
			return r.wrong(at, "wave %d has no databases", w.Number)
		}
		for before, steps := w, 0; before.After != 0; steps++ {
			next := r.waves[before.After]
			if next == nil {
				return r.wrong(at, "wave %d comes after wave %d, which does not exist", before.Number, before.After)
			}
			if steps > len(r.waves) {
				return r.wrong(at, "wave %d comes after itself", w.Number)
			}
			before = next
		}
		r.file.Waves = append(r.file.Waves, w)
	}
	slices.SortFunc(r.file.Waves, func(a, b *Wave) int { return cmp.Compare(a.Number, b.Number) })
	return nil
}

// Wave returns a wave by its number; nil: there is none.
func (f *File) Wave(number int) *Wave {
	for _, w := range f.Waves {
		if w.Number == number {
			return w
		}
	}
	return nil
}

var windowForm = regexp.MustCompile(`^(?:([A-Za-z,-]+) +)?(\d\d):(\d\d)-(\d\d):(\d\d)(?: +(\S+))?$`)

// parseWindow reads days, hours and a time zone, as in "Sat,Sun 22:00-04:00 Europe/Berlin". Without days it is every day, without a
// zone UTC.
func parseWindow(text string) (*Window, error) {
	m := windowForm.FindStringSubmatch(strings.TrimSpace(text))
	if m == nil {
		return nil, fmt.Errorf("it is not of the form 'Sat,Sun 02:00-05:00 UTC'")
	}
	w := &Window{Text: strings.TrimSpace(text), zone: time.UTC}
	var err error
	if w.days, err = parseDays(m[1]); err != nil {
		return nil, err
	}
	if w.from, err = minutes(m[2], m[3]); err == nil {
		w.to, err = minutes(m[4], m[5])
	}
	if err != nil {
		return nil, err
	}
	if w.from == w.to {
		return nil, fmt.Errorf("it ends when it begins")
	}
	if m[6] != "" {
		if w.zone, err = time.LoadLocation(m[6]); err != nil || m[6] == "Local" {
			return nil, fmt.Errorf("there is no time zone %q; names are as in Europe/Berlin", m[6])
		}
	}
	return w, nil
}

func minutes(hour, minute string) (int, error) {
	h, _ := strconv.Atoi(hour)
	m, _ := strconv.Atoi(minute)
	if h > 24 || m > 59 || h == 24 && m > 0 {
		return 0, fmt.Errorf("%s:%s is no time of a day", hour, minute)
	}
	return h*60 + m, nil
}

var weekdays = []string{"sun", "mon", "tue", "wed", "thu", "fri", "sat"}

func parseDays(text string) (map[time.Weekday]bool, error) {
	if text == "" {
		return nil, nil
	}
	day := func(name string) (int, error) {
		if i := slices.Index(weekdays, strings.ToLower(name)); i >= 0 {
			return i, nil
		}
		return 0, fmt.Errorf("there is no day %q: days are Mon, Tue, Wed, Thu, Fri, Sat, Sun", name)
	}
	days := map[time.Weekday]bool{}
	for each := range strings.SplitSeq(text, ",") {
		first, last, isRange := strings.Cut(each, "-")
		from, err := day(first)
		if err != nil {
			return nil, err
		}
		to := from
		if isRange {
			if to, err = day(last); err != nil {
				return nil, err
			}
		}
		for d := from; ; d = (d + 1) % 7 {
			days[time.Weekday(d)] = true
			if d == to {
				break
			}
		}
	}
	return days, nil
}

// Open reports whether a moment is within the window. nil: there is none, and every moment is.
func (w *Window) Open(at time.Time) bool {
	if w == nil {
		return true
	}
	at = at.In(w.zone)
	minute := at.Hour()*60 + at.Minute()
	on := func(day time.Weekday) bool { return w.days == nil || w.days[day] }
	if w.from < w.to {
		return on(at.Weekday()) && minute >= w.from && minute < w.to
	}
	return on(at.Weekday()) && minute >= w.from || on((at.Weekday()+6)%7) && minute < w.to
}
