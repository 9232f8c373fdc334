package main

import (
	"fmt"
	"path/filepath"

	"github.com/walferry/walferry/internal/fail"
	"github.com/walferry/walferry/internal/include"
)

// include puts the texts of files and variables where the values of the configuration file ask for them.
func (f *file) include() error {
	for name, value := range f.values {
		var err error
		switch v := value.(type) {
		case string:
			f.values[name], err = f.included(name, v)
		case []any:
			for i := range v {
				if text, ok := v[i].(string); ok && err == nil {
					v[i], err = f.included(name, text)
				}
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (f *file) included(name, value string) (string, error) {
	kind := include.Plain
	if name == "source" || name == "target" || name == "pgbouncer" {
		kind = include.DSN
	}
	text, err := include.Text(f.dir(), value, kind)
	if err != nil {
		return "", &fail.Error{Kind: fail.Usage, Problem: fmt.Sprintf("configuration file %s: %s: %v", f.path, name, err), Advice: fail.Hint(err)}
	}
	return text, nil
}

// dir is where the configuration file is.
func (f *file) dir() string { return filepath.Dir(f.path) }
