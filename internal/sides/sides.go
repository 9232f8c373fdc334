// Package sides has the words for the two servers of a switch. In a fallback they are the other way
// round: an operator who is told to do something on "the source" then would do it on the wrong one.
package sides

import (
	"context"
	"log/slog"
	"regexp"
	"strings"

	"github.com/walferry/walferry/internal/fail"
)

// Sides says which way round a switch goes. It is recorded; what an older version has recorded is
// OneWay, and reads as it did.
type Sides string

// The ways.
const (
	OneWay Sides = ""      // a cutover that nobody wants a way back from: from the source to the target
	Forth  Sides = "forth" // a cutover that can be taken back: from the old server to the new one
	Back   Sides = "back"  // a fallback: from the new server to the old one
)

// StartOver is how to start a migration over.
const StartOver = "`walferry abort`, `walferry cleanup`, empty the target, `walferry migrate`"

// From is what the server is called, without an article, whose writers are moved.
func (s Sides) From() string {
	switch s {
	case Forth:
		return "old server"
	case Back:
		return "new server"
	}
	return "source"
}

// To is what the server is called that they are moved to.
func (s Sides) To() string {
	switch s {
	case Forth:
		return "new server"
	case Back:
		return "old server"
	}
	return "target"
}

// Switch is what the switch is called, and the command that asks for it.
func (s Sides) Switch() string {
	if s == Back {
		return "fallback"
	}
	return "cutover"
}

// Both names both servers.
func (s Sides) Both() string {
	if s == OneWay {
		return s.From() + " and " + s.To()
	}
	return "the " + s.From() + " and the " + s.To()
}

// Reverse returns the sides of the flow in the other direction. A switch of one way has none.
func (s Sides) Reverse() Sides {
	switch s {
	case Forth:
		return Back
	case Back:
		return Forth
	}
	return OneWay
}

// word is a word of a text with the article before it, or what is quoted, which names something.
var word = regexp.MustCompile(`"[^"]*"|(?:\b([Tt]he|a) )?([\w.-]*\w)`)

// Reword puts a text into these words, of a package that only knows a source, a target and a
// cutover: of one flow, whichever way that goes. What is quoted, options, and names with a dot or a
// dash stay.
func (s Sides) Reword(text string) string {
	if s == OneWay {
		return text
	}
	if s == Back { // the migration cannot: the new server is the database
		text = strings.ReplaceAll(text, StartOver, "that is `walferry finish`, after which there is no way back, and a new migration")
	}
	return word.ReplaceAllStringFunc(text, func(found string) string {
		article, last, two := strings.Cut(found, " ")
		if !two || found[0] == '"' {
			article, last = "the", found
		}
		switch last {
		case "source":
			return article + " " + s.From()
		case "target":
			return article + " " + s.To()
		case "cutover":
			return strings.TrimSuffix(found, last) + s.Switch()
		}
		return found
	})
}

// Error puts an error of such a package into these words. It is found in it as before.
func (s Sides) Error(err error) error {
	if s == OneWay || err == nil {
		return err
	}
	said := &fail.Error{Problem: s.Reword(err.Error()), Advice: s.Reword(fail.Hint(err)), Err: err}
	for _, kind := range []fail.Kind{fail.Gate, fail.Run, fail.Usage, fail.Difference, fail.Stopped} {
		if fail.Is(err, kind) {
			said.Kind = kind
			break
		}
	}
	return said
}

// Logger returns a logger that puts messages and errors into these words.
func (s Sides) Logger(log *slog.Logger) *slog.Logger {
	if s == OneWay {
		return log
	}
	return slog.New(handler{log.Handler(), s})
}

type handler struct {
	slog.Handler
	sides Sides
}

func (h handler) Handle(ctx context.Context, r slog.Record) error {
	said := slog.NewRecord(r.Time, r.Level, h.sides.Reword(r.Message), r.PC)
	r.Attrs(func(a slog.Attr) bool {
		said.AddAttrs(h.attr(a))
		return true
	})
	return h.Handler.Handle(ctx, said)
}

func (h handler) attr(a slog.Attr) slog.Attr {
	if err, ok := a.Value.Any().(error); ok {
		return slog.String(a.Key, h.sides.Reword(err.Error()))
	}
	return a
}

func (h handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	said := make([]slog.Attr, len(attrs))
	for i := range attrs {
		said[i] = h.attr(attrs[i])
	}
	return handler{h.Handler.WithAttrs(said), h.sides}
}

func (h handler) WithGroup(name string) slog.Handler {
	return handler{h.Handler.WithGroup(name), h.sides}
}
