package process

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/wrenn-dev/wrenn/envd/internal/guest"
	"github.com/wrenn-dev/wrenn/envd/internal/guest/guesttest"
)

func TestTheGreediestEndsForWantOfMemory(t *testing.T) {
	cgroups, _ := guesttest.Cgroups(t)
	f := fixtureOf(t, guest.OpenUntouched(cgroups))
	modest, greedy := f.start(shell("exec sleep 60")), f.start(shell("sleep 60; exit $?"))
	if err := os.WriteFile(fmt.Sprintf("/proc/%d/oom_score_adj", greedy.pid), []byte("900"), 0); err != nil {
		t.Fatal(err)
	}
	if pids, err := cgroups.KillGreediest(1); err != nil || len(pids) != 1 || pids[0] != int(greedy.pid) {
		t.Fatalf("killed %d, %v; want %d", pids, err, greedy.pid)
	}
	end := greedy.rest().end
	if !strings.HasPrefix(end.GetError(), "oom_killed: ") || end.GetStatus() != "signal: killed" {
		t.Errorf("end %v", end)
	}
	if dead(fmt.Sprint(modest.pid)) {
		t.Error("the modest one is dead, too")
	}
}

func TestOfManyWithLittleEachManyEnd(t *testing.T) {
	cgroups, _ := guesttest.Cgroups(t)
	f := fixtureOf(t, guest.OpenUntouched(cgroups))
	const count = 8
	var runs []*run
	for range count {
		runs = append(runs, f.start(shell("exec sleep 60")))
	}
	pids, err := cgroups.KillGreediest(1 << 40)
	if err != nil || len(pids) != count {
		t.Errorf("killed %d, %v; want %d of them", pids, err, count)
	}
	for _, run := range runs {
		if end := run.rest().end; end.GetStatus() != "signal: killed" {
			t.Errorf("end %v", end)
		}
	}
}

func TestNobodyToKill(t *testing.T) {
	cgroups, _ := guesttest.Cgroups(t)
	if pids, err := cgroups.KillGreediest(1); err == nil {
		t.Errorf("killed %d", pids)
	}
	if kills := cgroups.OOMKills(); kills != 0 {
		t.Errorf("%d kills", kills)
	}
}

func TestRelieveEndsWithItsContext(t *testing.T) {
	cgroups, root := guesttest.Cgroups(t)
	if _, err := os.Stat(root + "/user/memory.pressure"); err != nil {
		t.Skipf("the kernel tells no pressure: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- cgroups.Relieve(ctx) }()
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}
