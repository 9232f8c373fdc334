package fleet

import (
	"bytes"
	"fmt"
	"net/url"
	"path"
	"slices"
	"strings"
	"text/template"

	"go.yaml.in/yaml/v3"

	"github.com/walferry/walferry/internal/fail"
	"github.com/walferry/walferry/internal/include"
)

// Kubernetes says how Jobs are made.
type Kubernetes struct {
	Image string // empty: walferry
	Wave  int    // only this one; 0: all
}

// secretName is the Secret that has what the file names with ${file:…} and ${env:…}.
const secretName = "walferry-fleet"

// Kubernetes returns a manifest with a Job for each database, which does what `fleet run` would do for it, but for limits and waves. It has no
// secrets: what the file names comes from a Secret.
func (f *Fleet) Kubernetes(k Kubernetes) ([]byte, error) {
	if k.Wave != 0 {
		if _, err := f.wave(k.Wave); err != nil {
			return nil, err
		}
	}
	if k.Image == "" {
		k.Image = "walferry"
	}
	var out bytes.Buffer
	for _, d := range f.Databases {
		if k.Wave != 0 && d.Wave != k.Wave {
			continue
		}
		for _, side := range []string{"source", "target"} {
			if d.instance.written[side]("x") == "" {
				return nil, f.wrong(d.instance.Line, "the whole "+side+" of instance "+d.Instance+" is a secret, which names no database", "name only the password as a secret")
			}
		}
		config, err := d.written()
		if err != nil {
			return nil, err
		}
		j := job{Name: "walferry-" + strings.ReplaceAll(d.Name, "_", "-"), Image: k.Image, Wave: d.Wave, Secret: secretName}
		for _, m := range include.Place.FindAllStringSubmatch(string(config), -1) {
			if m[1] == "env" {
				j.Environment = true
			} else if !path.IsAbs(m[2]) {
				return nil, f.wrong(d.Line, "a Job finds no file by a relative path", "write ${file:/…} with the whole path, at which the Job has the Secret "+secretName)
			} else if dir := path.Dir(m[2]); !slices.Contains(j.Mounts, dir) {
				j.Mounts = append(j.Mounts, dir)
			}
		}
		var indented strings.Builder
		for line := range strings.Lines(string(config)) {
			indented.WriteString("    " + line)
		}
		j.Config = strings.TrimRight(indented.String(), "\n")
		if err := manifest.Execute(&out, j); err != nil {
			return nil, err
		}
	}
	return out.Bytes(), nil
}

// written is the configuration file of a migration alone.
func (d *Database) written() ([]byte, error) {
	all := map[string]any{"name": d.Name, "source": d.instance.written["source"](d.Source), "target": d.instance.written["target"](d.Target)}
	for key, value := range d.options.values {
		all[key] = value
	}
	text, err := yaml.Marshal(all)
	if err != nil {
		return nil, &fail.Error{Kind: fail.Run, Problem: "write the configuration of " + d.Name, Err: err}
	}
	return text, nil
}

// written returns a server as the file has it, for a database.
func written(n *yaml.Node) func(database string) string {
	if n.Kind == yaml.ScalarNode {
		return func(database string) string { return writtenDSN(n.Value, database) }
	}
	return func(database string) string {
		var parts []string
		for i := 0; i+1 < len(n.Content); i += 2 {
			if key, v := n.Content[i].Value, value(n.Content[i+1]).Value; include.Place.FindString(v) == v && v != "" {
				parts = append(parts, key+"="+v) // which is quoted when it is put there
			} else if key != "dbname" {
				parts = append(parts, key+"="+quoted(v))
			}
		}
		return strings.Join(append(parts, "dbname="+quoted(database)), " ")
	}
}

func quoted(text string) string {
	return "'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(text) + "'"
}

// writtenDSN puts a database into a connection string whose secrets are only named. Empty: it cannot, as all of it is a secret.
func writtenDSN(dsn, database string) string {
	var names []string
	masked := include.Place.ReplaceAllStringFunc(dsn, func(text string) string {
		names = append(names, text)
		return fmt.Sprintf("\x00%d\x00", len(names)-1)
	})
	scheme, rest, uri := strings.Cut(masked, "://")
	switch {
	case masked == "\x000\x00":
		return "" // all of it is a secret
	case uri:
		rest, query, asked := strings.Cut(rest, "?")
		server, _, _ := strings.Cut(rest, "/")
		masked = scheme + "://" + server + "/" + url.PathEscape(database)
		if asked {
			masked += "?" + query
		}
	default:
		masked += " dbname=" + quoted(database)
	}
	for i, name := range names {
		masked = strings.Replace(masked, fmt.Sprintf("\x00%d\x00", i), name, 1)
	}
	return masked
}

// job is what the manifest of a database is made of.
type job struct {
	Name, Image, Config, Secret string
	Wave                        int
	Mounts                      []string
	Environment                 bool
}

var manifest = template.Must(template.New("").Parse(`---
apiVersion: v1
kind: ConfigMap
metadata:
  name: {{.Name}}
  labels: {app: walferry, wave: "{{.Wave}}"}
data:
  walferry.yaml: |
{{.Config}}
---
apiVersion: batch/v1
kind: Job
metadata:
  name: {{.Name}}
  labels: {app: walferry, wave: "{{.Wave}}"}
spec:
  backoffLimit: 1000
  podFailurePolicy:
    rules:
      # Wrong options, a blocking finding, a condition that is not met, differences: a person has to look.
      - action: FailJob
        onExitCodes:
          containerName: walferry
          operator: In
          values: [2, 3, 4, 5]
      # Stopped by a signal, such as a node that is drained: the next pod resumes, and that counts for nothing.
      - action: Ignore
        onExitCodes:
          containerName: walferry
          operator: In
          values: [6]
      - action: Ignore
        onPodConditions:
          - type: DisruptionTarget
  template:
    metadata:
      labels: {app: walferry, wave: "{{.Wave}}"}
    spec:
      restartPolicy: Never
      terminationGracePeriodSeconds: 120
      containers:
        - name: walferry
          image: {{printf "%q" .Image}}
          args: [migrate, --config, /etc/walferry/walferry.yaml, --log-format, json]
{{- if .Environment}}
          envFrom:
            - secretRef: {name: {{.Secret}}}
{{- end}}
          resources:
            requests: {cpu: "1", memory: 512Mi}
          volumeMounts:
            - {name: config, mountPath: /etc/walferry, readOnly: true}
{{- range .Mounts}}
            - {name: secrets, mountPath: {{printf "%q" .}}, readOnly: true}
{{- end}}
      volumes:
        - name: config
          configMap: {name: {{.Name}}}
{{- if .Mounts}}
        - name: secrets
          secret: {secretName: {{.Secret}}, defaultMode: 0444}
{{- end}}
`))
