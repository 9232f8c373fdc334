package session

// Settings are libpq's keywords and their values as a connection string gives
// them, without its secrets: for programs that are given a connection of their
// own. What comes from the environment, the passfile and the service file is
// not among them; see Parse.
func Settings(dsn string) (map[string]string, error) {
	settings, err := read(dsn)
	if err != nil {
		return nil, err
	}
	delete(settings, "password")
	delete(settings, "sslpassword")
	return settings, nil
}

// HoldsPassword tells whether a connection string has a secret in it: as it is read,
// or, where it cannot be read, by what looks like one.
func HoldsPassword(dsn string) bool {
	settings, err := read(dsn)
	return err == nil && settings["password"]+settings["sslpassword"] != "" || Redact(dsn) != dsn
}
