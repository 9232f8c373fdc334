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
	m, args := new(message), words[1:]
	switch words[0] {
	case "begin":
		m.u8('B')
		m.u64(lsnOf(t, args[1]))
		m.u64(0)
		m.u32(number(t, args[0]))
	case "origin":
		m.u8('O')
		m.u64(0)
		m.str(args[0])
	case "commit":
		m.u8('C')
		m.u8(0)
		m.u64(lsnOf(t, args[0]))
		m.u64(lsnOf(t, args[1]))
		m.u64(0)
	case "relation":
		m.relation(t, args)
	case "insert":
		m.u8('I')
		m.u32(number(t, args[0]))
		m.u8('N')
		m.tuple(args[1:])
	case "update":
		m.update(t, args)
	case "delete":
		m.u8('D')
		m.u32(number(t, args[0]))
		m.u8(args[1][0])
		m.tuple(args[2:])
	case "truncate":
		m.truncate(t, args)
	case "type":
		m.u8('Y')
		m.u32(number(t, args[0]))
		m.str("public")
		m.str("mood")
	case "message":
		m.u8('M')
		m.u8(byte(number(t, args[0])))
		m.u64(lsnOf(t, args[1]))
		m.str(args[2])
		m.u32(len(args[3]))
		*m = append(*m, args[3]...)
	case "hex":
		raw, err := hex.DecodeString(strings.Join(args, ""))
		if err != nil {
			t.Fatal(err)
		}
		*m = raw
	default:
		t.Fatalf("unknown command %q", words)
	}
	return *m
}

// message is a message of pgoutput that is being written.
type message []byte

func (m *message) u8(b byte)    { *m = append(*m, b) }
func (m *message) u16(n int)    { *m = binary.BigEndian.AppendUint16(*m, uint16(n)) }
func (m *message) u32(n int)    { *m = binary.BigEndian.AppendUint32(*m, uint32(n)) }
func (m *message) u64(n LSN)    { *m = binary.BigEndian.AppendUint64(*m, uint64(n)) }
func (m *message) str(s string) { *m = append(append(*m, s...), 0) }

func (m *message) tuple(values []string) {
	m.u16(len(values))
	for _, v := range values {
		if text, ok := strings.CutPrefix(v, "="); ok {
			m.u8('t')
			m.u32(len(text))
			*m = append(*m, text...)
		} else {
			m.u8(v[0])
		}
	}
}

func (m *message) relation(t testing.TB, args []string) {
	m.u8('R')
	m.u32(number(t, args[0]))
	namespace, name, _ := strings.Cut(args[1], ".")
	m.str(namespace)
	m.str(name)
	m.u8(args[2][0])
	m.u16(len(args) - 3)
	for _, column := range args[3:] {
		name, key := strings.CutSuffix(column, "*")
		if key {
			m.u8(1)
		} else {
			m.u8(0)
		}
		m.str(name)
		m.u32(25)
		m.u32(-1)
	}
}

func (m *message) update(t testing.TB, args []string) {
	m.u8('U')
	m.u32(number(t, args[0]))
	row := args[1:]
	if row[0] != "N" {
		n := 1
		for row[n] != "N" {
			n++
		}
		m.u8(row[0][0])
		m.tuple(row[1:n])
		row = row[n:]
	}
	m.u8('N')
	m.tuple(row[1:])
}

func (m *message) truncate(t testing.TB, args []string) {
	oids := strings.Split(args[0], ",")
	var flags byte
	for _, option := range args[1:] {
		flags |= map[string]byte{"cascade": 1, "restart": 2}[option]
	}
	m.u8('T')
	m.u32(len(oids))
	m.u8(flags)
	for _, oid := range oids {
		m.u32(number(t, oid))
	}
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
