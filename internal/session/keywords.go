package session

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/walferry/walferry/internal/nearest"
)

type use int

const (
	used    use = iota // by pgx or by Parse
	sent               // to the server, at the start of the session
	ignored            // has no meaning here, or this package decides it
	refused            // without it the connection would be weaker than requested
)

type keyword struct {
	name   string
	use    use
	values []string // the only ones allowed; nil: any
}

var onOff = []string{"0", "1"}

// keywords are those of libpq 18, in the order of its manual, and the two of pgx that others use as
// well. https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-PARAMKEYWORDS
var keywords = []keyword{
	{name: "host"},
	{name: "hostaddr", use: ignored}, // see lookup
	{name: "port"},
	{name: "dbname"},
	{name: "user"},
	{name: "password"},
	{name: "passfile"},
	{name: "require_auth"},
	{name: "channel_binding", values: []string{"disable", "prefer", "require"}},
	{name: "connect_timeout"},
	{name: "client_encoding", use: ignored},
	{name: "options", use: sent},
	{name: "application_name", use: ignored},
	{name: "fallback_application_name", use: ignored},
	{name: "keepalives", use: ignored},
	{name: "keepalives_idle", use: ignored},
	{name: "keepalives_interval", use: ignored},
	{name: "keepalives_count", use: ignored},
	{name: "tcp_user_timeout", use: ignored},
	{name: "replication", use: ignored},
	{name: "gssencmode", use: ignored, values: []string{"disable", "prefer"}},
	{name: "sslmode", values: []string{"disable", "allow", "prefer", "require", "verify-ca", "verify-full"}},
	{name: "requiressl", use: ignored, values: []string{"0"}},
	{name: "sslnegotiation", values: []string{"postgres", "direct"}},
	{name: "sslcompression", use: ignored},
	{name: "sslcert"},
	{name: "sslkey"},
	{name: "sslkeylogfile", use: ignored},
	{name: "sslpassword"},
	{name: "sslcertmode", values: []string{"disable", "allow", "require"}},
	{name: "sslrootcert"},
	{name: "sslcrl", use: refused},
	{name: "sslcrldir", use: refused},
	{name: "sslsni", values: onOff},
	{name: "requirepeer", use: refused},
	{name: "ssl_min_protocol_version", use: ignored, values: []string{"TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3"}}, // see limitTLS
	{name: "ssl_max_protocol_version", use: ignored, values: []string{"TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3"}},
	{name: "min_protocol_version"},
	{name: "max_protocol_version"},
	{name: "krbsrvname"},
	{name: "krbspn"},
	{name: "gsslib", use: ignored},
	{name: "gssdelegation", use: ignored},
	{name: "scram_client_key", use: refused},
	{name: "scram_server_key", use: refused},
	{name: "service"},
	{name: "servicefile"},
	{name: "target_session_attrs", values: []string{"any", "read-write", "read-only", "primary", "standby", "prefer-standby"}},
	{name: "load_balance_hosts", use: ignored, values: []string{"disable", "random"}},
	{name: "oauth_issuer", use: refused},
	{name: "oauth_client_id", use: refused},
	{name: "oauth_client_secret", use: refused},
	{name: "oauth_scope", use: refused},
}

// aliases are other names known to libpq (ssl=true in a URI), pgx or other drivers.
var aliases = map[string]string{"database": "dbname", "timezone": "", "search_path": ""}

func keywordNames() []string {
	names := make([]string, len(keywords))
	for i, k := range keywords {
		names[i] = k.name
	}
	return names
}

// set stores one keyword's value. named reports whether the keyword may be quoted in an error: not
// if it could be a part of a password.
func set(settings map[string]string, name, value string, named bool) error {
	if alias, ok := aliases[name]; ok {
		if name = alias; name == "" {
			return nil // a setting of the server that this package pins
		}
	}
	i := slices.IndexFunc(keywords, func(k keyword) bool { return k.name == name })
	if i < 0 {
		return unknown(name, named)
	}
	k := keywords[i]
	switch {
	case k.use == refused && value != "":
		return unreadable(k.name+" is not supported", "leave it out")
	case k.name == "connect_timeout":
		if _, err := strconv.Atoi(value); err != nil {
			return unreadable("connect_timeout is not a whole number of seconds", "")
		}
	case k.name == "port":
		for port := range strings.SplitSeq(value, ",") {
			if err := checkPort(port); err != nil {
				return err
			}
		}
	case value != "" && k.values != nil && !slices.Contains(k.values, value):
		e := unreadable(fmt.Sprintf("%s must be one of %s", k.name, strings.Join(k.values, ", ")), "")
		if near, ok := nearest.Name(value, k.values); ok {
			e.Advice = fmt.Sprintf("did you mean %s=%s?", k.name, near)
		}
		return e
	}
	settings[name] = value
	return nil
}

