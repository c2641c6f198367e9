package process

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/wrenn-dev/wrenn/envd/internal/guest"
	"github.com/wrenn-dev/wrenn/envd/internal/users"
)

// errResources says that the guest has no room for another program.
var errResources = errors.New("the sandbox has no room for another process")

// command is a program ready to be started.
type command struct {
	path  string
	argv  []string
	env   []string
	dir   string
	user  users.User
	stdin bool
	size  *size // not nil: with a terminal
}

// streams are envd's ends of a program's standard files.
type streams struct {
	input   *input
	outputs []*output
	tty     *os.File // nil without a terminal
}

func (s *streams) close() {
	s.input.close()
	for _, out := range s.outputs {
		_ = out.file.Close()
	}
}

// child is a program that has just been started.
type child struct {
	streams
	pid  int
	exit *os.File    // a pidfd: readable once the program has exited
	leaf *guest.Leaf // nil without cgroup2
}

// spawn starts the program as the leader of a session and process group of its own.
func spawn(machine *guest.Guest, cmd *command) (_ *child, err error) {
	files, ends, err := open(cmd)
	if err != nil {
		return nil, err
	}
	defer closeAll(files)
	pidfd := -1
	attr := &syscall.SysProcAttr{Setsid: true, PidFD: &pidfd, Setctty: ends.tty != nil}
	if os.Geteuid() == 0 {
		attr.Credential = &syscall.Credential{Uid: cmd.user.UID, Gid: cmd.user.GID, Groups: cmd.user.Groups}
	}
	result := &child{streams: ends}
	defer func() {
		if err != nil {
			result.close()
			if result.leaf != nil {
				result.leaf.Release()
			}
		}
	}()
	if cgroups := machine.Cgroups(); cgroups != nil {
		if result.leaf, err = cgroups.Leaf(); err != nil {
			return nil, fmt.Errorf("%w: %w", errResources, err)
		}
		attr.UseCgroupFD, attr.CgroupFD = true, result.leaf.FD()
	}
	err = machine.Spawn(func() (err error) {
		result.pid, _, err = syscall.StartProcess(cmd.path, cmd.argv, &syscall.ProcAttr{
			Dir:   cmd.dir,
			Env:   cmd.env,
			Files: []uintptr{uintptr(files[0]), uintptr(files[1]), uintptr(files[2])},
			Sys:   attr,
		})
		return err
	})
	if result.leaf != nil {
		result.leaf.Started()
	}
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.ENOMEM) {
		return nil, fmt.Errorf("%w: %w", errResources, err)
	} else if err != nil {
		return nil, err
	}
	result.exit = pollable(pidfd, "pidfd")
	return result, nil
}

// open makes the child's standard files, which the caller closes, and envd's ends of them.
func open(cmd *command) (files [3]int, ends streams, err error) {
	files = [3]int{-1, -1, -1}
	if cmd.size != nil {
		return openTerminal(cmd)
	}
	defer func() {
		if err != nil {
			closeAll(files)
			ends.close()
		}
	}()
	ends.input = newInput(nil)
	if cmd.stdin {
		var file *os.File
		if files[0], file, err = pipe(0); err != nil {
			return files, ends, err
		}
		ends.input = newInput(file)
	} else if files[0], err = unix.Open(os.DevNull, unix.O_RDONLY|unix.O_CLOEXEC, 0); err != nil {
		return files, ends, err
	}
	for i, event := range []outputEvent{stdoutEvent, stderrEvent} {
		var file *os.File
		if files[i+1], file, err = pipe(1); err != nil {
			return files, ends, err
		}
		ends.outputs = append(ends.outputs, newOutput(file, pipeChunk, event))
	}
	return files, ends, nil
}

func openTerminal(cmd *command) (files [3]int, ends streams, err error) {
	files = [3]int{-1, -1, -1}
	master, slave, err := terminal(int(cmd.user.UID), *cmd.size)
	if err != nil {
		return files, ends, err
	}
	defer unix.Close(slave)
	for i := range files {
		if files[i], err = unix.FcntlInt(uintptr(slave), unix.F_DUPFD_CLOEXEC, 0); err != nil {
			closeAll(files)
			return files, ends, errors.Join(err, master.Close())
		}
	}
	ends = streams{
		input:   newInput(master),
		outputs: []*output{newOutput(master, ptyChunk, ptyEvent)},
		tty:     master,
	}
	return files, ends, nil
}

// pipe gives the child's end of a new pipe, blocking as programs expect, and envd's. childEnd is 0 for the
// reading end.
func pipe(childEnd int) (int, *os.File, error) {
	var ends [2]int
	if err := unix.Pipe2(ends[:], unix.O_CLOEXEC); err != nil {
		return -1, nil, err
	}
	return ends[childEnd], pollable(ends[1-childEnd], "pipe"), nil
}

// pollable wraps a descriptor so that waiting for it costs no thread.
func pollable(fd int, name string) *os.File {
	_ = unix.SetNonblock(fd, true)
	return os.NewFile(uintptr(fd), name)
}

func closeAll(files [3]int) {
	for _, fd := range files {
		if fd >= 0 {
			_ = unix.Close(fd)
		}
	}
}
