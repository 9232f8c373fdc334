package decoder

import (
	"strconv"
	"time"
	"unicode/utf8"
)

// AppendJSON appends a Tx as one JSON object and a newline. Values are strings in the form of the
// type's output function, or null:
//
//	{"xid":741,"commit_lsn":"0/1559340","end_lsn":"0/1559370","commit_time":"2024-05-01T10:00:00.123456Z","changes":[
//	 {"op":"insert","schema":"public","table":"t","new":{"id":"1","note":null}},
//	 {"op":"update","schema":"public","table":"t","key":{"id":"1"},"new":{"id":"2"},"unchanged":["note"]},
//	 {"op":"delete","schema":"public","table":"t","old":{"id":"2","note":"x"}},
//	 {"op":"truncate","tables":[{"schema":"public","table":"t"}],"cascade":true,"restart_identity":true}]}
//
// "key" is the old key, "old" the whole old row of a table with REPLICA IDENTITY FULL; an update
// that left the key unchanged has neither. "origin" is present if the transaction has one; "first"
// and "last" if it comes in pieces, and then "end_lsn" only in the last. A position has xid 0 and
// no changes. "messages" is present if there are any, each with the index of the change that it
// comes before:
//
//	"messages":[{"prefix":"outbox","content":"...","lsn":"0/1559338","transactional":true,"before":0}]
func AppendJSON(dst []byte, tx *Tx) []byte {
	dst = append(dst, `{"xid":`...)
	dst = strconv.AppendUint(dst, uint64(tx.XID), 10)
	dst = append(dst, `,"commit_lsn":`...)
	dst = appendLSN(dst, tx.CommitLSN)
	if tx.Last {
		dst = append(dst, `,"end_lsn":`...)
		dst = appendLSN(dst, tx.EndLSN)
	}
	if !tx.CommitTime.IsZero() {
		dst = append(dst, `,"commit_time":"`...)
		dst = tx.CommitTime.AppendFormat(dst, time.RFC3339Nano)
		dst = append(dst, '"')
	}
	if tx.Origin != "" {
		dst = append(dst, `,"origin":`...)
		dst = appendString(dst, tx.Origin)
	}
	if !tx.First || !tx.Last {
		dst = append(dst, `,"first":`...)
		dst = strconv.AppendBool(dst, tx.First)
		dst = append(dst, `,"last":`...)
		dst = strconv.AppendBool(dst, tx.Last)
	}
	dst = append(dst, `,"changes":[`...)
	for i := range tx.Changes {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = appendChange(dst, &tx.Changes[i])
	}
	dst = append(dst, ']')
	separator := `,"messages":[`
	for i := range tx.Messages {
		dst = appendMessage(append(dst, separator...), &tx.Messages[i])
		separator = ","
	}
	if len(tx.Messages) > 0 {
		dst = append(dst, ']')
	}
	return append(dst, "}\n"...)
}

func appendMessage(dst []byte, m *Message) []byte {
	dst = appendString(append(dst, `{"prefix":`...), m.Prefix)
	dst = appendString(append(dst, `,"content":`...), m.Content)
	dst = appendLSN(append(dst, `,"lsn":`...), m.LSN)
	dst = strconv.AppendBool(append(dst, `,"transactional":`...), m.Transactional)
	dst = strconv.AppendInt(append(dst, `,"before":`...), int64(m.Before), 10)
	return append(dst, '}')
}

func appendChange(dst []byte, c *Change) []byte {
	switch c.Op {
	case Insert:
		dst = append(dst, `{"op":"insert",`...)
	case Update:
		dst = append(dst, `{"op":"update",`...)
	case Delete:
		dst = append(dst, `{"op":"delete",`...)
	case Truncate:
		return appendTruncate(dst, c)
	}
	dst = appendTable(dst, c.Relation)
	columns := c.Relation.Columns
	switch {
	case c.OldFull:
		dst = appendRow(append(dst, `,"old":`...), columns, c.Old, false)
	case c.Old != nil:
		dst = appendRow(append(dst, `,"key":`...), columns, c.Old, true)
	}
	if c.New == nil {
		return append(dst, '}')
	}
	dst = appendRow(append(dst, `,"new":`...), columns, c.New, false)
	separator := `,"unchanged":[`
	for i := range c.New {
		if c.New[i].Kind == Unchanged {
			dst = append(dst, separator...)
			dst = appendString(dst, columns[i].Name)
			separator = ","
		}
	}
	if separator == "," {
		dst = append(dst, ']')
	}
	return append(dst, '}')
}

func appendTruncate(dst []byte, c *Change) []byte {
	dst = append(dst, `{"op":"truncate","tables":[`...)
	for i, rel := range c.Truncated {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(appendTable(append(dst, '{'), rel), '}')
	}
	dst = append(dst, ']')
	if c.Cascade {
		dst = append(dst, `,"cascade":true`...)
	}
	if c.Restart {
		dst = append(dst, `,"restart_identity":true`...)
	}
	return append(dst, '}')
}

func appendTable(dst []byte, rel *Relation) []byte {
	dst = appendString(append(dst, `"schema":`...), rel.Namespace)
	return appendString(append(dst, `,"table":`...), rel.Name)
}

// appendRow leaves out what was not sent: unchanged values, and in a key tuple the columns outside
// the key.
func appendRow(dst []byte, columns []Column, values []Value, keyOnly bool) []byte {
	dst = append(dst, '{')
	first := true
	for i := range values {
		if values[i].Kind == Unchanged || keyOnly && !columns[i].Key {
			continue
		}
		if !first {
			dst = append(dst, ',')
		}
		first = false
		dst = append(appendString(dst, columns[i].Name), ':')
		if values[i].Kind == Null {
			dst = append(dst, "null"...)
		} else {
			dst = appendString(dst, values[i].Data)
		}
	}
	return append(dst, '}')
}

func appendLSN(dst []byte, lsn LSN) []byte {
	return append(append(append(dst, '"'), lsn.String()...), '"')
}

// appendString appends a JSON string. Bytes that are not UTF-8, which only a database with encoding
// SQL_ASCII can send, become the replacement character.
func appendString[T string | []byte](dst []byte, text T) []byte {
	const hex = "0123456789abcdef"
	dst = append(dst, '"')
	from := 0 // text from here on needs no escape so far
	for i := 0; i < len(text); {
		b := text[i]
		if b >= ' ' && b != '"' && b != '\\' && b < utf8.RuneSelf {
			i++
			continue
		}

		if b >= utf8.RuneSelf {
			r, n := utf8.DecodeRuneInString(string(text[i:min(i+utf8.UTFMax, len(text))]))
			if r != utf8.RuneError || n > 1 {
				i += n
				continue
			}
		}
		dst = append(dst, text[from:i]...)
		switch {
		case b == '"' || b == '\\':
			dst = append(dst, '\\', b)
		case b == '\n':
			dst = append(dst, `\n`...)
		case b == '\t':
			dst = append(dst, `\t`...)
		case b == '\r':
			dst = append(dst, `\r`...)
		case b < ' ':
			dst = append(dst, '\\', 'u', '0', '0', hex[b>>4], hex[b&15])
		default:
			dst = append(dst, `\ufffd`...)
		}
		i++
		from = i
	}
	return append(append(dst, text[from:]...), '"')
}
