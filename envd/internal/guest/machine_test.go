package guest

import (
	"crypto/rand"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"strings"
	"testing"
)

func TestLimits(t *testing.T) {
	for total, want := range map[int64]limits{
		96 * mib:   {24 * mib, 64 * mib, 512},
		512 * mib:  {48 * mib, 456 * mib, 2048},
		8192 * mib: {48 * mib, 8032 * mib, 16384},
	} {
		if got := limitsFor(total); got != want {
			t.Errorf("%d MiB: got %v, want %v", total/mib, got, want)
		}
	}
}

func TestParseStat(t *testing.T) {
	busy, total, err := parseStat("cpu  10 20 30 400 50 6 7 8 9 10\ncpu0 1 2 3 4\n")
	if err != nil || busy != 81 || total != 531 {
		t.Errorf("got %d of %d, %v", busy, total, err)
	}
	if _, _, err := parseStat("intr 1"); err == nil {
		t.Error("no error")
	}
}

func TestCPUMeter(t *testing.T) {
	var meter cpuMeter
	for _, test := range []struct {
		busy, total int64
		want        float64
	}{{50, 100, 50}, {60, 200, 10}, {61, 201, 10}, {140, 280, 100}} {
		if got := meter.update(test.busy, test.total); got != test.want {
			t.Errorf("%d of %d: got %v, want %v", test.busy, test.total, got, test.want)
		}
	}
}

func TestParseMeminfo(t *testing.T) {
	got, err := parseMeminfo("MemTotal:  2048 kB\nMemFree: 1 kB\nMemAvailable: 1024 kB\nSwapCached: 9 kB\nCached: 10 kB\n")
	if err != nil || got != (meminfo{2 * mib, 1024, mib, 10240}) {
		t.Errorf("got %v %v", got, err)
	}
	if _, err := parseMeminfo(""); err == nil {
		t.Error("no error")
	}
}

func TestEventCount(t *testing.T) {
	if got := counter("low 1\noom 2\noom_kill 3\noom_group_kill 4\n", "oom_kill"); got != 3 {
		t.Errorf("got %d", got)
	}
}

func TestChildrenAreNotProtectedFromTheOOMKiller(t *testing.T) {
	const path = "/proc/self/oom_score_adj"
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	guard, err := openOOMGuard()
	if err != nil {
		t.Skipf("lowering oom_score_adj needs privileges: %v", err)
	}
	defer func() { _ = os.WriteFile(path, before, 0) }()
	var child []byte
	if err := guard.spawn(func() (err error) {
		child, err = exec.Command("cat", path).Output()
		return err
	}); err != nil {
		t.Fatal(err)
	}
	own, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if strings.TrimSpace(string(own)) != "-1000" || strings.TrimSpace(string(child)) != "100" {
		t.Errorf("envd %q, child %q", own, child)
	}
}

// The kernel understands the request; what it is given comes from itself.
func TestAddEntropy(t *testing.T) {
	seed := make([]byte, 64)
	if _, err := rand.Read(seed); err != nil {
		t.Fatal(err)
	}
	err := (linuxKernel{}).addEntropy(seed)
	if errors.Is(err, fs.ErrPermission) {
		t.Skipf("adding entropy needs CAP_SYS_ADMIN: %v", err)
	} else if err != nil {
		t.Error(err)
	}
}
