package applier

import (
	"bytes"
	"strings"

	"github.com/walferry/walferry/decoder"
)

// copy adds INSERTs of one shape as one COPY, which the server reads row by row without an
// executor. s is the statement for many of them: COPY has its columns, and the same input functions
// read the same texts. It writes identity columns, as OVERRIDING SYSTEM VALUE does.
func (b *batch) copy(t *table, s *statement, changes []*decoder.Change) {
	names := make([]string, len(s.args))
	for i, arg := range s.args {
		names[i] = t.columns[arg.column].name
	}
	rows := copyText(changes, s.args)
	b.commands = append(b.commands, command{
		sql: "copy " + t.sql + " (" + strings.Join(names, ", ") + ") from stdin", copied: rows, size: len(rows), awaited: b.all(t, changes),
	})
}

// copyText writes the rows in COPY's text format:
// https://www.postgresql.org/docs/current/sql-copy.html#SQL-COPY-FILE-FORMATS
func copyText(changes []*decoder.Change, args []arg) []byte {
	size := 0
	for _, c := range changes {
		for _, arg := range args {
			size += len(arg.value(c).Data) + len(`\N,`) // escapes are rare
		}
	}
	b := make([]byte, 0, size)
	for _, c := range changes {
		for i, arg := range args {
			if i > 0 {
				b = append(b, '\t')
			}
			if v := arg.value(c); v.Kind == decoder.Text {
				b = appendCopied(b, v.Data)
			} else {
				b = append(b, `\N`...)
			}
		}
		b = append(b, '\n')
	}
	return b
}

// appendCopied escapes what COPY would read as a delimiter or an escape.
func appendCopied(b, text []byte) []byte {
	for {
		at := bytes.IndexAny(text, "\\\t\n\r")
		if at < 0 {
			return append(b, text...)
		}
		b = append(append(b, text[:at]...), '\\')
		switch x := text[at]; x {
		case '\t':
			b = append(b, 't')
		case '\n':
			b = append(b, 'n')
		case '\r':
			b = append(b, 'r')
		default:
			b = append(b, x)
		}
		text = text[at+1:]
	}
}
