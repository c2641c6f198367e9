package guest

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/wrenn-dev/wrenn/envd/internal/auth"
)

// fakeKernel notes what would have been done, in order.
type fakeKernel struct {
	calls []string
	fails string
}

func (k *fakeKernel) note(call, detail string) error {
	k.calls = append(k.calls, strings.TrimSpace(call+" "+detail))
	if call == k.fails {
		return errors.New("no")
	}
	return nil
}

func (k *fakeKernel) addEntropy(seed []byte) error { return k.note("entropy", string(seed)) }
func (k *fakeKernel) setClock(now time.Time) error {
	return k.note("clock", now.UTC().Format(time.RFC3339Nano))
}
func (k *fakeKernel) setHostname(name string) error { return k.note("hostname", name) }
func (k *fakeKernel) bind(source, _ string) error {
	return k.note("bind", filepath.Base(source))
}

func (k *fakeKernel) makeHostKey(kind, path string) error {
	if err := k.note("key", kind); err != nil {
		return err
	}
	return os.WriteFile(path, []byte("new"), 0o600)
}

func (k *fakeKernel) reload(pid int, name string) { _ = k.note("reload", fmt.Sprint(pid, " ", name)) }

func newGuest(t *testing.T) (*Guest, *fakeKernel) {
	t.Helper()
	kernel := &fakeKernel{}
	g := &Guest{touch: true, root: t.TempDir(), stateFile: stateFile, kernel: kernel}
	g.state.Store(&State{})
	return g, kernel
}

func parse(t *testing.T, body string) *InitRequest {
	t.Helper()
	request := new(InitRequest)
	if err := json.Unmarshal([]byte(body), request); err != nil {
		t.Fatal(err)
	}
	return request
}

