package guest

import (
	"errors"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// CgroupRoot is where the guest's init mounts cgroup2.
const CgroupRoot = "/sys/fs/cgroup"

const mib = 1 << 20

// cpu.weight of a leaf: until its program's exec, and then.
const (
	startingWeight = "10000"
	programWeight  = "100"
)

// Cgroups holds two groups: `envd`, whose memory and CPU share are protected, and `user`, whose limits stay
// below the machine's, so that a fork bomb or a memory hog ends there. Every program gets a leaf of its own
// in `user`: one write kills all of it, wherever its descendants went.
//
// The leaves share the processor evenly, so a program finds room beside one of a thousand busy processes. Only until its
// exec has a child, which is in its leaf from the start, nearly all of it: Go's fork holds up one of envd's threads so
// long, and all of them when memory is to be collected just then.
// They have no other controllers: a memory controller for each would leave a dying memcg behind every short
// program for as long as a page of its cache lives.
type Cgroups struct {
	envd  string
	user  string
	limit int64 // bytes of memory for all user programs, 0 when unlimited
	// bytes that the rest of the machine keeps beyond what it uses
	margin int64
	life   int64 // tells leaves of this run from those of a previous one

	relieved atomic.Int64 // processes that Relieve killed
	room     room

	mu    sync.Mutex
	next  int
	stale []string // leaves that outlived their leader: background programs
}

// Leaf is the cgroup of one program and its descendants.
type Leaf struct {
	cgroups *Cgroups
	dir     string
	handle  *os.File
}

// limits are what a machine of a given memory gives to envd and to user programs, in bytes.
type limits struct {
	envdMin, userMax, userPids int64
}

func limitsFor(total int64) limits {
	// envd, PID 1 and the kernel: as seen, less lets the whole machine run dry before the users' group does
	reserve := min(40*mib+total/32, 160*mib, total/3)
	return limits{
		envdMin:  min(48*mib, total/4),
		userMax:  total - reserve,
		userPids: min(max(total/mib*4, 512), 16384),
	}
}

// SetupCgroups makes the two groups below root. Nil, nil when root is not cgroup2. Safe to repeat.
func SetupCgroups(root string) (*Cgroups, error) {
	var stat unix.Statfs_t
	if err := unix.Statfs(root, &stat); err != nil || stat.Type != unix.CGROUP2_SUPER_MAGIC {
		return nil, nil //nolint:nilerr // no cgroup2 is a fact, not a failure
	}
	for _, controller := range []string{"memory", "pids", "cpu"} {
		if err := writeFile(filepath.Join(root, "cgroup.subtree_control"), "+"+controller); err != nil {
			log.Printf("cgroup controller %s: %v", controller, err)
		}
	}
	c := &Cgroups{
		envd: filepath.Join(root, "envd"),
		user: filepath.Join(root, "user"),
		life: time.Now().UnixNano(),
	}
	for _, dir := range []string{c.envd, c.user} {
		if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
			return nil, err
		}
	}
	info, err := readMeminfo()
	if err != nil {
		return nil, err
	}
	c.margin = marginFor(info.total)
	want := limitsFor(info.total)
	for _, set := range []struct {
		dir, name string
		value     int64
	}{
		{c.envd, "memory.min", want.envdMin},
		{c.envd, "cpu.weight", 1000},
		{c.user, "memory.max", want.userMax},
		{c.user, "pids.max", want.userPids},
	} {
		if err := writeFile(filepath.Join(set.dir, set.name), strconv.FormatInt(set.value, 10)); err != nil {
			log.Printf("cgroup %s: %v", set.name, err)
		} else if set.name == "memory.max" {
			c.limit, c.room.set = want.userMax, want.userMax
		}
	}
	if err := writeFile(filepath.Join(c.user, "cgroup.subtree_control"), "+cpu"); err != nil {
		log.Printf("cgroup controller cpu of programs: %v", err)
	}
	old, err := filepath.Glob(filepath.Join(c.user, "p*"))
	if err != nil {
		return nil, err
	}
	for _, dir := range old { // envd may have ended before it said so
		_ = writeFile(filepath.Join(dir, "cpu.weight"), programWeight)
	}
	c.stale = old
	c.sweep()
	return c, nil
}

// Join moves the caller into `envd`; a nil receiver, no cgroup2, stays where it is.
func (c *Cgroups) Join() error {
	if c == nil {
		return nil
	}
	if err := writeFile(filepath.Join(c.envd, "cgroup.procs"), "0"); err != nil {
		return fmt.Errorf("cgroup envd: %w", err)
	}
	return nil
}

// Limit is the memory of all user programs in bytes, 0 when unlimited.
func (c *Cgroups) Limit() int64 { return c.limit }

// Leaf makes the cgroup of one program, if there is memory for one.
func (c *Cgroups) Leaf() (*Leaf, error) {
	if err := c.fit(); err != nil {
		return nil, err
	}
	c.mu.Lock()
	c.next++
	dir := filepath.Join(c.user, fmt.Sprintf("p%d-%d", c.life, c.next))
	c.mu.Unlock()
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil, err
	}
	handle, err := os.Open(dir)
	if err != nil {
		_ = os.Remove(dir)
		return nil, err
	}
	leaf := &Leaf{cgroups: c, dir: dir, handle: handle}
	leaf.weigh(startingWeight)
	return leaf, nil
}

// OOMKills counts the processes that the kernel, or Relieve, killed for want of memory in all user programs so far.
func (c *Cgroups) OOMKills() int64 {
	relieved := c.relieved.Load()
	data, err := os.ReadFile(filepath.Join(c.user, "memory.events"))
	if err != nil {
		return relieved
	}
	return relieved + counter(string(data), "oom_kill")
}

// counter reads one line of a cgroup's events or statistics, 0 when it is not there.
func counter(text, name string) int64 {
	for line := range strings.Lines(text) {
		if value, ok := strings.CutPrefix(strings.TrimSpace(line), name+" "); ok {
			count, err := strconv.ParseInt(value, 10, 64)
			if err != nil {
				return 0
			}
			return count
		}
	}
	return 0
}

// sweep removes leaves that have emptied since their program ended.
func (c *Cgroups) sweep() {
	c.mu.Lock()
	defer c.mu.Unlock()
	kept := c.stale[:0]
	for _, dir := range c.stale {
		if err := os.Remove(dir); err != nil && !errors.Is(err, os.ErrNotExist) {
			kept = append(kept, dir)
		}
	}
	c.stale = kept
}

// FD is for clone3's CLONE_INTO_CGROUP.
func (l *Leaf) FD() int { return int(l.handle.Fd()) }

// Started tells that the program runs: from now on it has its share.
func (l *Leaf) Started() { l.weigh(programWeight) }

// weigh fails where the kernel has no cpu controller, and then there are no shares.
func (l *Leaf) weigh(weight string) { _ = writeFile(filepath.Join(l.dir, "cpu.weight"), weight) }

// Kill sends SIGKILL to everything in the leaf.
func (l *Leaf) Kill() error { return writeFile(filepath.Join(l.dir, "cgroup.kill"), "1") }

// Release gives the leaf up. Programs that still run in it keep it until a later sweep.
func (l *Leaf) Release() {
	_ = l.handle.Close()
	l.cgroups.mu.Lock()
	l.cgroups.stale = append(l.cgroups.stale, l.dir)
	l.cgroups.mu.Unlock()
	l.cgroups.sweep()
	_ = l.cgroups.fit() // what it leaves is the others'; the next start tells what is wrong
}

func writeFile(path, value string) error {
	file, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = file.WriteString(value)
	return errors.Join(err, file.Close())
}
