package fleet

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/walferry/walferry/internal/include"
	"github.com/walferry/walferry/internal/session"
)

// A Job gets what the file says, and no secret: those are only named.
func TestKubernetes(t *testing.T) {
	const password = `s'ecr et@/`
	t.Setenv("FLEET_PASSWORD", password)
	f, err := Read(write(t, strings.Replace(good, "  old2:", "    wave: 1\n  old2:", 1)), some)
	if err != nil {
		t.Fatal(err)
	}
	from, to := &Server{ID: "1", names: []string{"app", "billing"}}, &Server{ID: "2", names: []string{"app", "billing2"}}
	fleet := &Fleet{File: f, servers: map[string]*Server{}}
	if err := fleet.add(f.Instances[0], from, to, some); err != nil {
		t.Fatal(err)
	}
	text, err := fleet.Kubernetes(Kubernetes{Image: "registry.example.com/walferry:1", Wave: 2})
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(text, []byte("ecr et")) || bytes.Contains(text, []byte("ecr%20et")) {
		t.Errorf("it has the password:\n%s", text)
	}
	var documents []map[string]any
	for d := yaml.NewDecoder(bytes.NewReader(text)); ; {
		var one map[string]any
		if err := d.Decode(&one); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatalf("%v in:\n%s", err, text)
		}
		documents = append(documents, one)
	}
	if len(documents) != 2 || documents[1]["kind"] != "Job" || !strings.Contains(string(text), "secretRef: {name: walferry-fleet}") || !strings.Contains(string(text), "name: walferry-money") {
		t.Fatalf("%d documents:\n%s", len(documents), text)
	}
	var config map[string]any
	if err := yaml.Unmarshal([]byte(documents[0]["data"].(map[string]any)["walferry.yaml"].(string)), &config); err != nil {
		t.Fatal(err)
	}
	if config["name"] != "money" || config["jobs"] != 8 || config["verify"] != true {
		t.Errorf("%v", config)
	}
	for side, database := range map[string]string{"source": "billing", "target": "billing2"} {
		dsn, err := include.Text("/", config[side].(string), include.DSN)
		if err != nil {
			t.Fatal(err)
		}
		c, err := session.Parse(dsn)
		if err != nil {
			t.Fatal(err)
		}
		if c.Password != password || c.Database != database || c.User != "mover" {
			t.Errorf("%s: %s leads to database %s of %s, password %v", side, config[side], c.Database, c.User, c.Password == password)
		}
	}
}

// A database is put into a connection string, whatever secrets it names.
func TestWrittenDSN(t *testing.T) {
	t.Parallel()
	for dsn, want := range map[string]string{
		"postgres://u:${file:/a/b?c}@h:1/x?sslmode=require": "postgres://u:${file:/a/b?c}@h:1/a%2Fb?sslmode=require",
		"postgres://h":            "postgres://h/a%2Fb",
		"host=h user=${env:USER}": "host=h user=${env:USER} dbname='a/b'",
		"${file:/all}":            "",
	} {
		if got := writtenDSN(dsn, "a/b"); got != want {
			t.Errorf("%s: got %s, want %s", dsn, got, want)
		}
	}
}
