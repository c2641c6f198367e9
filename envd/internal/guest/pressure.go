package guest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// What the kernel is asked to tell (Documentation/accounting/psi.rst): that all programs which had something to do stood
// still for want of memory for 2.4 seconds of four. Without CAP_SYS_RESOURCE it takes even windows only.
const (
	stallTrigger = "full 2400000 4000000"
	stallWindow  = 4 * time.Second
	// the part of the programs' memory that is taken back then: of a thousand that have little each, one is no help
	relief = 16
)

// stalls is what has been told of the programs' standing still.
type stalls struct{ last time.Time }

// another tells whether one told at that time follows the one before without a rest: then it is no hiccup. After a
// remedy it begins anew.
func (s *stalls) another(at time.Time) (lasting bool) {
	if lasting = !s.last.IsZero() && at.Sub(s.last) < 2*stallWindow; lasting {
		s.last = time.Time{}
	} else {
		s.last = at
	}
	return lasting
}

// Relieve kills the greediest processes whenever programs stand still for long, until ctx ends.
//
// The kernel kills only when it finds nothing to reclaim. Of a program that takes memory little by little it drops the
// text again and again, and reads it again, for many minutes. Nothing wakes here while memory is enough.
func (c *Cgroups) Relieve(ctx context.Context) error {
	path := filepath.Join(c.user, "memory.pressure")
	pressure, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(pressure)
	if _, err := unix.Write(pressure, []byte(stallTrigger)); err != nil {
		return &os.PathError{Op: "write", Path: path, Err: err}
	}
	stop, stopper, err := os.Pipe()
	if err != nil {
		return err
	}
	defer stop.Close()
	defer context.AfterFunc(ctx, func() { _ = stopper.Close() })()
	var told stalls
	for ctx.Err() == nil {
		// A thread waits: Go's own poller does not know POLLPRI.
		polled := []unix.PollFd{
			{Fd: int32(pressure), Events: unix.POLLPRI}, {Fd: int32(stop.Fd()), Events: unix.POLLIN},
		}
		if _, err := unix.Poll(polled, -1); errors.Is(err, unix.EINTR) {
			continue
		} else if err != nil {
			return fmt.Errorf("poll %s: %w", path, err)
		}
		switch events := polled[0].Revents; {
		case events&unix.POLLERR != 0:
			return fmt.Errorf("poll %s: the group is gone", path)
		case events != 0 && told.another(time.Now()):
			killed, err := c.KillGreediest(c.limit / relief)
			if len(killed) > 0 {
				log.Printf("programs stood still for want of memory: killed %d processes", len(killed))
			}
			if err != nil {
				log.Printf("killing for want of memory: %v", err)
			}
		}
	}
	return ctx.Err()
}

// KillGreediest kills what the kernel would, were it to choose among all user programs, until `enough` bytes of memory were
// theirs alone: one that has much, or many that have little each. They are counted as kills of the kernel.
func (c *Cgroups) KillGreediest(enough int64) (killed []int, err error) {
	open := map[int]int{} // pidfds, so that no number becomes somebody else's meanwhile
	defer func() {
		for _, process := range open {
			_ = unix.Close(process)
		}
	}()
	candidates := c.greediest()
	if len(candidates) == 0 {
		return nil, errors.New("there is no program to kill")
	}
	for _, pid := range candidates {
		if enough <= 0 {
			break
		}
		if doomed(pid) {
			enough -= private(pid)
			continue
		}
		if process, err := unix.PidfdOpen(pid, 0); err == nil {
			open[pid] = process
			enough -= private(pid)
		}
	}
	for pid := range c.members() {
		process, chosen := open[pid]
		if !chosen {
			continue
		}
		c.relieved.Add(1) // before: whoever sees its end shall find it counted
		if failed := unix.PidfdSendSignal(process, unix.SIGKILL, nil, 0); failed != nil {
			c.relieved.Add(-1)
			err = errors.Join(err, fmt.Errorf("process %d: %w", pid, failed))
			continue
		}
		killed = append(killed, pid)
	}
	return killed, err
}

// greediest gives all processes by their score for the kernel's own choice (proc(5)), the highest first.
func (c *Cgroups) greediest() []int {
	scores := map[int]int64{}
	for pid := range c.members() {
		if score := readNumber(fmt.Sprintf("/proc/%d/oom_score", pid)); score > 0 {
			scores[pid] = score
		}
	}
	return slices.SortedFunc(maps.Keys(scores), func(a, b int) int { return cmp.Compare(scores[b], scores[a]) })
}

// doomed tells whether a process has been killed and has not got to its end: among many that takes its time, and what it has
// will be free without another kill (proc_pid_status(5)).
func doomed(pid int) bool {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(data)) {
		name, value, _ := strings.Cut(line, ":")
		if name != "SigPnd" && name != "ShdPnd" {
			continue
		}
		pending, err := strconv.ParseUint(strings.TrimSpace(value), 16, 64)
		if err == nil && pending&(1<<(unix.SIGKILL-1)) != 0 {
			return true
		}
	}
	return false
}

// private gives the bytes of a process that it shares with nobody (proc_pid_statm(5)), 0 when it has ended.
func private(pid int) int64 {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		return 0
	}
	var size, resident, shared int64
	if _, err := fmt.Sscan(string(data), &size, &resident, &shared); err != nil {
		return 0
	}
	return max(resident-shared, 1) * int64(os.Getpagesize()) // the counts lag behind
}

// members visits the processes of all user programs, also in groups that a program has made in its own.
func (c *Cgroups) members() func(yield func(pid int) bool) {
	return func(yield func(pid int) bool) {
		_ = filepath.WalkDir(c.user, func(dir string, entry fs.DirEntry, err error) error {
			if err != nil || !entry.IsDir() {
				return nil //nolint:nilerr // it has been removed meanwhile
			}
			listed, _ := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
			for line := range strings.Lines(string(listed)) {
				if pid, err := strconv.Atoi(strings.TrimSpace(line)); err == nil && pid > 0 && !yield(pid) {
					return fs.SkipAll
				}
			}
			return nil
		})
	}
}

// readNumber reads a file of one number, 0 when there is none.
func readNumber(path string) int64 {
	data, err := os.ReadFile(path)
	if err != nil {
		return 0
	}
	number, err := strconv.ParseInt(strings.TrimSpace(string(data)), 10, 64)
	if err != nil {
		return 0
	}
	return number
}
