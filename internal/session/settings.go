package session

import "strings"

// Settings returns libpq's keywords and their values in a connection string, without its secrets:
// for programs that make their own connection. Values from the environment, the passfile and the
// service file are not included; see Parse.
func Settings(dsn string) (map[string]string, error) {
	settings, err := read(dsn)
	if err != nil {
		return nil, err
	}
	delete(settings, "password")
	delete(settings, "sslpassword")
	return settings, nil
}

// HoldsPassword reports whether a connection string contains a secret: one that was parsed, or, if
// it cannot be parsed, what looks like one.
func HoldsPassword(dsn string) bool {
	settings, err := read(dsn)
	return err == nil && settings["password"]+settings["sslpassword"] != "" || Redact(dsn) != dsn
}

// WithDatabase returns a connection string for another database of the same server, with everything else as it was, secrets too. Where
// the string named no database, as one for a whole server may, it does now.
func WithDatabase(dsn, database string) (string, error) {
	settings, err := read(dsn)
	if err != nil {
		return "", err
	}
	settings["dbname"] = database
	return join(settings), nil
}

// Join returns the connection string of libpq's keywords and their values.
func Join(parts map[string]string) (string, error) {
	settings := map[string]string{}
	for name, value := range parts {
		if err := set(settings, name, value, true); err != nil {
			return "", err
		}
	}
	return join(settings), nil
}

func join(settings map[string]string) string {
	var parts []string
	for _, k := range keywords {
		if value, ok := settings[k.name]; ok {
			parts = append(parts, k.name+"="+quote(value))
		}
	}
	return strings.Join(parts, " ")
}
