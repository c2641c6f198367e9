package guest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log"
	"os"
	"path/filepath"
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

// Relieve kills the greediest process whenever programs stand still for long, until ctx ends.
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
			if pid, err := c.KillGreediest(); err != nil {
				log.Printf("programs stand still for want of memory: %v", err)
			} else {
				log.Printf("programs stood still for want of memory: killed process %d", pid)
			}
		}
	}
	return ctx.Err()
}

// KillGreediest kills what the kernel would, were it to choose among all user programs, and counts it as its kill.
func (c *Cgroups) KillGreediest() (pid int, err error) {
	pid = c.greediest()
	if pid == 0 {
		return 0, errors.New("there is no program to kill")
	}
	process, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return pid, fmt.Errorf("process %d: %w", pid, err)
	}
	defer unix.Close(process)
	if !c.holds(pid) { // it has ended, and its number is somebody else's
		return pid, fmt.Errorf("process %d: %w", pid, unix.ESRCH)
	}
	c.relieved.Add(1) // before: whoever sees its end shall find it counted
	if err := unix.PidfdSendSignal(process, unix.SIGKILL, nil, 0); err != nil {
		c.relieved.Add(-1)
		return pid, fmt.Errorf("process %d: %w", pid, err)
	}
	return pid, nil
}

// greediest gives the process with the highest score for the kernel's own choice (proc(5)), 0 when there is none.
func (c *Cgroups) greediest() (pid int) {
	most := int64(0)
	for member := range c.members() {
		if score := readNumber(fmt.Sprintf("/proc/%d/oom_score", member)); score > most {
			pid, most = member, score
		}
	}
	return pid
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

func (c *Cgroups) holds(pid int) bool {
	for member := range c.members() {
		if member == pid {
			return true
		}
	}
	return false
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
