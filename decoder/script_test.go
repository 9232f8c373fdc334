package decoder

import (
	"encoding/binary"
	"encoding/hex"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/jackc/pglogrepl"
)

var rewrite = flag.Bool("rewrite", false, "write what the scripts give into testdata/script")

// TestScripts runs testdata/script. A file opens with its story. A line that starts with "> " is a
// message, or a setting; what the decoder gives for it stands below.
//
//	> begin XID COMMIT           > origin NAME             > commit COMMIT END
//	> relation OID SCHEMA.NAME IDENTITY COLUMN[*]...       a star marks the key
//	> insert OID VALUE...        a value is n, u or =TEXT
//	> update OID [K VALUE... | O VALUE...] N VALUE...      > delete OID K|O VALUE...
//	> truncate OID[,OID...] [cascade] [restart]
//	> type OID                   > hex BYTES               > reset LSN
//	> message FLAGS LSN PREFIX CONTENT
//	> pieces BYTES               > truncations TABLE       > messages PREFIX    > empty XID
func TestScripts(t *testing.T) {
	files, err := filepath.Glob("testdata/script/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got := runScript(t, string(text))
			if *rewrite {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if got != string(text) && !*rewrite {
				t.Errorf("%s gives:\n%s", file, got)
			}
		})
	}
}

func runScript(t *testing.T, text string) string {
	var out strings.Builder
	var d Decoder
	for line := range strings.Lines(text) {
		command, isCommand := strings.CutPrefix(strings.TrimRight(line, "\n"), "> ")
		if !isCommand {
			if strings.HasPrefix(line, "#") || line == "\n" {
				out.WriteString(line)
			}
			continue
		}
		out.WriteString(line)
		words := strings.Fields(command)
		switch words[0] {
		case "pieces":
			d.PieceBytes = number(t, words[1])
		case "truncations":
			d.Truncations = words[1]
		case "messages":
			d.Messages = func(prefix string) bool { return prefix == words[1] }
		case "empty":
			d.Empty = func(xid uint32) bool { return int(xid) == number(t, words[1]) }
		case "reset":
			d.Reset(lsnOf(t, words[1]))
		default:
			tx, err := d.Decode(encode(t, words))
			if err != nil {
				fmt.Fprintf(&out, "error: %v\n", err)
			}
			describe(&out, tx)
		}
	}
	return out.String()
}

func describe(out *strings.Builder, tx *Tx) {
	if tx == nil {
		return
	}
	fmt.Fprintf(out, "tx %d commit=%s end=%s", tx.XID, tx.CommitLSN, tx.EndLSN)
	if tx.Origin != "" {
		fmt.Fprintf(out, " origin=%s", tx.Origin)
	}
	if !tx.First || !tx.Last {
		fmt.Fprintf(out, " first=%t last=%t", tx.First, tx.Last)
	}
	out.WriteString("\n")
	for _, m := range tx.Messages {
		fmt.Fprintf(out, "  M %s %s=%s transactional=%t before=%d\n", m.LSN, m.Prefix, m.Content, m.Transactional, m.Before)
	}
	for _, c := range tx.Changes {
		fmt.Fprintf(out, "  %c", c.Op)
		if c.Relation != nil {
			fmt.Fprintf(out, " %s", c.Relation.describe())
		}
		for _, rel := range c.Truncated {
			fmt.Fprintf(out, " %s", rel.describe())
		}
		if c.Cascade {
			out.WriteString(" cascade")
		}
		if c.Restart {
			out.WriteString(" restart")
		}
		if c.Old != nil {
			fmt.Fprintf(out, " old(full=%t):%s", c.OldFull, describeRow(c.Old))
		}
		if c.New != nil {
			fmt.Fprintf(out, " new:%s", describeRow(c.New))
		}
		out.WriteString("\n")
	}
}

