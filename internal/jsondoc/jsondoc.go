// Package jsondoc describes the JSON of Go types: every field with its type, and what its comment in the source says.
package jsondoc

import (
	"cmp"
	"encoding"
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"time"
)

// Field is a field as a reader of the JSON sees it.
type Field struct {
	Path string // such as switches[].steps[].ms; a key that varies is <key>
	Type string // of JSON; "or null" where it can be
	Says string // the comment; empty: it has none
}

// Comments are those of the fields of a module's types.
type Comments struct {
	root, module string
	read         map[string]map[string]string // package, then Type.Field
}

// From reads the comments of a module whose source is in the directory root.
func From(root, module string) *Comments {
	return &Comments{root: root, module: module, read: map[string]map[string]string{}}
}

// Fields lists the fields of a type, in the order in which they are written.
func (c *Comments) Fields(t reflect.Type) ([]Field, error) { return c.fields(t, "", 0) }

const deepest = 12 // which no type reaches that does not hold itself

// text reports whether a type writes itself; all of them write a string.
func text(t reflect.Type) bool {
	for _, i := range []reflect.Type{reflect.TypeFor[json.Marshaler](), reflect.TypeFor[encoding.TextMarshaler]()} {
		if t.Implements(i) || reflect.PointerTo(t).Implements(i) {
			return t != reflect.TypeFor[json.RawMessage]()
		}
	}
	return false
}

func (c *Comments) fields(t reflect.Type, path string, depth int) (all []Field, err error) {
	if depth > deepest {
		return nil, fmt.Errorf("describe %s: it does not end", path)
	}
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch {
	case text(t):
		return nil, nil
	case t.Kind() == reflect.Slice || t.Kind() == reflect.Array:
		return c.fields(t.Elem(), path+"[]", depth+1)
	case t.Kind() == reflect.Map:
		return c.fields(t.Elem(), path+".<key>", depth+1)
	case t.Kind() != reflect.Struct:
		return nil, nil
	}
	comments, err := c.of(t.PkgPath())
	if err != nil {
		return nil, err
	}
	for i := range t.NumField() {
		f := t.Field(i)
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		if name == "-" || !f.IsExported() {
			continue
		}
		if f.Anonymous && name == "" {
			inner, err := c.fields(f.Type, path, depth+1)
			if err != nil {
				return nil, err
			}
			all = append(all, inner...)
			continue
		}
		at := cmp.Or(name, f.Name)
		if path != "" {
			at = path + "." + at
		}
		one := Field{Path: at, Type: kind(f.Type), Says: comments[t.Name()+"."+f.Name]}
		if one.Says == "" {
			if one.Says, err = c.about(f.Type); err != nil {
				return nil, err
			}
		}
		if strings.Contains(options, "omitempty") || strings.Contains(options, "omitzero") {
			one.Type = strings.TrimSuffix(one.Type, " or null") + ", or left out"
		}
		all = append(all, one)
		inner, err := c.fields(f.Type, at, depth+1)
		if err != nil {
			return nil, err
		}
		all = append(all, inner...)
	}
	return all, nil
}

// about returns what is said of a type of the module, or of what it is a list of.
func (c *Comments) about(t reflect.Type) (string, error) {
	for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice {
		t = t.Elem()
	}
	comments, err := c.of(t.PkgPath())
	return comments[t.Name()], err
}

// kind is the type of JSON for a type of Go.
func kind(t reflect.Type) string {
	switch {
	case t.Kind() == reflect.Pointer:
		return kind(t.Elem()) + " or null"
	case t == reflect.TypeFor[time.Time]():
		return "time"
	case t == reflect.TypeFor[json.RawMessage]():
		return "any"
	case text(t):
		return "string"
	}
	switch t.Kind() {
	case reflect.Bool:
		return "boolean"
	case reflect.String:
		return "string"
	case reflect.Slice, reflect.Array:
		return "list of " + kind(t.Elem())
	case reflect.Map, reflect.Struct:
		return "object"
	case reflect.Interface:
		return "any"
	}
	return "number"
}

// of reads the comments of a package of the module; those of others are none.
func (c *Comments) of(pkg string) (map[string]string, error) {
	if known := c.read[pkg]; known != nil {
		return known, nil
	}
	found := map[string]string{}
	c.read[pkg] = found
	dir, ours := strings.CutPrefix(pkg, c.module)
	if !ours {
		return found, nil
	}
	err := filepath.WalkDir(filepath.Join(c.root, dir), func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && path != filepath.Join(c.root, dir):
			return filepath.SkipDir
		case d.IsDir() || filepath.Ext(path) != ".go" || strings.HasSuffix(path, "_test.go"):
			return nil
		}
		files := token.NewFileSet()
		file, err := parser.ParseFile(files, path, nil, parser.ParseComments)
		if err != nil {
			return err
		}
		ast.Inspect(file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.GenDecl:
				if spec, ok := n.Specs[0].(*ast.TypeSpec); ok && len(n.Specs) == 1 {
					found[spec.Name.Name] = plain(n.Doc)
				}
			case *ast.TypeSpec:
				if s, ok := n.Type.(*ast.StructType); ok {
					add(found, n.Name.Name, s, files)
				}
			}
			return true
		})
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the comments of %s: %w", pkg, err)
	}
	return found, nil
}

// add adds the comments of a struct: one above fields is of each of them, up to an empty line or the next comment.
func add(found map[string]string, name string, s *ast.StructType, files *token.FileSet) {
	var above string
	last := 0
	for _, f := range s.Fields.List {
		line := files.Position(f.Pos()).Line
		text := plain(f.Comment)
		if f.Doc != nil {
			above, text = plain(f.Doc), plain(f.Doc)
		} else if line != last+1 || text != "" {
			above = ""
		}
		last = files.Position(f.End()).Line
		for _, n := range f.Names {
			found[name+"."+n.Name] = cmp.Or(text, above)
		}
	}
}

// reference is a link in a comment; it leads nowhere outside of Go's documentation.
var reference = regexp.MustCompile(`\[(\*?[A-Za-z.]+)\]`)

// plain returns the text of a comment on one line.
func plain(c *ast.CommentGroup) string {
	return reference.ReplaceAllString(strings.Join(strings.Fields(c.Text()), " "), "$1")
}
