package filesystem

import (
	"context"
	"crypto/rand"
	"sync"
	"time"

	pb "github.com/wrenn-dev/wrenn/envd/internal/pb/filesystem"
	"github.com/wrenn-dev/wrenn/envd/internal/watch"
)

// pollerIdle is how long a watcher is kept that nobody asks for its events: its client is gone without a word.
const pollerIdle = time.Hour

// pollers are the watchers made by CreateWatcher.
type pollers struct {
	idle time.Duration

	mu   sync.Mutex
	byID map[string]*poller
}

// poller is a watcher that waits to be asked.
type poller struct {
	open    openWatcher
	release func()
	expiry  *time.Timer

	mu      sync.Mutex
	watcher *watch.Watcher
	removed bool
}

func newPollers() *pollers { return &pollers{idle: pollerIdle, byID: map[string]*poller{}} }

func (p *pollers) add(one *poller) (id string) {
	// Not a number: after a restart of envd it would name another client's watcher.
	id = rand.Text()
	p.mu.Lock()
	defer p.mu.Unlock()
	one.expiry = time.AfterFunc(p.idle, func() { p.remove(id) })
	p.byID[id] = one
	return id
}

// find gives a poller for a call and lets it live on; nil when there is none.
func (p *pollers) find(id string) *poller {
	p.mu.Lock()
	defer p.mu.Unlock()
	found := p.byID[id]
	if found != nil {
		found.expiry.Reset(p.idle)
	}
	return found
}

func (p *pollers) remove(id string) bool {
	p.mu.Lock()
	found := p.byID[id]
	delete(p.byID, id)
	p.mu.Unlock()
	if found == nil {
		return false
	}
	found.expiry.Stop()
	found.mu.Lock()
	defer found.mu.Unlock()
	found.removed = true
	found.watcher.Close()
	found.release()
	return true
}

// poll gives the events since the last call. After a failure, which ends a watcher, a new one takes its place.
func (p *poller) poll(ctx context.Context) ([]*pb.FilesystemEvent, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	events, failed := p.watcher.Take()
	if failed == nil || p.removed {
		return events, nil
	}
	next, err := p.open(ctx)
	if err != nil {
		return nil, err // and again at the next call
	}
	p.watcher.Close()
	p.watcher = next
	return nil, watchError("", failed)
}
