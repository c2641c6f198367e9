package guest

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"sync"
)

const (
	// least that is left to envd and to the kernel when it counts how much user programs may have
	marginMost = 24 * mib
	// and what has to be there for another program to be started
	startLeast = 8 * mib
	// changes smaller than this are not worth a write
	roomStep = 2 * mib
)

// errNoRoom says that a start would be at the cost of what keeps the guest answering.
var errNoRoom = errors.New("not enough memory is free")

// room follows how much memory the rest of the machine leaves to user programs.
//
// A fixed limit covers what programs take themselves. But each start also takes memory that is nobody's program's: envd's for
// its client, the kernel's for the task, its pipes and its cgroup, 200 KiB in all as measured. A thousand of them, and the whole
// machine ran dry while the programs were far below their limit: then the kernel evicts and refaults everybody's text, for
// minutes, instead of killing one of them.
type room struct {
	mu  sync.Mutex
	set int64 // the limit that was last written
}

// memory is what is known about the machine's at one moment, in bytes.
type memory struct {
	used      int64 // by user programs
	cached    int64 // of that, what can be dropped
	free      int64 // nobody's
	available int64 // free, or could be: everybody's cache
}

// elsewhere is what can still be had without taking it from user programs.
func (m memory) elsewhere() int64 { return max(m.free, m.available-m.cached) }

// limit gives what user programs may use, at most fixed: what they have and what is left, without the margin. They keep what
// they have: a limit below that would have the writer wait until enough of them were killed.
func (m memory) limit(fixed, margin int64) int64 {
	return min(fixed, max(m.used+m.elsewhere()-margin, m.used+mib))
}

// marginFor is a machine's, given its memory in bytes.
func marginFor(total int64) int64 { return min(marginMost, total/12) }

// fit sets the programs' limit anew, and gives errNoRoom when there is no memory for another one.
func (c *Cgroups) fit() error {
	if c.limit == 0 {
		return nil
	}
	c.room.mu.Lock()
	defer c.room.mu.Unlock()
	now, err := c.memory()
	if err != nil {
		return err
	}
	wanted := now.limit(c.limit, c.margin)
	if wanted != c.room.set && (wanted == c.limit || max(wanted-c.room.set, c.room.set-wanted) >= roomStep) {
		if err := writeFile(filepath.Join(c.user, "memory.max"), strconv.FormatInt(wanted, 10)); err != nil {
			return err
		}
		c.room.set = wanted
	}
	if now.elsewhere() < min(startLeast, c.margin/3) {
		return errNoRoom
	}
	return nil
}

func (c *Cgroups) memory() (memory, error) {
	info, err := readMeminfo()
	if err != nil {
		return memory{}, err
	}
	now := memory{used: readNumber(filepath.Join(c.user, "memory.current")), free: info.free, available: info.available}
	if now.used+now.free-c.margin >= c.limit {
		return now, nil // as most of the time: more than enough, whatever can be dropped
	}
	stat, err := os.ReadFile(filepath.Join(c.user, "memory.stat"))
	if err != nil {
		return memory{}, err
	}
	now.cached = counter(string(stat), "active_file") + counter(string(stat), "inactive_file")
	return now, nil
}
