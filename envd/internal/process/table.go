package process

import (
	"cmp"
	"maps"
	"slices"
	"sync"
	"time"

	pb "github.com/wrenn-dev/wrenn/envd/internal/pb/process"
)

const (
	// how long an ended program can still be connected to
	remember = 30 * time.Second
	// how many of them, so that a loop of short programs does not fill the guest's memory
	rememberMax = 2048
)

// table finds programs by pid or tag: the running ones and those that ended a short while ago.
type table struct {
	ending sync.Mutex // held by turn

	mu      sync.Mutex
	running map[*process]struct{}
	ended   []ended // the latest last
	expiry  *time.Timer
	count   int // of all starts
	// when one last ran, and when somebody was last attached to one with a terminal
	lastCommand, lastTerminal time.Time
}

type ended struct {
	*process
	at time.Time
}

func newTable() *table { return &table{running: map[*process]struct{}{}} }

func (t *table) add(p *process) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.count++
	p.order = t.count
	t.running[p] = struct{}{}
}

// turn does one piece of some program's end at a time, of those that do not wait for anybody: when a thousand programs
// end at once, requests get their turns between them.
func (t *table) turn(work func()) {
	t.ending.Lock()
	defer t.ending.Unlock()
	work()
}

func (t *table) retire(p *process) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.running, p)
	p.config = nil
	t.lastCommand = time.Now()
	t.ended = append(t.ended, ended{p, time.Now()})
	t.forget()
}

// forget drops what is too old and sets a timer for the next; none runs when nothing is remembered.
func (t *table) forget() {
	if t.expiry != nil {
		t.expiry.Stop()
	}
	for len(t.ended) > 0 {
		age := time.Since(t.ended[0].at)
		if age < remember && len(t.ended) <= rememberMax {
			t.expiry = time.AfterFunc(remember-age, func() {
				t.mu.Lock()
				defer t.mu.Unlock()
				t.forget()
			})
			return
		}
		t.ended[0] = ended{}
		t.ended = t.ended[1:]
	}
}

// find gives the newest program that the selector names; nil when there is none. Running ones come first.
func (t *table) find(selector *pb.ProcessSelector, endedToo bool) *process {
	t.mu.Lock()
	defer t.mu.Unlock()
	var found *process
	for p := range t.running {
		if selects(selector, p) && (found == nil || p.order > found.order) {
			found = p
		}
	}
	if found != nil || !endedToo {
		return found
	}
	for i := len(t.ended) - 1; i >= 0; i-- {
		if selects(selector, t.ended[i].process) {
			return t.ended[i].process
		}
	}
	return nil
}

func selects(selector *pb.ProcessSelector, p *process) bool {
	switch by := selector.GetSelector().(type) {
	case *pb.ProcessSelector_Pid:
		return by.Pid == uint32(p.pid)
	case *pb.ProcessSelector_Tag:
		return p.tag != nil && *p.tag == by.Tag
	}
	return false
}

// list gives what is running, in the order of its start.
func (t *table) list() []*pb.ProcessInfo {
	t.mu.Lock()
	defer t.mu.Unlock()
	processes := slices.SortedFunc(maps.Keys(t.running), func(a, b *process) int {
		return cmp.Compare(a.order, b.order)
	})
	infos := make([]*pb.ProcessInfo, 0, len(processes))
	for _, p := range processes {
		infos = append(infos, &pb.ProcessInfo{Config: p.config, Pid: uint32(p.pid), Tag: p.tag})
	}
	return infos
}
