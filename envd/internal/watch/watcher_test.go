package watch

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	pb "github.com/wrenn-dev/wrenn/envd/internal/pb/filesystem"
)

// patience bounds a test that hangs; none waits for it when all is well.
const patience = 20 * time.Second

type fixture struct {
	*Watcher
	t   *testing.T
	dir string
}

func open(t *testing.T, dir string, options Options) *fixture {
	t.Helper()
	w, err := Open(context.Background(), dir, options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Close)
	return &fixture{w, t, dir}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (f *fixture) path(name string) string { return filepath.Join(f.dir, name) }

func (f *fixture) write(name, content string) {
	f.t.Helper()
	must(f.t, os.WriteFile(f.path(name), []byte(content), 0o644))
}

func (f *fixture) mkdir(name string) {
	f.t.Helper()
	must(f.t, os.MkdirAll(f.path(name), 0o755))
}

func (f *fixture) rename(from, to string) {
	f.t.Helper()
	must(f.t, os.Rename(f.path(from), f.path(to)))
}

// want takes once, without waiting: what has happened must be told.
func (f *fixture) want(lines ...string) {
	f.t.Helper()
	events, err := f.Take()
	must(f.t, err)
	if got := texts(events); !slices.Equal(got, lines) {
		f.t.Errorf("got  %s\nwant %s", strings.Join(got, ", "), strings.Join(lines, ", "))
	}
}

func texts(events []*pb.FilesystemEvent) (lines []string) {
	for _, event := range events {
		kind := strings.TrimPrefix(event.GetType().String(), "EVENT_TYPE_")
		lines = append(lines, kind+" "+event.GetName())
	}
	return lines
}

func TestEvents(t *testing.T) {
	f := open(t, t.TempDir(), Options{})
	f.write("a", "x")
	f.want("CREATE a", "WRITE a")
	must(t, os.Chmod(f.path("a"), 0o600))
	f.want("CHMOD a")
	f.rename("a", "b")
	f.want("RENAME a", "CREATE b")
	must(t, os.Remove(f.path("b")))
	f.want("REMOVE b")
	f.mkdir("d")
	f.write("d/inside", "x")
	f.want("CREATE d")
	for i := range 100 { // read or not meanwhile by the watcher
		must(t, os.Chmod(f.path("d"), os.FileMode(0o700+i%8)))
	}
	f.want("CHMOD d")
	must(t, os.Symlink("nowhere", f.path("link")))
	f.want("CREATE link")
	must(t, os.Chmod(f.dir, 0o700))
	f.want("CHMOD .")
	f.want()
}

func TestOpenFails(t *testing.T) {
	dir := t.TempDir()
	must(t, os.WriteFile(dir+"/file", nil, 0o644))
	for path, want := range map[string]error{dir + "/nope": fs.ErrNotExist, dir + "/file": unix.ENOTDIR} {
		if _, err := Open(context.Background(), path, Options{}); !errors.Is(err, want) {
			t.Errorf("%s: got %v, want %v", path, err, want)
		}
	}
	must(t, os.MkdirAll(dir+"/a/b", 0o755))
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := Open(ctx, dir, Options{Recursive: true}); !errors.Is(err, context.Canceled) {
		t.Errorf("with an ended context: %v", err)
	}
}

func TestWatchedLink(t *testing.T) {
	dir := t.TempDir()
	must(t, os.Mkdir(dir+"/real", 0o755))
	must(t, os.Symlink("real", dir+"/link"))
	var described []string
	f := open(t, dir+"/link", Options{Describe: func(path string) *pb.EntryInfo {
		described = append(described, path)
		return &pb.EntryInfo{Path: path}
	}})
	f.write("a", "")
	must(t, os.Remove(f.path("a")))
	events, err := f.Take()
	must(t, err)
	if len(events) != 2 || events[0].GetEntry().GetPath() != dir+"/link/a" || events[1].Entry != nil {
		t.Errorf("got %v", events)
	}
	if !slices.Equal(described, []string{dir + "/link/a"}) {
		t.Errorf("described %v", described)
	}
}

func TestRecursive(t *testing.T) {
	dir := t.TempDir()
	must(t, os.MkdirAll(dir+"/old/deep", 0o755))
	f := open(t, dir, Options{Recursive: true})
	f.write("old/deep/a", "x")
	f.want("CREATE old/deep/a", "WRITE old/deep/a")
	f.mkdir("new")
	f.write("new/file", "x")
	events, err := f.Take()
	must(t, err)
	// Whichever way it was found, each is told once and in this order.
	if got := texts(events); !slices.Equal(got, []string{"CREATE new", "CREATE new/file", "WRITE new/file"}) {
		t.Errorf("got %v", got)
	}
	must(t, os.Chmod(f.path("new"), 0o700))
	f.want("CHMOD new")
	must(t, os.RemoveAll(f.path("old")))
	f.want("REMOVE old/deep/a", "REMOVE old/deep", "REMOVE old")
	if got := f.directories(); !slices.Equal(got, []string{".", "new"}) {
		t.Errorf("watched: %v", got)
	}
}

// What was made before its directory could be watched is told as well, each thing once.
func TestRecursiveMissesNothing(t *testing.T) {
	f := open(t, t.TempDir(), Options{Recursive: true})
	for i := range 200 {
		root := fmt.Sprintf("%03d", i)
		f.mkdir(root + "/a/b/c")
		f.write(root+"/a/b/c/file", "x")
		f.write(root+"/a/empty", "")
	}
	events, err := f.Take()
	must(t, err)
	created := map[string]int{}
	for _, event := range events {
		if event.GetType() == pb.EventType_EVENT_TYPE_CREATE {
			created[event.GetName()]++
		}
	}
	for i := range 200 {
		for _, name := range []string{"", "/a", "/a/b", "/a/b/c", "/a/b/c/file", "/a/empty"} {
			if name = fmt.Sprintf("%03d", i) + name; created[name] != 1 {
				t.Errorf("%s was created %d times", name, created[name])
			}
		}
	}
	if len(created) != 1200 {
		t.Errorf("%d names", len(created))
	}
}

func TestRenamedDirectories(t *testing.T) {
	outside := t.TempDir()
	dir := t.TempDir()
	must(t, os.MkdirAll(dir+"/a/b", 0o755))
	f := open(t, dir, Options{Recursive: true})
	f.rename("a", "z")
	f.write("z/b/file", "x")
	f.want("RENAME a", "CREATE z", "CREATE z/b/file", "WRITE z/b/file")
	must(t, os.Rename(f.path("z/b"), outside+"/b"))
	must(t, os.WriteFile(outside+"/b/unseen", nil, 0o644))
	f.want("RENAME z/b")
	if got := f.directories(); !slices.Equal(got, []string{".", "z"}) {
		t.Errorf("watched: %v", got)
	}
	must(t, os.Rename(outside+"/b", f.path("back")))
	f.want("CREATE back", "CREATE back/file", "WRITE back/file", "CREATE back/unseen")
	must(t, os.Chmod(f.path("back/file"), 0o600))
	f.want("CHMOD back/file")
	// over an empty directory
	f.mkdir("empty")
	must(t, unix.Rename(f.path("back"), f.path("empty"))) // os.Rename refuses to
	f.write("empty/more", "")
	f.want("CREATE empty", "RENAME back", "CREATE empty", "CREATE empty/more")
	if got := f.directories(); !slices.Equal(got, []string{".", "empty", "z"}) {
		t.Errorf("watched: %v", got)
	}
}

func TestLinksAreNotFollowed(t *testing.T) {
	outside, dir := t.TempDir(), t.TempDir()
	must(t, os.Symlink(outside, dir+"/old"))
	f := open(t, dir, Options{Recursive: true})
	must(t, os.Symlink(outside, dir+"/new"))
	must(t, os.WriteFile(outside+"/unseen", nil, 0o644))
	f.want("CREATE new")
}

func TestRootGoes(t *testing.T) {
	dir := t.TempDir() + "/root"
	must(t, os.Mkdir(dir, 0o755))
	removed := open(t, dir, Options{Recursive: true})
	must(t, os.Remove(dir))
	removed.want("REMOVE .")
	removed.want()
	must(t, os.Mkdir(dir, 0o755))
	moved := open(t, dir, Options{Recursive: true})
	must(t, os.Rename(dir, dir+"-moved"))
	moved.want("RENAME .")
	must(t, os.WriteFile(dir+"-moved/a", nil, 0o644))
	moved.want()
	removed.want()
}

func TestReadyTellsOfEvents(t *testing.T) {
	f := open(t, t.TempDir(), Options{})
	f.write("a", "")
	select {
	case <-f.Ready():
	case <-time.After(patience):
		t.Fatal("never ready")
	}
	f.want("CREATE a")
}

// fillUp makes more events than may wait.
func (f *fixture) fillUp() {
	f.t.Helper()
	long := strings.Repeat("n", 200)
	for i := range maxBytes/(eventBytes+200) + 100 {
		f.write(fmt.Sprintf("%s%d", long, i), "")
	}
}

func TestBehindIsTold(t *testing.T) {
	f := open(t, t.TempDir(), Options{})
	f.fillUp()
	events, err := f.Take()
	if !errors.Is(err, ErrLost) {
		t.Fatalf("got %v", err)
	}
	if len(events) < 1000 || f.bytes != 0 {
		t.Errorf("%d events, %d bytes", len(events), f.bytes)
	}
	if _, err := f.Take(); !errors.Is(err, ErrLost) {
		t.Errorf("the second time: %v", err)
	}
	<-f.done // it costs nothing any more
}

func TestKernelOverflowIsTold(t *testing.T) {
	f := open(t, t.TempDir(), Options{})
	f.mu.Lock()
	f.handle(notice{wd: -1, mask: unix.IN_Q_OVERFLOW})
	f.mu.Unlock()
	if _, err := f.Take(); !errors.Is(err, ErrLost) {
		t.Errorf("got %v", err)
	}
}

func TestTooManyDirectories(t *testing.T) {
	dir := t.TempDir()
	f := open(t, dir, Options{Recursive: true})
	for i := range maxDirs {
		f.mkdir(fmt.Sprint(i))
		if i%1000 == 0 { // what is new shall not be too much either
			if _, err := f.Take(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if _, err := f.Take(); !errors.Is(err, ErrLimit) {
		t.Errorf("a tree that grows: %v", err)
	}
	if _, err := Open(context.Background(), dir, Options{Recursive: true}); !errors.Is(err, ErrLimit) {
		t.Errorf("a large tree: %v", err)
	}
}

func TestManyEntriesMovedIn(t *testing.T) {
	parent := t.TempDir()
	must(t, os.MkdirAll(parent+"/watched", 0o755))
	must(t, os.MkdirAll(parent+"/large", 0o755))
	for i := range maxEntries + 1 {
		must(t, os.WriteFile(fmt.Sprintf("%s/large/%d", parent, i), nil, 0o644))
	}
	f := open(t, parent+"/watched", Options{Recursive: true})
	must(t, os.Rename(parent+"/large", parent+"/watched/large"))
	events, err := f.Take()
	if got := texts(events); !errors.Is(err, ErrLost) || !slices.Equal(got, []string{"CREATE large"}) {
		t.Errorf("got %d events, %v", len(got), err)
	}
}

func TestBindMountsAreWatchedOnce(t *testing.T) {
	dir := t.TempDir()
	must(t, os.MkdirAll(dir+"/a/b", 0o755))
	must(t, os.MkdirAll(dir+"/again", 0o755))
	if err := unix.Mount(dir, dir+"/again", "", unix.MS_BIND, ""); err != nil {
		t.Skipf("mounting needs root: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir+"/again", unix.MNT_DETACH) })
	f := open(t, dir, Options{Recursive: true})
	if got := f.directories(); !slices.Equal(got, []string{".", "a", "a/b"}) {
		t.Errorf("watched: %v", got)
	}
}

func TestMountsOfOtherFileSystemsAreWatched(t *testing.T) {
	dir := t.TempDir()
	must(t, os.Mkdir(dir+"/mount", 0o755))
	if err := unix.Mount("tmpfs", dir+"/mount", "tmpfs", 0, "size=64k"); err != nil {
		t.Skipf("mounting needs root: %v", err)
	}
	mounted := true
	unmount := func() {
		if mounted {
			must(t, unix.Unmount(dir+"/mount", unix.MNT_DETACH))
			mounted = false
		}
	}
	t.Cleanup(unmount)
	f := open(t, dir, Options{Recursive: true})
	f.write("mount/a", "x")
	f.want("CREATE mount/a", "WRITE mount/a")
	unmount()
	f.write("b", "")
	f.want("CREATE b")
	if got := f.directories(); !slices.Equal(got, []string{"."}) {
		t.Errorf("watched: %v", got)
	}
}

func TestCloseEndsEverything(t *testing.T) {
	f := open(t, t.TempDir(), Options{})
	f.write("a", "")
	for range 2 {
		f.Close()
	}
	f.write("b", "")
	if events, err := f.Take(); err != nil || len(events) > 1 {
		t.Errorf("got %v %v", texts(events), err)
	}
}

// Takers, a closer and a busy directory at once: for the race detector.
func TestConcurrentUse(t *testing.T) {
	f := open(t, t.TempDir(), Options{Recursive: true})
	stop := make(chan struct{})
	done := make(chan struct{})
	for range 2 {
		go func() {
			defer func() { done <- struct{}{} }()
			for {
				select {
				case <-stop:
					return
				default:
					if _, err := f.Take(); err != nil {
						return
					}
				}
			}
		}()
	}
	for i := range 200 {
		f.mkdir(fmt.Sprintf("%d/x", i))
		f.rename(fmt.Sprintf("%d/x", i), fmt.Sprintf("%d/y", i))
	}
	f.Close()
	close(stop)
	<-done
	<-done
}

// directories gives what is watched, relative to the root.
func (w *Watcher) directories() (paths []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, d := range w.tree.byWD {
		if path, ok := w.tree.path(d, ""); ok {
			paths = append(paths, path)
		}
	}
	slices.Sort(paths)
	return paths
}
