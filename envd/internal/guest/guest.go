// Package guest is what envd does to the machine it lives in: its identity, clock, random pool, cgroups and
// figures. Untouched it leaves the machine alone, so that the real envd can run as a plain process.
package guest

import (
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
)

// DefaultUser runs programs when /init named nobody else.
const DefaultUser = "user"

const stateFile = "run/envd/state.json"

// Guest is the machine as envd sees it.
type Guest struct {
	touch bool
	root  string // "/", or a scratch directory in tests
	// where the state survives envd, below root
	stateFile string
	state     atomic.Pointer[State]
	cgroups   *Cgroups // nil where there is no cgroup2
	oom       *oomGuard
	kernel    kernel
	cpu       cpuMeter

	initLock sync.Mutex
	renewed  []string // by the last Init that began a life
}

// Open prepares the machine for envd's life: cgroups, memory priority and the state of a previous run of this
// boot.
func Open() (*Guest, error) {
	g := &Guest{touch: true, root: "/", stateFile: stateFile, kernel: linuxKernel{}}
	g.state.Store(&State{})
	if err := g.load(); err != nil {
		return nil, err
	}
	var err error
	if g.cgroups, err = SetupCgroups(CgroupRoot); err != nil {
		return nil, err
	}
	if err := g.cgroups.Join(); err != nil {
		return nil, err
	}
	if g.oom, err = openOOMGuard(); err != nil {
		return nil, err
	}
	return g, nil
}

// OpenUntouched leaves the machine as it is. cgroups may be nil.
func OpenUntouched(cgroups *Cgroups) *Guest {
	g := &Guest{root: "/", cgroups: cgroups}
	g.state.Store(&State{})
	return g
}

// Cgroups gives the places of user programs, nil where there is no cgroup2.
func (g *Guest) Cgroups() *Cgroups { return g.cgroups }

// Spawn runs start, which forks a child, with the memory priority that the child shall inherit.
func (g *Guest) Spawn(start func() error) error {
	if g.oom == nil {
		return start()
	}
	return g.oom.spawn(start)
}

// ScratchDir is where uploads wait on the disk until they are complete.
func (g *Guest) ScratchDir() string {
	if !g.touch {
		return os.TempDir()
	}
	return filepath.Join(g.root, "var/cache/envd")
}
