package watch

import (
	"encoding/binary"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

// raw is a notice as the kernel writes it.
func raw(n notice) []byte {
	padded := make([]byte, (len(n.name)+16)/16*16)
	copy(padded, n.name)
	if n.name == "" {
		padded = nil
	}
	data := binary.NativeEndian.AppendUint32(nil, uint32(n.wd))
	data = binary.NativeEndian.AppendUint32(data, n.mask)
	data = binary.NativeEndian.AppendUint32(data, n.cookie)
	data = binary.NativeEndian.AppendUint32(data, uint32(len(padded)))
	return append(data, padded...)
}

func FuzzNotices(f *testing.F) {
	f.Add([]byte(nil))
	f.Add(raw(notice{wd: 1, mask: unix.IN_CREATE, name: "a"}))
	f.Add(raw(notice{wd: 1, mask: unix.IN_IGNORED})[:15])
	f.Add(append(raw(notice{wd: -1, mask: unix.IN_Q_OVERFLOW}), 0xff))
	f.Add(binary.NativeEndian.AppendUint32(make([]byte, 12), 0xffffffff))
	f.Fuzz(func(t *testing.T, data []byte) {
		for rest := data; ; {
			next, after, ok := parse(rest)
			if !ok {
				return
			}
			if len(after) >= len(rest) {
				t.Fatalf("%x: no progress", data)
			}
			again, _, ok := parse(raw(next))
			if !ok || again != next {
				t.Fatalf("%+v comes back as %+v", next, again)
			}
			rest = after
		}
	})
}

// Directories come, move and go in any order; notices of them may be late, missing or double. The tree stays one.
func FuzzTree(f *testing.F) {
	f.Add([]byte{0, 0, 0, 1, 1, 0, 2, 0, 0, 3, 1, 1})
	f.Add([]byte{0, 0, 0, 1, 1, 1, 2, 1, 0, 1, 2, 1, 3, 2, 0, 4, 0, 0})
	f.Add([]byte{0, 0, 0, 0, 1, 1, 0, 2, 2, 1, 0, 0, 2, 2, 0, 5, 1, 1, 3, 0, 2})
	f.Fuzz(func(t *testing.T, steps []byte) {
		if len(steps) > 60 {
			return
		}
		names := []string{"a", "b", "c"}
		w := &Watcher{root: "/nowhere", resolved: "/nowhere", options: Options{Recursive: true}, moving: map[uint32]*dir{},
			ready: make(chan struct{}, 1), done: make(chan struct{}), tree: newTree(1)}
		queue, err := openQueue()
		if err != nil {
			t.Skip(err)
		}
		w.queue, w.file = queue, queue.file
		defer queue.file.Close()
		next := int32(2)
		for ; len(steps) >= 3 && w.queue != nil; steps = steps[3:] {
			at := int32(steps[1])%max(next-1, 1) + 1
			name := names[int(steps[2])%len(names)]
			switch steps[0] % 6 {
			case 0: // what add does when the kernel gives a number
				if d := w.tree.byWD[at]; d != nil {
					w.put(&dir{wd: next}, d, name)
					next++
				}
			case 1:
				w.handle(notice{wd: at, mask: unix.IN_MOVED_FROM | unix.IN_ISDIR, cookie: uint32(steps[2] % 4), name: name})
			case 2:
				w.handle(notice{wd: at, mask: unix.IN_MOVED_TO | unix.IN_ISDIR, cookie: uint32(steps[1] % 4), name: name})
			case 3:
				w.handle(notice{wd: at, mask: unix.IN_IGNORED})
			case 4:
				w.handlePending()
			case 5:
				w.handle(notice{wd: at, mask: unix.IN_MODIFY, name: name})
			}
			check(t, w)
		}
	})
}

func check(t *testing.T, w *Watcher) {
	t.Helper()
	for wd, d := range w.tree.byWD {
		if d.wd != wd {
			t.Fatalf("%d is known as %d", d.wd, wd)
		}
		if d.parent != nil && d.parent.children[d.name] != d {
			t.Fatalf("%d is not its parent's child", wd)
		}
		seen := map[*dir]bool{}
		for up := d; up != nil; up = up.parent {
			if seen[up] {
				t.Fatalf("%d is its own ancestor", wd)
			}
			seen[up] = true
		}
		for name, child := range d.children {
			if child.parent != d || child.name != name {
				t.Fatalf("the child %s of %d belongs to another", name, wd)
			}
		}
	}
	for _, event := range w.events {
		if event.GetName() == "" || slices.Contains([]byte(event.GetName()), 0) {
			t.Fatalf("event %v", event)
		}
	}
}
