package session

import (
	"encoding/json"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
)

// masked replaces a secret.
const masked = "***"

// shortest is the length from which a secret is masked wherever it occurs. A password of two
// letters protects nothing, and masking it would garble every text.
const shortest = 3

// Redactor masks secrets in text from elsewhere: the output of a program, an error of a library.
// The zero value masks only what is in the place of a password.
type Redactor struct {
	replacer *strings.Replacer
}

// NewRedactor returns a Redactor for these secrets in every form in which they may appear: as they
// are, percent-encoded and decoded, quoted for libpq, Go and JSON. Those shorter than three bytes
// are masked only in the place of a password.
func NewRedactor(secrets ...string) Redactor {
	var forms []string
	for _, s := range secrets {
		if len(s) < shortest {
			continue
		}
		quoted := quote(s)
		inGo := strconv.Quote(s)
		forms = append(forms, s, url.QueryEscape(s), url.PathEscape(s),
			strings.TrimPrefix(url.UserPassword("", s).String(), ":"),
			quoted[1:len(quoted)-1], strings.ReplaceAll(quoted[1:len(quoted)-1], " ", `\ `), inGo[1:len(inGo)-1], strings.ReplaceAll(s, "'", "''"))
		if inJSON, err := json.Marshal(s); err == nil {
			forms = append(forms, string(inJSON[1:len(inJSON)-1]))
		}
		for _, unescape := range []func(string) (string, error){url.PathUnescape, url.QueryUnescape} {
			if decoded, err := unescape(s); err == nil && len(decoded) >= shortest {
				forms = append(forms, decoded)
			}
		}
	}
	// Longest first: one form may be a prefix of another.
	slices.SortFunc(forms, func(a, b string) int { return len(b) - len(a) })
	forms = slices.Compact(forms)
	var pairs []string
	for _, f := range forms {
		pairs = append(pairs, f, masked)
	}
	return Redactor{replacer: strings.NewReplacer(pairs...)}
}

var (
	passwordValue = regexp.MustCompile(`(?i)(password|passwd|pwd)(\s*=\s*|"\s*:\s*)('(?:[^'\\]|\\.|'')*'|"(?:[^"\\]|\\.)*"|(?:\\.|[^\s&])+)`)
	userInfo      = regexp.MustCompile(`(?i)([a-z][a-z0-9+.-]*://[^\s:/@]*):[^\s]*@`)
)

// Text returns text with the secrets masked, and with them every value of password=… and every
// password of a URI.
func (r Redactor) Text(text string) string {
	if r.replacer != nil {
		text = r.replacer.Replace(text)
	}
	text = userInfo.ReplaceAllString(text, "${1}:"+masked+"@")
	return passwordValue.ReplaceAllString(text, "${1}${2}"+masked)
}

// Redact returns text with these secrets masked.
func Redact(text string, secrets ...string) string { return NewRedactor(secrets...).Text(text) }

// Secrets returns what must not be shown of a connection string: its password and that of its key,
// even if it cannot be parsed, and those from the environment, the passfile or the service file.
func Secrets(dsn string) []string {
	var secrets []string
	add := func(s string) {
		if s != "" && !slices.Contains(secrets, s) {
			secrets = append(secrets, s)
		}
	}
	var cfg *pgx.ConnConfig
	settings, err := read(dsn)
	if err == nil {
		add(settings["password"])
		add(settings["sslpassword"])
		if cfg, err = configure(settings); err == nil {
			add(cfg.Password)
		}
	}
	if err != nil {
		add(os.Getenv("PGPASSWORD"))
	}
	add(os.Getenv("PGSSLPASSWORD"))
	// As written: what may be the password up to each @.
	if _, rest, ok := strings.Cut(dsn, "://"); ok {
		if _, rest, ok = strings.Cut(rest, ":"); ok {
			for i := range len(rest) {
				if rest[i] == '@' {
					add(rest[:i])
				}
			}
		}
	}
	for _, match := range passwordValue.FindAllStringSubmatch(dsn, -1) {
		add(strings.Trim(match[3], `'"`))
	}
	return secrets
}
