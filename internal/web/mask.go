package web

import (
	"regexp"
	"slices"
	"strings"

	"github.com/walferry/walferry/internal/state"
	"github.com/walferry/walferry/internal/status"
)

// What a server's errors say of rows.
var (
	quotedValue = regexp.MustCompile(`"(?:[^"\\]|\\.)*"`)
	byteValue   = regexp.MustCompile(`0x[0-9a-fA-F]{2}(?: 0x[0-9a-fA-F]{2})*`)
	keyValue    = regexp.MustCompile(`\)=\(.*?\)( already exists| is not present| is still referenced| conflicts|[;,.]|$)`)
	failingRow  = regexp.MustCompile(`Failing row contains \(.*\)`)
)

// plain masks what an error says of a row's values. An error of class 22, bad data, quotes them; one of class 23, a constraint, has the key.
func plain(text string) string {
	if strings.Contains(text, "(SQLSTATE 22") {
		text = byteValue.ReplaceAllString(quotedValue.ReplaceAllString(text, `"…"`), "…")
	}
	text = failingRow.ReplaceAllString(text, "Failing row contains (…)")
	return keyValue.ReplaceAllString(text, ")=(…)$1")
}

// mask masks values of rows in a status that was just read. Lists that others may have are replaced.
func mask(st *status.Status) {
	for _, text := range []*string{&st.Error, &st.Source.Error, &st.Target.Error, &st.WayBack.Reason} {
		*text = plain(*text)
	}
	st.Switches = slices.Clone(st.Switches)
	for i := range st.Switches {
		st.Switches[i].Error = plain(st.Switches[i].Error)
	}
	if st.Switches == nil {
		st.Switches = []state.Ran{}
	}
}
