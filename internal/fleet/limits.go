package fleet

import "go.yaml.in/yaml/v3"

// Limits are how many migrations may do something at a time. A number of 0 is none.
type Limits struct {
	All       Bounds
	PerSource Bounds // of every server that slots are on
	PerTarget Bounds
}

// Bounds are limits of one place.
type Bounds struct {
	// Copying is how many may copy and build indexes.
	Copying int
	// Following is how many may have a slot. Each reads all WAL of its server, whatever it is for, from the first moment of the copy on.
	Following int
}

// usual are the limits of a file that has none.
var usual = Limits{All: Bounds{Copying: 8}, PerSource: Bounds{Copying: 1}, PerTarget: Bounds{Copying: 2}}

func (r *reader) limits(n *yaml.Node) error {
	l := &r.file.Limits
	return r.each(n, "limits", []string{"copying", "following", "per-source", "per-target"}, func(key, n *yaml.Node) error {
		switch key.Value {
		case "per-source":
			return r.bounds(n, &l.PerSource, "limits: per-source", "copying", "following")
		case "per-target":
			return r.bounds(n, &l.PerTarget, "limits: per-target", "copying", "following")
		}
		return r.bound(key, n, &l.All, "limits")
	})
}

func (r *reader) bounds(n *yaml.Node, b *Bounds, what string, keys ...string) error {
	return r.each(n, what, keys, func(key, n *yaml.Node) error { return r.bound(key, n, b, what) })
}

// bound reads a number, or none.
func (r *reader) bound(key, n *yaml.Node, b *Bounds, what string) (err error) {
	number := 0
	if n.Value != "none" {
		if number, err = r.number(n, what+": "+key.Value+", which is not none either,", 1); err != nil {
			return err
		}
	}
	if key.Value == "copying" {
		b.Copying = number
	} else {
		b.Following = number
	}
	return nil
}
