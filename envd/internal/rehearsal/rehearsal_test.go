package rehearsal

import (
	"errors"
	"io/fs"
	"os"
	"reflect"
	"testing"
	"time"

	"github.com/wrenn-dev/wrenn/envd/internal/guest"
	"github.com/wrenn-dev/wrenn/envd/internal/guest/guesttest"
)

func TestRunPlaysEveryScene(t *testing.T) {
	machine := guest.OpenUntouched(nil)
	if err := Run(machine, time.Minute); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(*machine.State(), guest.State{}) {
		t.Errorf("the rehearsal's state stayed: %+v", machine.State())
	}
	if _, err := os.Stat(scratch); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%s stayed: %v", scratch, err)
	}
}

func TestRunEndsAtItsLimit(t *testing.T) {
	if err := Run(guest.OpenUntouched(nil), time.Nanosecond); err == nil {
		t.Error("no error of a rehearsal that had no time")
	}
}

func TestProgramsOfScenesAreGone(t *testing.T) {
	cgroups, root := guesttest.Cgroups(t)
	if err := Run(guest.OpenUntouched(cgroups), time.Minute); err != nil {
		t.Fatal(err)
	}
	events, err := os.ReadFile(root + "/user/cgroup.events")
	if err != nil {
		t.Fatal(err)
	}
	if want := "populated 0\nfrozen 0\n"; string(events) != want {
		t.Errorf("cgroup.events %q, want %q", events, want)
	}
}
