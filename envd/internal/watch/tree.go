package watch

import "strings"

// dir is a watched directory. Its place is its parent and its name, so that a rename of a directory is one change
// for everything below it.
type dir struct {
	wd       int32
	parent   *dir // nil for the root, and for what was moved away
	name     string
	children map[string]*dir // the watched ones
}

// tree is all watched directories of one watcher.
type tree struct {
	root *dir
	byWD map[int32]*dir
}

func newTree(wd int32) *tree {
	root := &dir{wd: wd}
	return &tree{root: root, byWD: map[int32]*dir{wd: root}}
}

// path of an entry of d relative to the root; "." is the root. ok is false for what is not below the root any more.
func (t *tree) path(d *dir, entry string) (relative string, ok bool) {
	elements := []string{entry}
	for ; d != t.root; d = d.parent {
		if d == nil {
			return "", false
		}
		elements = append(elements, d.name)
	}
	var b strings.Builder
	for i := len(elements) - 1; i >= 0; i-- {
		if elements[i] == "" {
			continue
		}
		if b.Len() > 0 {
			b.WriteByte('/')
		}
		b.WriteString(elements[i])
	}
	if b.Len() == 0 {
		return ".", true
	}
	return b.String(), true
}

// isBelow tells whether d is other or below it.
func (d *dir) isBelow(other *dir) bool {
	for ; d != nil; d = d.parent {
		if d == other {
			return true
		}
	}
	return false
}

// put makes d the child of parent under name, in the place of whatever had the name.
func (t *tree) put(d, parent *dir, name string) {
	if old := parent.children[name]; old != nil && old != d {
		old.parent = nil
	}
	if parent.children == nil {
		parent.children = map[string]*dir{}
	}
	d.parent, d.name = parent, name
	parent.children[name] = d
	t.byWD[d.wd] = d
}

// detach takes the child of that name out of its parent; nil when there is none.
func (t *tree) detach(parent *dir, name string) *dir {
	d := parent.children[name]
	if d != nil {
		delete(parent.children, name)
		d.parent = nil
	}
	return d
}

// remove forgets d and all below it, and gives their numbers.
func (t *tree) remove(d *dir) (wds []int32) {
	if d.parent != nil {
		t.detach(d.parent, d.name)
	}
	for _, child := range d.children {
		child.parent = nil
		wds = append(wds, t.remove(child)...)
	}
	d.children = nil
	delete(t.byWD, d.wd)
	return append(wds, d.wd)
}
