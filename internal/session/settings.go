package session

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
