package watch

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	pb "github.com/wrenn-dev/wrenn/envd/internal/pb/filesystem"
)

// found is an entry that was in a directory already when it was entered.
type found struct {
	name    string
	isDir   bool
	written bool // a file that is not empty
}

// enter watches a new directory and announces what is in it.
func (w *Watcher) enter(parent *dir, name string) {
	entered := w.add(parent, name)
	if entered == nil {
		return
	}
	var entries []found
	w.list(entered, func(entry fs.DirEntry) bool {
		one := found{name: entry.Name(), isDir: entry.IsDir()}
		if info, err := entry.Info(); err == nil {
			one.written = info.Mode().IsRegular() && info.Size() > 0
		}
		entries = append(entries, one)
		return len(entries) <= maxEntries
	})
	if len(entries) > maxEntries {
		w.fail(ErrLost)
		return
	}
	slices.SortFunc(entries, func(a, b found) int { return cmp.Compare(a.name, b.name) })
	told := w.toldSince(entered)
	for _, entry := range entries {
		if told[entry.name]&(unix.IN_CREATE|unix.IN_MOVED_TO) != 0 {
			continue
		}
		w.push(entered, entry.name, pb.EventType_EVENT_TYPE_CREATE)
		if entry.written && told[entry.name]&unix.IN_MODIFY == 0 {
			w.push(entered, entry.name, pb.EventType_EVENT_TYPE_WRITE)
		}
		if entry.isDir && w.queue != nil {
			w.enter(entered, entry.name)
		}
	}
}

// toldSince gives what the kernel has told of the entries of d between the beginning of its watch and now. All of it is
// pending: what has to be announced comes before it.
func (w *Watcher) toldSince(d *dir) map[string]uint32 {
	told := map[string]uint32{}
	begin := len(w.pending)
	for left := w.waiting(); left > 0; {
		read := w.fill()
		if len(read) == 0 {
			break
		}
		left -= len(read)
	}
	if w.queue == nil {
		return told
	}
	for rest := w.pending[begin:]; ; {
		var next notice
		var ok bool
		if next, rest, ok = parse(rest); !ok {
			return told
		}
		if next.wd == d.wd {
			told[next.name] |= next.mask
		}
	}
}

// descend watches everything below a directory, without a word.
func (w *Watcher) descend(ctx context.Context, from *dir) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	var names []string
	w.list(from, func(entry fs.DirEntry) bool {
		if entry.IsDir() {
			names = append(names, entry.Name())
		}
		return len(names) <= maxDirs
	})
	for _, name := range names {
		next := w.add(from, name)
		if w.failed != nil {
			return w.failed
		}
		if next == nil {
			continue
		}
		if err := w.descend(ctx, next); err != nil {
			return err
		}
	}
	return nil
}

// add watches one directory of the tree; nil when there is nothing to do: it has vanished, is watched in another
// place (a bind mount), or is not to be watched.
func (w *Watcher) add(parent *dir, name string) *dir {
	path, ok := w.path(parent, name)
	if !ok || !w.options.NetworkMounts && onNetwork(path) {
		return nil
	}
	wd, err := w.queue.add(path)
	if errors.Is(err, ErrLimit) {
		w.fail(err)
		return nil
	} else if err != nil {
		return nil
	}
	if known := w.tree.byWD[wd]; known != nil {
		for cookie, moved := range w.moving { // found in its new place before that was told
			if moved == known {
				delete(w.moving, cookie)
				w.put(known, parent, name)
			}
		}
		return nil
	}
	if len(w.tree.byWD) >= maxDirs {
		w.fail(fmt.Errorf("%w: %s has more than %d directories", ErrLimit, w.root, maxDirs))
		return nil
	}
	added := &dir{wd: wd}
	w.put(added, parent, name)
	return added
}

func (w *Watcher) put(d, parent *dir, name string) {
	if parent.isBelow(d) { // no kernel says so; to follow it would have no end
		w.leave(d)
		return
	}
	if old := w.tree.detach(parent, name); old != nil { // a rename put d in its place
		w.leave(old)
	}
	w.tree.put(d, parent, name)
}

// leave ends the watch of a directory and of those below it.
func (w *Watcher) leave(d *dir) {
	maps.DeleteFunc(w.moving, func(_ uint32, moved *dir) bool { return moved == d })
	for _, wd := range w.tree.remove(d) {
		w.queue.forget(wd)
	}
}

// list visits the entries of a directory until visit wants no more. One that cannot be read is empty.
func (w *Watcher) list(d *dir, visit func(fs.DirEntry) bool) {
	path, ok := w.path(d, "")
	if !ok {
		return
	}
	file, err := os.OpenFile(path, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return
	}
	defer file.Close()
	for {
		entries, err := file.ReadDir(256) // not all at once: there may be millions
		for _, entry := range entries {
			if !visit(entry) {
				return
			}
		}
		if err != nil && !errors.Is(err, io.EOF) || len(entries) == 0 {
			return
		}
	}
}

// path of an entry in the file system.
func (w *Watcher) path(d *dir, entry string) (string, bool) {
	if w.queue == nil {
		return "", false
	}
	relative, ok := w.tree.path(d, entry)
	if !ok {
		return "", false
	}
	return filepath.Join(w.resolved, relative), true
}
