package guest

import (
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

const rehearsalFile = "run/envd/rehearsal.json"

// Rehearsal is the same machine with a state of its own.
type Rehearsal struct {
	*Guest
}

// Rehearsal gives a guest whose /init and programs do to the machine what those of g would do, and change nothing of
// g. The caller ends it.
func (g *Guest) Rehearsal() Rehearsal {
	stage := &Guest{
		touch: g.touch, root: g.root, stateFile: rehearsalFile, cgroups: g.cgroups, oom: g.oom, kernel: g.kernel,
	}
	stage.state.Store(&State{})
	if g.touch {
		// Opened for writing, the file is copied into the overlay; it stays empty, for no copy shall share an id.
		file, err := os.OpenFile(filepath.Join(g.root, "etc/machine-id"), os.O_WRONLY, 0)
		if err == nil {
			_ = file.Close()
		}
	}
	return Rehearsal{stage}
}

// End removes what a rehearsal has left, and leaves nothing for the kernel to write when a copy begins to live.
func (r Rehearsal) End() {
	if r.touch {
		_ = os.Remove(filepath.Join(r.root, r.stateFile))
		unix.Sync()
	}
}
