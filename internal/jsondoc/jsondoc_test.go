package jsondoc

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"
)

type inner struct {
	// Deep is deep.
	Deep *int64 `json:"deep"`
}

type Base struct {
	Early bool `json:"early"` // comes first
}

type outer struct {
	Base
	// Name says
	// two things of [inner].
	Name   string           `json:"name"`
	List   []inner          `json:"list"` // of inner
	ByName map[string]inner `json:"by_name"`
	At     *time.Time       `json:"at,omitempty"`
	Hidden int              `json:"-"`
	own    int
	Texts  []string `json:"texts"`
}

func TestFields(t *testing.T) {
	_ = outer{own: 1}
	c := From("../..", "github.com/walferry/walferry")
	got, err := c.Fields(reflect.TypeFor[outer]())
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, f := range got {
		lines = append(lines, fmt.Sprintf("%s: %s", f.Path, f.Type))
	}
	const want = `early: boolean
name: string
list: list of object
list[].deep: number or null
by_name: object
by_name.<key>.deep: number or null
at: time, or left out
texts: list of string`
	if text := strings.Join(lines, "\n"); text != want {
		t.Errorf("got\n%s\nwant\n%s", text, want)
	}
	own, err := c.Fields(reflect.TypeFor[Field]())
	if err != nil || len(own) != 3 || own[0].Says != "such as switches[].steps[].ms; a key that varies is <key>" {
		t.Errorf("the comments of Field: %+v, %v", own, err)
	}
	type endless struct{ Next []endless }
	if _, err := c.Fields(reflect.TypeFor[endless]()); err == nil {
		t.Error("a type that holds itself was described")
	}
}