func (rel *Relation) describe() string {
	text := fmt.Sprintf("%s.%s/%d(", rel.Namespace, rel.Name, rel.OID)
	for i, c := range rel.Columns {
		if i > 0 {
			text += ","
		}
		text += c.Name
		if c.Key {
			text += "*"
		}
	}
	return text + ")"
}

func describeRow(row []Value) string {
	var text strings.Builder
	for _, v := range row {
		if v.Kind == Text {
			fmt.Fprintf(&text, " =%s", v.Data)
		} else {
			fmt.Fprintf(&text, " %c", v.Kind)
		}
	}
	return text.String()
}

// encode writes a message as pgoutput does.
func encode(t testing.TB, words []string) []byte {
	var m []byte
	u8 := func(b byte) { m = append(m, b) }
	u16 := func(n int) { m = binary.BigEndian.AppendUint16(m, uint16(n)) }
	u32 := func(n int) { m = binary.BigEndian.AppendUint32(m, uint32(n)) }
	u64 := func(n LSN) { m = binary.BigEndian.AppendUint64(m, uint64(n)) }
	str := func(s string) { m = append(append(m, s...), 0) }
	tuple := func(values []string) {
		u16(len(values))
		for _, v := range values {
			if text, ok := strings.CutPrefix(v, "="); ok {
				u8('t')
				u32(len(text))
				m = append(m, text...)
			} else {
				u8(v[0])
			}
		}
	}
	args := words[1:]
	switch words[0] {
	case "begin":
		u8('B')
		u64(lsnOf(t, args[1]))
		u64(0)
		u32(number(t, args[0]))
	case "origin":
		u8('O')
		u64(0)
		str(args[0])
	case "commit":
		u8('C')
		u8(0)
		u64(lsnOf(t, args[0]))
		u64(lsnOf(t, args[1]))
		u64(0)
	case "relation":
		u8('R')
		u32(number(t, args[0]))
		namespace, name, _ := strings.Cut(args[1], ".")
		str(namespace)
		str(name)
		u8(args[2][0])
		u16(len(args) - 3)
		for _, column := range args[3:] {
			name, key := strings.CutSuffix(column, "*")
			if key {
				u8(1)
			} else {
				u8(0)
			}
			str(name)
			u32(25)
			u32(-1)
		}
	case "insert":
		u8('I')
		u32(number(t, args[0]))
		u8('N')
		tuple(args[1:])
	case "update":
		u8('U')
		u32(number(t, args[0]))
		row := args[1:]
		if row[0] != "N" {
			n := 1
			for row[n] != "N" {
				n++
			}
			u8(row[0][0])
			tuple(row[1:n])
			row = row[n:]
		}
		u8('N')
		tuple(row[1:])
	case "delete":
		u8('D')
		u32(number(t, args[0]))
		u8(args[1][0])
		tuple(args[2:])
	case "truncate":
		oids := strings.Split(args[0], ",")
		var flags byte
		for _, option := range args[1:] {
			flags |= map[string]byte{"cascade": 1, "restart": 2}[option]
		}
		u8('T')
		u32(len(oids))
		u8(flags)
		for _, oid := range oids {
			u32(number(t, oid))
		}
	case "type":
		u8('Y')
		u32(number(t, args[0]))
		str("public")
		str("mood")
	case "message":
		u8('M')
		u8(byte(number(t, args[0])))
		u64(lsnOf(t, args[1]))
		str(args[2])
		u32(len(args[3]))
		m = append(m, args[3]...)
	case "hex":
		raw, err := hex.DecodeString(strings.Join(args, ""))
		if err != nil {
			t.Fatal(err)
		}
		m = raw
	default:
		t.Fatalf("unknown command %q", words)
	}
	return m
}

func number(t testing.TB, text string) int {
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func lsnOf(t testing.TB, text string) LSN {
	lsn, err := pglogrepl.ParseLSN(text)
	if err != nil {
		t.Fatal(err)
	}
	return lsn
}
