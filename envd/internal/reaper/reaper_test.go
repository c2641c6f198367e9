package reaper

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestMain lets the test binary be PID 1: Run with the rest of its arguments.
func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[1] == "as-init" {
		if err := Run(os.Args[2], os.Args[2:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// machine is a PID namespace with the reaper as its PID 1 and script as its server.
type machine struct {
	t      *testing.T
	cmd    *exec.Cmd
	input  io.Writer
	output *bufio.Scanner
	errors *strings.Builder
}

func boot(t *testing.T, script string) *machine {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	m := &machine{t: t, errors: &strings.Builder{}}
	m.cmd = exec.Command(self, "as-init", "/bin/sh", "-c", script)
	m.cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID}
	m.cmd.Stderr = m.errors
	m.cmd.WaitDelay = 10 * time.Second
	out, err := m.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if m.input, err = m.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := m.cmd.Start(); err != nil {
		t.Skipf("a PID namespace needs root: %v", err)
	}
	t.Cleanup(func() {
		_ = m.cmd.Process.Kill()
		_ = m.cmd.Wait()
	})
	m.output = bufio.NewScanner(out)
	return m
}

func (m *machine) line() string {
	m.t.Helper()
	if !m.output.Scan() {
		m.t.Fatalf("no more output: %v\n%s", m.output.Err(), m.errors)
	}
	return m.output.Text()
}

func TestServerIsStartedAgain(t *testing.T) {
	m := boot(t, `echo $$; kill -9 $$`)
	if first, second := m.line(), m.line(); first == second || first == "" {
		t.Errorf("the servers are %q and %q", first, second)
	}
}

func TestStoppedServerGoesOn(t *testing.T) {
	m := boot(t, `echo ready; read line; echo $line; sleep 60`)
	m.line()
	out, err := exec.Command("pgrep", "-P", fmt.Sprint(m.cmd.Process.Pid)).Output()
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(out)))
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := io.WriteString(m.input, "goes on\n"); err != nil {
		t.Fatal(err)
	}
	if got := m.line(); got != "goes on" {
		t.Errorf("got %q", got)
	}
}

func TestOrphansAreReaped(t *testing.T) {
	// The orphan's parent is gone at once; the server waits until nothing of the orphan is left, zombie included.
	m := boot(t, `orphan=$(sh -c 'sleep 0.1 >/dev/null & echo $!'); while kill -0 $orphan 2>/dev/null; do sleep 0.02; done
		echo reaped; sleep 60`)
	if got := m.line(); got != "reaped" {
		t.Errorf("got %q", got)
	}
}

func TestStopEndsTheMachine(t *testing.T) {
	m := boot(t, `trap 'echo server stops; exit' TERM; (trap '' TERM; echo ready; sleep 60) & while :; do sleep 0.02; done`)
	m.line()
	began := time.Now()
	if err := m.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if got := m.line(); got != "server stops" {
		t.Errorf("got %q", got)
	}
	// A PID namespace is told to restart by SIGHUP to its PID 1 (reboot(2)).
	err := m.cmd.Wait()
	if status, ok := m.cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || status.Signal() != syscall.SIGHUP {
		t.Errorf("PID 1 ended with %v: %s", err, m.errors)
	}
	if took := time.Since(began); took < grace || took > grace+5*time.Second {
		t.Errorf("it took %v although a program ignores SIGTERM", took)
	}
}

func TestPauseGrows(t *testing.T) {
	s := &server{wait: waitMin, started: time.Now()}
	var got []time.Duration
	for range 9 {
		got = append(got, s.pause())
	}
	if got[0] != waitMin || got[1] != 2*waitMin || got[8] != waitMax {
		t.Errorf("got %v", got)
	}
	s.started = time.Now().Add(-2 * steady)
	if again := s.pause(); again != waitMin {
		t.Errorf("after a steady run: %v", again)
	}
}
