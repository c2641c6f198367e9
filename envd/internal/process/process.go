package process

import (
	"context"
	"fmt"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/wrenn-dev/wrenn/envd/internal/guest"
	pb "github.com/wrenn-dev/wrenn/envd/internal/pb/process"
)

const killWait = 2 * time.Second

// process is a program from its start to its end event.
//
//	running ── leader exits ──► draining ── output closed or quiet ──► ended (done is closed)
type process struct {
	pid    int
	order  int // of its start among all
	tag    *string
	config *pb.ProcessConfig
	hub    hub
	gone   chan struct{}             // the leader has been reaped
	done   chan struct{}             // all output has been handed over
	end    *pb.ProcessEvent_EndEvent // set before done is closed

	streams
	exit     *os.File
	leaf     *guest.Leaf
	cgroups  *guest.Cgroups
	oomKills int64 // of all programs, when this one started
	deadline *time.Timer

	mu      sync.Mutex
	reaped  bool // the pid may belong to somebody else now
	killed  bool // by envd
	expired bool // killed at its deadline
}

// start runs cmd and hands back its first subscriber, which misses nothing. lifetime 0 has no end.
func (t *table) start(machine *guest.Guest, cmd *command, request *pb.StartRequest, lifetime time.Duration,
) (*process, *subscriber, error) {
	p := &process{
		tag:     request.Tag,
		config:  request.GetProcess(),
		gone:    make(chan struct{}),
		done:    make(chan struct{}),
		cgroups: machine.Cgroups(),
	}
	if p.cgroups != nil {
		p.oomKills = p.cgroups.OOMKills()
	}
	if cmd.size != nil {
		p.hub.scroll = &scrollback{}
	}
	first := p.hub.subscribe()
	spawned, err := spawn(machine, cmd)
	if err != nil {
		return nil, nil, err
	}
	p.pid, p.streams, p.exit, p.leaf = spawned.pid, spawned.streams, spawned.exit, spawned.leaf
	if lifetime > 0 {
		p.deadline = time.AfterFunc(lifetime, p.expire)
	}
	t.add(p)
	go p.run(t)
	return p, first, nil
}

// run follows the program to its end and takes it out of the table.
func (p *process) run(t *table) {
	var copying sync.WaitGroup
	for _, out := range p.outputs {
		copying.Add(1)
		go func() {
			open := out.copyTo(&p.hub)
			copying.Done()
			if open && p.tty == nil {
				out.discard()
				return
			}
			t.turn(func() { _ = out.file.Close() })
		}()
	}
	status := p.wait()
	close(p.gone)
	if p.tty == nil {
		p.input.close()
	}
	for _, out := range p.outputs {
		out.leaderExited()
	}
	copying.Wait()
	if p.deadline != nil {
		p.deadline.Stop()
	}
	t.turn(func() { p.finish(t, status) })
}

// finish tells the end.
func (p *process) finish(t *table, status syscall.WaitStatus) {
	p.end = p.endEvent(status)
	// Before the end event: whoever sees it shall find the cgroup gone.
	if p.leaf != nil {
		p.mu.Lock()
		p.leaf.Release()
		p.leaf = nil
		p.mu.Unlock()
	}
	// Before the end event as well: who has seen it shall not find the program in the list.
	t.retire(p)
	close(p.done)
	p.hub.finish(&pb.ProcessEvent{Event: &pb.ProcessEvent_End{End: p.end}})
}

// wait reaps the leader. A pidfd is readable once the process has exited.
func (p *process) wait() syscall.WaitStatus {
	var status syscall.WaitStatus
	reap := func() bool {
		p.mu.Lock() // no signal may go to the pid once it is free
		defer p.mu.Unlock()
		pid, err := syscall.Wait4(p.pid, &status, syscall.WNOHANG, nil)
		p.reaped = pid == p.pid || err != nil
		return p.reaped
	}
	raw, err := p.exit.SyscallConn()
	if err == nil {
		err = raw.Read(func(uintptr) bool { return reap() })
	}
	_ = p.exit.Close()
	for err != nil && !reap() { // a kernel without pollable pidfds: a thread has to wait
		_ = unix.Waitid(unix.P_PID, p.pid, nil, unix.WEXITED|unix.WNOWAIT, nil)
	}
	return status
}

// endEvent says how the program ended, in Go's words as clients know them. A failure has an error, as E2B's SDKs show
// it: the status again, unless we know more.
func (p *process) endEvent(status syscall.WaitStatus) *pb.ProcessEvent_EndEvent {
	p.mu.Lock()
	killed, expired := p.killed, p.expired
	p.mu.Unlock()
	end := endStatus(status)
	var reason string
	switch {
	case expired:
		reason = "deadline_exceeded: the process reached the end of its lifetime"
	case !killed && p.cgroups != nil && wasKilled(status) && p.cgroups.OOMKills() > p.oomKills:
		reason = fmt.Sprintf("oom_killed: the sandbox ran out of memory (%d MiB for all its processes)",
			p.cgroups.Limit()>>20)
	case end.ExitCode != 0:
		reason = end.Status
	default:
		return end
	}
	end.Error = &reason
	return end
}

func endStatus(status syscall.WaitStatus) *pb.ProcessEvent_EndEvent {
	if status.Signaled() {
		text := "signal: " + status.Signal().String()
		if status.CoreDump() {
			text += " (core dumped)"
		}
		return &pb.ProcessEvent_EndEvent{ExitCode: -1, Status: text}
	}
	code := status.ExitStatus()
	return &pb.ProcessEvent_EndEvent{ExitCode: int32(code), Exited: true, Status: fmt.Sprintf("exit status %d", code)}
}

// wasKilled tells SIGKILL of the leader, or of what a shell ran for it (128 + 9).
func wasKilled(status syscall.WaitStatus) bool {
	return status.Signaled() && status.Signal() == syscall.SIGKILL || status.ExitStatus() == 128+9
}

// signal reaches the whole process group; false when the program has ended.
func (p *process) signal(number syscall.Signal) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.done:
		return false
	default:
	}
	if number == syscall.SIGKILL {
		p.killed = true
		if p.leaf != nil {
			_ = p.leaf.Kill()
		}
	}
	if !p.reaped {
		_ = syscall.Kill(-p.pid, number)
	}
	return true
}

// waitGone returns when a killed program's leader is gone, or after a while if the kernel does not let go of it.
func (p *process) waitGone(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, killWait)
	defer cancel()
	select {
	case <-p.gone:
	case <-ctx.Done():
	}
}

// expire is the end of the program's lifetime.
func (p *process) expire() {
	p.mu.Lock()
	p.expired = true
	p.mu.Unlock()
	p.signal(syscall.SIGKILL)
}

func (p *process) isExpired() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.expired
}
