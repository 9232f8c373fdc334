package session

import (
	"net/url"
	"strings"
	"unicode"
)

// parseURI parses what follows postgres:// as libpq does: the user information ends at the first @
// before any slash. If that does not give a sensible host, port, database and parameters, user or
// password contain characters that should have been percent-encoded. It then ends at the first @
// after which everything is sensible, and the password is what precedes it, taken literally:
//
//	postgres://u:p@ss/w#r?d%zz:@host:5432/db     password p@ss/w#r?d%zz:
//
// libpq would reject these, so no URI that libpq accepts is read differently, except for one whose
// host or database name would contain an @.
func parseURI(text string) (map[string]string, error) {
	strict, err := parseStrict(text)
	if err == nil {
		return strict, nil
	}
	if settings, err := parseServer(text, false); err == nil {
		return settings, nil // an @ in a parameter: postgres://host/db?user=me@there
	}
	for i := range len(text) {
		if text[i] != '@' {
			continue
		}
		settings, err := parseServer(text[i+1:], false)
		if err != nil {
			continue
		}
		user, password, hasPassword := strings.Cut(text[:i], ":")
		settings["user"] = decodeIfEncoded(user)
		if hasPassword {
			settings["password"] = decodeIfEncoded(password)
		}
		return settings, nil
	}
	return nil, err
}

func parseStrict(text string) (map[string]string, error) {
	i := strings.IndexAny(text, "@/")
	if i < 0 || text[i] == '/' {
		return parseServer(text, !strings.Contains(text, "@"))
	}
	settings, err := parseServer(text[i+1:], !strings.Contains(text[i+1:], "@"))
	if err != nil {
		return nil, err
	}
	user, password, hasPassword := strings.Cut(text[:i], ":")
	if strings.ContainsAny(user, "?=&") {
		return nil, unreadable("the user name contains a character that must be percent-encoded", "")
	}
	if settings["user"], err = decode(user, "user name"); err != nil {
		return nil, err
	}
	if hasPassword {
		if settings["password"], err = decode(password, "password"); err != nil {
			return nil, err
		}
	}
	return settings, nil
}

// decodeIfEncoded decodes a part of a URI that is not encoded throughout: this part is taken as
// encoded unless something in it says otherwise.
func decodeIfEncoded(text string) string {
	if strings.ContainsAny(text, "@/?#[] ") {
		return text
	}
	if decoded, err := decode(text, ""); err == nil {
		return decoded
	}
	return text
}

func decode(text, what string) (string, error) {
	decoded, err := url.PathUnescape(text)
	if err != nil || strings.ContainsRune(decoded, 0) {
		return "", unreadable(
			"bad percent-encoding in the "+what,
			"a literal % is written %25",
		)
	}
	return decoded, nil
}

// parseServer parses what follows the user information: hosts with ports, the database and the
// parameters. For named see set.
func parseServer(text string, named bool) (map[string]string, error) {
	settings := map[string]string{}
	text, query, _ := cutQuery(text)
	hostPart, database, hasDatabase := text, "", false
	if i := afterBracket(text, "/"); i >= 0 {
		hostPart, database, hasDatabase = text[:i], text[i+1:], true
	}
	if err := parseHosts(settings, hostPart); err != nil {
		return nil, err
	}
	if hasDatabase && database != "" {
		if strings.ContainsAny(database, "@/") {
			return nil, unreadable(
				"the database name contains a character that must be percent-encoded",
				"a / in it is written %2F, an @ %40; the same holds for the password",
			)
		}
		name, err := decode(database, "database name")
		if err != nil {
			return nil, err
		}
		settings["dbname"] = name
	}
	if err := parseParameters(settings, query, named); err != nil {
		return nil, err
	}
	return settings, nil
}

// cutQuery cuts at the first ? that is not in the brackets of an IPv6 address.
func cutQuery(text string) (before, after string, found bool) {
	if i := afterBracket(text, "?"); i >= 0 {
		return text[:i], text[i+1:], true
	}
	return text, "", false
}

func afterBracket(text, c string) int {
	from := 0
	if strings.HasPrefix(text, "[") {
		from = max(strings.IndexByte(text, ']'), 0)
	}
	if i := strings.Index(text[from:], c); i >= 0 {
		return from + i
	}
	return -1
}

func parseHosts(settings map[string]string, text string) error {
	var hosts, ports []string
	given := false
	for element := range strings.SplitSeq(text, ",") {
		host, port := element, ""
		if strings.HasPrefix(element, "[") {
			inside, after, ok := strings.Cut(element[1:], "]")
			if !ok || (after != "" && after[0] != ':') || !isIPv6(inside) {
				return unreadable("an IPv6 address is written [address]:port", "")
			}
			host, port = inside, strings.TrimPrefix(after, ":")
		} else if h, p, ok := strings.Cut(element, ":"); ok {
			host, port = h, p
		}
		if err := checkPort(port); err != nil {
			return err
		}
		if !strings.HasPrefix(element, "[") {
			var err error
			if host, err = decode(host, "host"); err != nil {
				return err
			}
			if !isHost(host) {
				return unreadable(
					"the host contains a character that no host name has",
					"in a password @ is written %40, / %2F, ? %3F, # %23 and % %25",
				)
			}
		}
		given = given || port != ""
		hosts, ports = append(hosts, host), append(ports, port)
	}
	if text != "" {
		settings["host"] = strings.Join(hosts, ",")
	}
	if given {
		settings["port"] = strings.Join(ports, ",")
	}
	return nil
}

// isHost accepts host names, including those with non-ASCII letters and underscores, addresses, and
// directories of a unix socket.
func isHost(host string) bool {
	if strings.HasPrefix(host, "/") {
		return true
	}
	for _, r := range host {
		if r != '.' && r != '-' && r != '_' && !unicode.IsLetter(r) && !unicode.IsDigit(r) {
			return false
		}
	}
	return true
}

// isIPv6 accepts what can be an address with a zone.
func isIPv6(text string) bool {
	address, zone, _ := strings.Cut(text, "%")
	return strings.Contains(address, ":") && strings.Trim(address, "0123456789abcdefABCDEF:.") == "" && isHost(zone)
}

func parseParameters(settings map[string]string, query string, named bool) error {
	if query == "" {
		return nil
	}
	for pair := range strings.SplitSeq(query, "&") {
		rawName, rawValue, ok := strings.Cut(pair, "=")
		name, err := decode(rawName, "parameters")
		if err != nil {
			return err
		}
		if !ok || name == "" {
			return unreadable(
				"a parameter after the ? has no value",
				"parameters are written ?name=value&name=value; in a password ? is written %3F",
			)
		}
		value, err := decode(rawValue, "parameters")
		switch {
		case err == nil:
		case name == "password":
			value = rawValue
		default:
			return err
		}
		if name == "ssl" { // of JDBC; libpq accepts it, too
			if value != "true" {
				return unreadable("ssl is true or left out", "write sslmode=…")
			}
			name, value = "sslmode", "require"
		}
		if err := set(settings, name, value, named); err != nil {
			return err
		}
		if name == "password" || name == "sslpassword" {
			named = false // what follows may be a part of it
		}
	}
	return nil
}
