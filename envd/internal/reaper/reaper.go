// Package reaper is PID 1 of the guest: it keeps `envd serve` running, reaps every orphan, and ends the machine
// when told to.
package reaper

import (
	"fmt"
	"log"
	"os"
	"os/signal"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// how long programs have to end by themselves when the machine stops
	grace = 2 * time.Second
	// A server that dies sooner than this after its start waits longer and longer for the next one.
	steady  = 5 * time.Second
	waitMin = 50 * time.Millisecond
	waitMax = 500 * time.Millisecond // a program may kill it again and again
)

// server is the child that the reaper keeps alive.
type server struct {
	path    string
	argv    []string
	pid     int // 0 while it does not run
	started time.Time
	wait    time.Duration
}

// Run starts the program at path as argv and stays for the life of the machine. As any other process than PID 1 it returns when told to
// end, with the server ended.
func Run(path string, argv []string) error {
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, unix.SIGCHLD, unix.SIGTERM, unix.SIGINT, unix.SIGUSR1, unix.SIGUSR2, unix.SIGPWR)
	if os.Getpid() == 1 {
		// Ctrl-Alt-Del, the VMM's polite request, shall be SIGINT to us and not an instant reset.
		if err := unix.Reboot(unix.LINUX_REBOOT_CMD_CAD_OFF); err != nil {
			log.Printf("ctrl-alt-del: %v", err)
		}
	}
	child := &server{path: path, argv: argv, wait: waitMin}
	restart := time.NewTimer(0)
	for {
		select {
		case <-restart.C:
			// Forking here, in the loop that reaps, keeps the two from racing for the same child.
			if err := child.start(); err != nil {
				log.Printf("start %s: %v", path, err)
				restart.Reset(child.pause())
			}
		case received := <-signals:
			if received != unix.SIGCHLD {
				return stop(child, received, signals)
			}
			if status, ended := reap(child); ended {
				log.Printf("envd serve ended (%s): starting it again", describe(status))
				restart.Reset(child.pause())
			}
		}
	}
}

func (s *server) start() error {
	pid, err := syscall.ForkExec(s.path, s.argv, &syscall.ProcAttr{
		Env:   os.Environ(),
		Files: []uintptr{0, 1, 2},
		Sys:   &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		return err
	}
	s.pid, s.started = pid, time.Now()
	return nil
}

// pause gives the time until the next start.
func (s *server) pause() time.Duration {
	if !s.started.IsZero() && time.Since(s.started) > steady {
		s.wait = waitMin
	}
	wait := s.wait
	s.wait = min(2*s.wait, waitMax)
	return wait
}

// reap takes every dead child; ended when the server was among them. A server that somebody has stopped goes on.
func reap(child *server) (status syscall.WaitStatus, ended bool) {
	for {
		var one syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &one, syscall.WNOHANG|syscall.WUNTRACED, nil)
		if err == syscall.EINTR {
			continue
		}
		if err != nil || pid <= 0 {
			return status, ended
		}
		if one.Stopped() {
			if pid == child.pid {
				_ = syscall.Kill(pid, syscall.SIGCONT)
			}
			continue
		}
		if pid == child.pid {
			child.pid = 0
			status, ended = one, true
		}
	}
}

// childless reaps what is dead and tells whether anything is left.
func childless(child *server) bool {
	reap(child)
	var info unix.Siginfo
	return unix.Waitid(unix.P_ALL, 0, &info, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil) == unix.ECHILD
}

// stop ends everything and then the machine.
func stop(child *server, why os.Signal, signals <-chan os.Signal) error {
	if os.Getpid() != 1 {
		if child.pid != 0 {
			_ = syscall.Kill(child.pid, syscall.SIGTERM)
			_, err := syscall.Wait4(child.pid, nil, 0, nil)
			return err
		}
		return nil
	}
	log.Printf("%s: the machine stops", why)
	_ = syscall.Kill(-1, syscall.SIGTERM)
	patience := time.After(grace)
	for waiting := true; waiting; {
		select {
		case <-signals:
			waiting = !childless(child)
		case <-patience:
			waiting = false
		}
	}
	_ = syscall.Kill(-1, syscall.SIGKILL)
	unix.Sync()
	// Restart, not power-off: a microVM without ACPI cannot turn itself off, and its VMM ends at a reset.
	return unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
}

func describe(status syscall.WaitStatus) string {
	if status.Signaled() {
		return "signal: " + status.Signal().String()
	}
	return fmt.Sprintf("exit status %d", status.ExitStatus())
}
