package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Whatever a configuration file holds: no panic, an error of usage, and no value in it.
func FuzzReadFile(f *testing.F) {
	for _, text := range []string{
		"source: postgres://u:canary@h/d\n", "source: {password: canary}", "jobs: canary", "- a", "a: &a [*a]", "a: b: c",
		"include: [canary, 1]", "\xef\xbb\xbfname: x\r\njobs: 3\r\n", "verify: canary", "timeout: canary", "name: x\nname: y", "insert_only: a\ninsert-only: b", "? {a: b}\n: c",
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		path := filepath.Join(t.TempDir(), "walferry.yaml")
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		file, err := readFile(path)
		if err == nil {
			if file == nil || file.values == nil {
				t.Fatal("neither a file nor an error")
			}
			return
		}
		var usage *usageError
		if !errors.As(err, &usage) {
			t.Errorf("%q: %v is no usageError", text, err)
		}
		// Keys are named, values are not: they may be secrets.
		for line := range strings.Lines(string(text)) {
			key, value, ok := strings.Cut(line, ": ")
			if value = strings.TrimSpace(value); ok && value == "canary" && !strings.Contains(key, "canary") && strings.Contains(err.Error(), "canary") {
				t.Errorf("%q: the error tells a value: %v", text, err)
			}
		}
	})
}

func TestParseSize(t *testing.T) {
	for text, want := range map[string]int64{
		"1kB": 1 << 10, "512MB": 512 << 20, "100GB": 100 << 30, "2 TB": 2 << 40, "0GB": 0,
		"": -1, "1": -1, "GB": -1, "-1GB": -1, "1.5GB": -1, "1gb": -1, "9999999TB": -1, "1 0GB": -1,
	} {
		got, ok := parseSize(text)
		if !ok {
			got = -1
		}
		if got != want {
			t.Errorf("%q: %d, want %d", text, got, want)
		}
	}
}
