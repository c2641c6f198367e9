package guest

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"testing"
)

func TestRehearsalLeavesNoState(t *testing.T) {
	g, kernel := newGuest(t)
	stage := g.Rehearsal()
	if _, err := stage.Init("", parse(t, first)); err != nil {
		t.Fatal(err)
	}
	if !stage.State().Initialised || len(kernel.calls) == 0 {
		t.Fatalf("not a real /init: %+v %q", stage.State(), kernel.calls)
	}
	stage.End()
	if !reflect.DeepEqual(*g.State(), State{}) {
		t.Errorf("the machine's state is %+v", g.State())
	}
	for _, name := range []string{stateFile, rehearsalFile} {
		if _, err := os.Stat(filepath.Join(g.root, name)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if newLife, err := g.Init("", parse(t, first)); err != nil || !newLife {
		t.Errorf("the first /init after it: %v %v", newLife, err)
	}
}

func TestRehearsalKeepsMachineIDEmpty(t *testing.T) {
	g, _ := newGuest(t)
	if err := os.MkdirAll(filepath.Join(g.root, "etc"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(g.root, "etc/machine-id"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	g.Rehearsal().End()
	if got := content(t, g, "etc/machine-id"); got != "" {
		t.Errorf("machine-id %q", got)
	}
}

func TestOverwriteCutsOffWhatIsLonger(t *testing.T) {
	path := filepath.Join(t.TempDir(), "new", "file")
	for _, text := range []string{"long enough\n", "short\n", "long again\n"} {
		if err := overwrite(path, text, 0o644); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(path); err != nil || string(got) != text {
			t.Errorf("%q %v, want %q", got, err, text)
		}
	}
}
