package files

import (
	"bytes"
	"os"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// watch starts an inotify watch as clients' watchers do.
func watch(t *testing.T, dir string) (events func() []string) {
	t.Helper()
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	const mask = unix.IN_CREATE | unix.IN_MODIFY | unix.IN_ATTRIB | unix.IN_MOVE | unix.IN_DELETE
	if _, err := unix.InotifyAddWatch(fd, dir, mask); err != nil {
		t.Fatal(err)
	}
	return func() (found []string) {
		buffer := make([]byte, 64<<10)
		n, err := unix.Read(fd, buffer)
		if err != nil {
			return nil
		}
		for rest := buffer[:n]; len(rest) > 0; {
			event := (*unix.InotifyEvent)(unsafe.Pointer(&rest[0]))
			name := rest[unix.SizeofInotifyEvent : unix.SizeofInotifyEvent+event.Len]
			kind := map[uint32]string{unix.IN_CREATE: "CREATE", unix.IN_MODIFY: "WRITE", unix.IN_ATTRIB: "CHMOD"}[event.Mask]
			if kind == "" {
				kind = "OTHER"
			}
			found = append(found, kind+" "+string(bytes.TrimRight(name, "\x00")))
			rest = rest[unix.SizeofInotifyEvent+event.Len:]
		}
		return found
	}
}

func TestWatchersSeeOneWrite(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("changing the owner, which is one of the events, needs root")
	}
	f := newFixture(t)
	events := watch(t, f.dir)
	if status, body := f.put(f.path("a"), "content"); status != 200 {
		t.Fatal(status, body)
	}
	if got := strings.Join(events(), ", "); got != "CREATE a, CHMOD a, WRITE a" {
		t.Errorf("a new file: %s", got)
	}
	for _, content := range []string{"x", strings.Repeat("x", 300_000)} {
		if status, body := f.put(f.path("a"), content); status != 200 {
			t.Fatal(status, body)
		}
		for _, event := range events() {
			if event != "CHMOD a" && event != "WRITE a" {
				t.Errorf("an old file: %s", event)
			}
		}
	}
}