func content(t *testing.T, g *Guest, name string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(g.root, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// "c2VlZA==" is "seed"
const first = `{"accessToken":"one","envVars":{"A":"1"},"defaultUser":"u","defaultWorkdir":"/w","hostname":"sb1",
	"timestamp":"2026-01-02T03:04:05.678901234Z","entropy":"c2VlZA==","machineId":"0123456789abcdef0123456789abcdef",
	"sandboxId":"sb1","templateId":"tpl","lifecycleID":"life1"}`

func TestInitMakesTheCloneUnique(t *testing.T) {
	g, kernel := newGuest(t)
	newLife, err := g.Init("", parse(t, first))
	if err != nil || !newLife {
		t.Fatal(newLife, err)
	}
	want := []string{"entropy seed", "clock 2026-01-02T03:04:05.678901234Z", "hostname sb1", "bind boot_id"}
	if !reflect.DeepEqual(kernel.calls, want) {
		t.Errorf("calls %q, want %q", kernel.calls, want)
	}
	if got := content(t, g, "etc/machine-id"); got != "0123456789abcdef0123456789abcdef\n" {
		t.Errorf("machine-id %q", got)
	}
	if got := content(t, g, "etc/hosts"); got != "127.0.0.1\tlocalhost\n127.0.1.1\tsb1\n" {
		t.Errorf("hosts %q", got)
	}
	if got := content(t, g, "etc/hostname"); got != "sb1\n" {
		t.Errorf("hostname %q", got)
	}
	own := []string{"random", "clock", "hostname", "machine_id", "boot_id", "token"}
	if got := g.Renewed(); !reflect.DeepEqual(got, own) {
		t.Errorf("renewed %q", got)
	}
	wantState := State{
		AccessToken: "one", Env: map[string]string{"A": "1"}, DefaultUser: "u", DefaultWorkdir: "/w", SandboxID: "sb1",
		TemplateID: "tpl", LifecycleID: "life1", Initialised: true,
	}
	if !reflect.DeepEqual(*g.State(), wantState) {
		t.Errorf("state %+v", g.State())
	}
}

func TestInitOfTheSameLifeIsIdempotent(t *testing.T) {
	g, kernel := newGuest(t)
	for _, token := range []string{"", "one"} {
		if _, err := g.Init(token, parse(t, first)); err != nil {
			t.Fatal(err)
		}
	}
	if len(kernel.calls) != 4 || len(g.Renewed()) != 6 {
		t.Errorf("calls %q, renewed %q", kernel.calls, g.Renewed())
	}
	// absent fields stay
	newLife, err := g.Init("one", parse(t, `{"envVars":{"B":"2"}}`))
	if err != nil || newLife || g.State().AccessToken != "one" || g.State().Env["B"] != "2" || g.State().LifecycleID != "life1" {
		t.Errorf("%v %v %+v", newLife, err, g.State())
	}
}

func TestInitOfTheNextLife(t *testing.T) {
	g, kernel := newGuest(t)
	if _, err := g.Init("", parse(t, first)); err != nil {
		t.Fatal(err)
	}
	bootID := content(t, g, "run/envd/boot_id")
	if len(bootID) != 37 || bootID[14] != '4' {
		t.Errorf("boot_id %q", bootID)
	}
	next := strings.NewReplacer("life1", "life2", `"one"`, `"two"`, "sb1", "sb2").Replace(first)
	if _, err := g.Init("stale", parse(t, next)); !errors.Is(err, auth.ErrUnauthorized) {
		t.Errorf("a stale token passes: %v", err)
	}
	newLife, err := g.Init("one", parse(t, next))
	if err != nil || !newLife {
		t.Fatal(newLife, err)
	}
	// bound once: the file behind it changes
	if got := strings.Join(kernel.calls[4:], ","); got != "entropy seed,clock 2026-01-02T03:04:05.678901234Z,hostname sb2" {
		t.Errorf("calls %q", got)
	}
	if content(t, g, "run/envd/boot_id") == bootID {
		t.Error("the boot_id is the old one")
	}
	if got := content(t, g, "etc/hosts"); got != "127.0.0.1\tlocalhost\n127.0.1.1\tsb2\n" {
		t.Errorf("hosts %q", got)
	}
}

func TestFailedInitChangesNoState(t *testing.T) {
	for _, fails := range []string{"entropy", "clock", "hostname", "bind"} {
		g, kernel := newGuest(t)
		kernel.fails = fails
		if _, err := g.Init("", parse(t, first)); err == nil {
			t.Errorf("%s: no error", fails)
		}
		if g.State().Initialised || g.State().AccessToken != "" {
			t.Errorf("%s: state %+v", fails, g.State())
		}
		kernel.fails = ""
		if _, err := g.Init("", parse(t, first)); err != nil {
			t.Errorf("%s: a second try: %v", fails, err)
		}
		if last := kernel.calls[len(kernel.calls)-1]; last != "bind boot_id" {
			t.Errorf("%s: the boot_id is not bound, last call %q", fails, last)
		}
	}
}

func TestStateOutlivesServe(t *testing.T) {
	g, _ := newGuest(t)
	if _, err := g.Init("", parse(t, first)); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(filepath.Join(g.root, stateFile))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatal(info, err)
	}
	again := &Guest{touch: true, root: g.root, stateFile: stateFile}
	again.state.Store(&State{})
	if err := again.load(); err != nil || !reflect.DeepEqual(again.State(), g.State()) {
		t.Errorf("%v %+v", err, again.State())
	}
}

func TestStateIsKeptWhenNothingIsLeftOfTheDisk(t *testing.T) {
	g, _ := newGuest(t)
	if err := unix.Mount("tmpfs", g.root, "tmpfs", 0, "size=64k"); err != nil {
		t.Skipf("mounting needs root: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(g.root, 0) })
	if _, err := g.Init("", parse(t, first)); err != nil {
		t.Fatal(err)
	}
	for _, mode := range []int{os.O_CREATE, os.O_APPEND} { // also what one large write leaves
		file, err := os.OpenFile(g.root+"/fill", os.O_WRONLY|mode, 0o644)
		if err != nil {
			t.Fatal(err)
		}
		for err == nil {
			_, err = file.Write(make([]byte, 4096))
		}
		if err := file.Close(); err != nil {
			t.Fatal(err)
		}
	}
	next := strings.NewReplacer("life1", "life2", `"one"`, `"2"`).Replace(first)
	if newLife, err := g.Init("one", parse(t, next)); err != nil || !newLife {
		t.Fatal(newLife, err)
	}
	again := &Guest{touch: true, root: g.root, stateFile: stateFile}
	again.state.Store(&State{})
	if err := again.load(); err != nil || again.State().AccessToken != "2" || again.State().LifecycleID != "life2" {
		t.Errorf("%v %+v", err, again.State())
	}
}

func TestHostsWith(t *testing.T) {
	old := "127.0.0.1 localhost\n127.0.1.1 old\n# note\n::1 ip6-localhost"
	want := "127.0.0.1 localhost\n# note\n::1 ip6-localhost\n127.0.1.1\tnew\n"
	if got := hostsWith(old, "new"); got != want {
		t.Errorf("got %q", got)
	}
}
