package guest

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/wrenn-dev/wrenn/envd/internal/users"
)

// State is what /init gave this life of the guest. It is never changed, only replaced as a whole.
type State struct {
	AccessToken    string            `json:"accessToken"`
	Env            map[string]string `json:"envVars"`
	DefaultUser    string            `json:"defaultUser"`
	DefaultWorkdir string            `json:"defaultWorkdir"`
	SandboxID      string            `json:"sandboxId"`
	TemplateID     string            `json:"templateId"`
	LifecycleID    string            `json:"lifecycleId"`
	// False until the first /init: only /health and /init are served.
	Initialised bool `json:"initialised"`
}

// State is the current one; never nil, never to be modified.
func (g *Guest) State() *State { return g.state.Load() }

// save keeps the state for a restart of `envd serve` within the same boot; /run is memory, so nothing
// reaches the disk.
func (g *Guest) save(state *State) error {
	if !g.touch {
		return nil
	}
	data, err := json.Marshal(state)
	if err != nil {
		return err
	}
	path := filepath.Join(g.root, g.stateFile)
	err = writeAtomic(path, data, 0o600)
	if errors.Is(err, unix.ENOSPC) {
		// Every program may fill /run, by /run/lock; the pages of the old state can still be written.
		err = overwrite(path, string(data), 0o600)
	}
	return err
}

func (g *Guest) load() error {
	data, err := os.ReadFile(filepath.Join(g.root, g.stateFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	state := new(State)
	if err := json.Unmarshal(data, state); err != nil {
		return fmt.Errorf("%s: %w", g.stateFile, err)
	}
	g.state.Store(state)
	return nil
}

// User finds the user of a request; "" is the default one. It fails with users.ErrUnknown.
func (g *Guest) User(name string) (users.User, error) {
	fallback := name == "" && !g.touch
	if name == "" {
		name = g.State().DefaultUser
	}
	if name == "" && g.touch {
		name = DefaultUser
	}
	found, err := users.Lookup(name)
	if err != nil {
		if fallback {
			return users.Current()
		}
		return users.User{}, err
	}
	if os.Geteuid() != 0 {
		return users.Current()
	}
	return found, nil
}

// writeAtomic replaces a file so that a reader sees the old or the new content, never a part.
func writeAtomic(path string, data []byte, mode fs.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	temporary := path + ".new"
	err := os.WriteFile(temporary, data, mode)
	if err == nil {
		err = os.Rename(temporary, path)
	}
	if err != nil {
		_ = os.Remove(temporary)
	}
	return err
}