func unknown(name string, named bool) error {
	// What does not look like a keyword may be a piece of a URI, password and all.
	named = named && !strings.ContainsFunc(name, func(r rune) bool { return r != '_' && (r < 'a' || r > 'z') })
	problem := "it has an unknown keyword"
	if named {
		problem = fmt.Sprintf("unknown keyword %q", name)
	}
	e := unreadable(problem, "")
	switch near, ok := nearest.Name(name, keywordNames()); {
	case ok:
		e.Advice = fmt.Sprintf("did you mean %s?", near)
	case named:
		e.Advice = "leave it out; the keywords are those of libpq"
	default:
		e.Advice = "a password with special characters is percent-encoded in a URI (@ is %40, / is %2F), and quoted in the other form: password='…', with \\' and \\\\"
	}
	return e
}

func checkPort(text string) error {
	if text == "" {
		return nil
	}
	if n, err := strconv.Atoi(text); err != nil || n < 1 || n > 65535 || text[0] == '+' {
		return unreadable(
			"port is not a number from 1 to 65535",
			"in a URI the port follows the host's colon; a password with : @ / ? # % is best percent-encoded",
		)
	}
	return nil
}

const blanks = " \t\n\r\v\f"

// parseKeywords parses keyword=value pairs: a value may be quoted with ', and in either form a
// backslash escapes the next character.
func parseKeywords(text string) (map[string]string, error) {
	settings := map[string]string{}
	// After an unquoted password the next "keyword" may be its second word; before an @ it may be
	// the piece of a URI with a password.
	named := !strings.Contains(text, "@")
	for text = strings.TrimLeft(text, blanks); text != ""; text = strings.TrimLeft(text, blanks) {
		end := strings.IndexAny(text, "="+blanks)
		if end < 0 {
			end = len(text)
		}
		name := text[:end]
		text = strings.TrimLeft(text[end:], blanks)
		if !strings.HasPrefix(text, "=") || name == "" {
			return nil, unreadable(
				"a keyword has no = after it",
				"a value with spaces is quoted: password='two words'",
			)
		}
		text = strings.TrimLeft(text[1:], blanks)
		quoted := strings.HasPrefix(text, "'")
		value, rest, ok := parseValue(text)
		if !ok {
			return nil, unreadable(
				"a quoted value has no end",
				`inside quotes ' is written \' and \ is written \\`,
			)
		}
		if quoted && rest != "" && !strings.ContainsAny(rest[:1], blanks) {
			// The quote that ended it was meant to be a part of it.
			return nil, unreadable(
				"a quoted value continues after its end",
				`inside quotes ' is written \' and \ is written \\`,
			)
		}
		if err := set(settings, name, value, named); err != nil {
			return nil, err
		}
		if (name == "password" || name == "sslpassword") && !quoted {
			named = false
		}
		text = rest
	}
	return settings, nil
}

// parseValue parses the value at the start of text.
func parseValue(text string) (value, rest string, ok bool) {
	var b strings.Builder
	quoted := strings.HasPrefix(text, "'")
	if quoted {
		text = text[1:]
	}
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case c == '\\':
			if i++; i < len(text) {
				b.WriteByte(text[i])
			}
		case quoted && c == '\'':
			return b.String(), text[i+1:], true
		case !quoted && strings.IndexByte(blanks, c) >= 0:
			return b.String(), text[i:], true
		default:
			b.WriteByte(c)
		}
	}
	return b.String(), "", !quoted
}

// quote quotes a value for the keyword form.
func quote(value string) string {
	return "'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(value) + "'"
}
