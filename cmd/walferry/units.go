package main

import (
	"fmt"
	"math"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// bytesText formats a size for people.
func bytesText(n int64) string {
	units := []string{"B", "kB", "MB", "GB", "TB", "PB"}
	v, i := float64(n), 0
	for v >= 1000 && i < len(units)-1 {
		v, i = v/1024, i+1
	}
	if i == 0 || v >= 100 {
		return fmt.Sprintf("%.0f %s", v, units[i])
	}
	return fmt.Sprintf("%.1f %s", v, units[i])
}

// sizeForm matches a size: a whole number and a unit, written as in PostgreSQL's settings or in
// another common form. Each unit is 1024 of the one before.
var sizeForm = regexp.MustCompile(`^(\d+) ?([kKMGT])(i?B)?$`)

// parseSize parses a size, such as 100GB, 100GiB or 100G.
func parseSize(text string) (int64, bool) {
	parts := sizeForm.FindStringSubmatch(strings.TrimSpace(text))
	if parts == nil {
		return 0, false
	}
	shift := 10 * (1 + strings.Index("KMGT", strings.ToUpper(parts[2])))
	n, err := strconv.ParseInt(parts[1], 10, 64)
	if err != nil || n > math.MaxInt64>>shift {
		return 0, false
	}
	return n << shift, true
}

// parseDuration parses a duration; a number without a unit is in seconds.
func parseDuration(text string) (time.Duration, bool) {
	text = strings.TrimSpace(text)
	if _, err := strconv.ParseFloat(text, 64); err == nil {
		text += "s"
	}
	d, err := time.ParseDuration(text)
	return d, err == nil
}

// countText formats a number with its thousands separated.
func countText(n int64) string {
	s := fmt.Sprint(n)
	var b strings.Builder
	for i, r := range s {
		if i > 0 && r != '-' && (len(s)-i)%3 == 0 && s[i-1] != '-' {
			b.WriteByte(',')
		}
		b.WriteRune(r)
	}
	return b.String()
}

// secondsText formats a duration for people: from two days on in days.
func secondsText(s float64) string {
	const day = 24 * 60 * 60
	d := time.Duration(s * float64(time.Second))
	switch {
	case s >= 2*day:
		return countText(int64(math.Round(s/day))) + " days"
	case d >= time.Minute:
		return d.Round(time.Second).String()
	case d >= 10*time.Second:
		return fmt.Sprintf("%.0f s", s)
	}
	return fmt.Sprintf("%.1f s", s)
}
