package guest

import (
	"fmt"
	"log"
	"os"
	"sync"
)

// The kernel never picks envd (-1000) and prefers any user program (100).
const (
	envdScore  = "-1000"
	childScore = "100"
)

// oomGuard keeps envd out of the kernel's reach when memory runs out, but not its children.
//
// A child inherits the value at fork. Writing it into the child after the fork is a race: the child may have
// forked already, and the grandchild would be unkillable for ever. So envd lowers its own guard for the fork;
// Go's fork returns after the child's exec, when the two share no memory any more.
type oomGuard struct {
	mu   sync.Mutex
	file *os.File
}

func openOOMGuard() (*oomGuard, error) {
	file, err := os.OpenFile("/proc/self/oom_score_adj", os.O_WRONLY, 0)
	if err != nil {
		return nil, err
	}
	if _, err := file.WriteAt([]byte(envdScore), 0); err != nil {
		_ = file.Close()
		return nil, fmt.Errorf("oom_score_adj: %w", err)
	}
	return &oomGuard{file: file}, nil
}

func (g *oomGuard) spawn(start func() error) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if _, err := g.file.WriteAt([]byte(childScore), 0); err != nil {
		return fmt.Errorf("oom_score_adj: %w", err)
	}
	defer func() {
		if _, err := g.file.WriteAt([]byte(envdScore), 0); err != nil {
			log.Printf("oom_score_adj: %v", err)
		}
	}()
	return start()
}
