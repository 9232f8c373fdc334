package main

import (
	"bytes"
	"errors"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/urfave/cli/v2"
	"go.yaml.in/yaml/v3"
)

// known fails the test if a command line is not one of walferry's.
func known(t *testing.T, where string, args []string) {
	t.Helper()
	app := newApp(&ui{})
	c := app.Command(args[0])
	if c == nil {
		t.Fatalf("%s: there is no command %s", where, args[0])
	}
	var names []string
	for _, f := range append(slices.Clone(app.Flags), c.Flags...) {
		names = append(names, f.Names()...)
	}
	for _, arg := range args[1:] {
		if name, ok := strings.CutPrefix(arg, "--"); ok && !slices.Contains(names, name) {
			t.Errorf("%s: %s has no option %s", where, args[0], arg)
		}
	}
}

// A supervisor that does as the examples say restarts what may be restarted, and gives no option that does not exist.
func TestRunning_Unit(t *testing.T) {
	t.Parallel()
	const name = "../../docs/running/walferry@.service"
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	values := map[string]string{}
	for line := range strings.Lines(string(text)) {
		if key, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok && !strings.HasPrefix(line, "#") {
			values[key] = value
		}
	}
	known(t, name, strings.Fields(values["ExecStart"])[1:])
	ends := []int{exitUsage, exitBlocked, exitUnchanged, exitDifference}
	if got := numbers(t, values["RestartPreventExitStatus"]); !slices.Equal(got, ends) {
		t.Errorf("not restarted after %v, want %v", got, ends)
	}
	if got := numbers(t, values["SuccessExitStatus"]); !slices.Equal(got, []int{exitStopped}) || values["Type"] != "notify" {
		t.Errorf("%v", values)
	}
}

func numbers(t *testing.T, text string) (all []int) {
	t.Helper()
	for _, word := range strings.Fields(text) {
		n, err := strconv.Atoi(word)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, n)
	}
	return all
}

func TestRunning_Kubernetes(t *testing.T) {
	t.Parallel()
	type container struct {
		Name string   `yaml:"name"`
		Args []string `yaml:"args"`
	}
	type document struct {
		Kind string            `yaml:"kind"`
		Data map[string]string `yaml:"data"`
		Spec struct {
			PodFailurePolicy struct {
				Rules []struct {
					Action      string `yaml:"action"`
					OnExitCodes struct {
						ContainerName string `yaml:"containerName"`
						Values        []int  `yaml:"values"`
					} `yaml:"onExitCodes"`
				} `yaml:"rules"`
			} `yaml:"podFailurePolicy"`
			Template struct {
				Spec struct {
					Containers []container `yaml:"containers"`
				} `yaml:"spec"`
			} `yaml:"template"`
		} `yaml:"spec"`
	}
	kinds := map[string]int{}
	for _, name := range []string{"job.yaml", "deployment.yaml"} {
		text, err := os.ReadFile("../../docs/running/" + name)
		if err != nil {
			t.Fatal(err)
		}
		for in := yaml.NewDecoder(bytes.NewReader(text)); ; {
			var d document
			if err := in.Decode(&d); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			kinds[d.Kind]++
			for file, text := range d.Data {
				var options map[string]any
				if err := yaml.Unmarshal([]byte(text), &options); err != nil {
					t.Fatalf("%s: %v", file, err)
				}
				for key := range options {
					if !slices.Contains(fileKeys, key) {
						t.Errorf("%s: %s has no key %s", name, file, key)
					}
				}
			}
			for _, c := range d.Spec.Template.Spec.Containers {
				known(t, name, c.Args)
			}
			if d.Kind != "Job" {
				continue
			}
			for _, r := range d.Spec.PodFailurePolicy.Rules {
				switch c := r.OnExitCodes; {
				case r.Action == "FailJob":
					if !slices.Equal(c.Values, []int{exitUsage, exitBlocked, exitUnchanged, exitDifference}) || c.ContainerName != "walferry" {
						t.Errorf("%s: %+v", name, r)
					}
				case c.ContainerName != "" && !slices.Equal(c.Values, []int{exitStopped}):
					t.Errorf("%s: %+v", name, r)
				}
			}
		}
	}
	if kinds["Job"] != 1 || kinds["Deployment"] != 1 || kinds["ConfigMap"] != 1 {
		t.Errorf("the manifests are %v", kinds)
	}
}

// The manual page has every option of every command.
func TestMan(t *testing.T) {
	t.Parallel()
	page, err := newApp(&ui{}).ToManWithSection(1)
	if err != nil {
		t.Fatal(err)
	}
	page = strings.ReplaceAll(page, `\`, "")
	for _, c := range newApp(&ui{}).Commands {
		if c.Hidden {
			continue
		}
		for _, f := range c.Flags {
			if v, ok := f.(cli.VisibleFlag); ok && v.IsVisible() && !strings.Contains(page, "--"+f.Names()[0]) {
				t.Errorf("%s: the manual lacks --%s", c.Name, f.Names()[0])
			}
		}
	}
}
