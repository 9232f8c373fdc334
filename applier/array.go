package applier

import (
	"encoding/binary"

	"github.com/walferry/walferry/decoder"
)

// The formats of parameters: https://www.postgresql.org/docs/current/protocol-overview.html
const (
	textFormat   = 0
	binaryFormat = 1
)

const textOID = 25

// textArray makes a text[] of the value that each change has for a parameter, in the binary format
// (array_send in arrayfuncs.c): nothing in it needs to be quoted.
func textArray(changes []*decoder.Change, a arg) []byte {
	size := 20
	var null uint32
	for _, c := range changes {
		v := a.value(c)
		size += 4 + len(v.Data)
		if v.Kind != decoder.Text {
			null = 1
		}
	}
	b := make([]byte, 0, size)
	for _, n := range [...]uint32{1, null, textOID, uint32(len(changes)), 1} { // dimensions, any null, type, length, lower bound
		b = binary.BigEndian.AppendUint32(b, n)
	}
	for _, c := range changes {
		v := a.value(c)
		if v.Kind != decoder.Text {
			b = append(b, 0xff, 0xff, 0xff, 0xff)
			continue
		}
		b = binary.BigEndian.AppendUint32(b, uint32(len(v.Data)))
		b = append(b, v.Data...)
	}
	return b
}

// literal makes the text of an array of the value that each change has for a parameter:
// https://www.postgresql.org/docs/current/arrays.html#ARRAYS-IO
func literal(changes []*decoder.Change, a arg, delimiter byte) []byte {
	size := 2
	for _, c := range changes {
		size += len(a.value(c).Data) + len(`"",NU`) // room for a NULL, too; inner quotes are rare
	}
	b := append(make([]byte, 0, size), '{')
	for i, c := range changes {
		if i > 0 {
			b = append(b, delimiter)
		}
		v := a.value(c)
		if v.Kind != decoder.Text {
			b = append(b, "NULL"...)
			continue
		}
		b = append(b, '"')
		for _, x := range v.Data {
			if x == '"' || x == '\\' {
				b = append(b, '\\')
			}
			b = append(b, x)
		}
		b = append(b, '"')
	}
	return append(b, '}')
}

// value returns the value that a change has for a parameter.
func (a arg) value(c *decoder.Change) *decoder.Value {
	if a.old {
		return &c.Old[a.column]
	}
	return &c.New[a.column]
}
