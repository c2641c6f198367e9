package guest

import (
	"context"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	sshDir = "etc/ssh"
	sshPID = "run/sshd.pid"
	// slowKey takes an emulated guest 10 s to make, the others a tenth of a second.
	slowKey        = "rsa"
	keygenPatience = time.Minute
)

var hostKey = regexp.MustCompile(`^ssh_host_(rsa|ecdsa|ed25519)_key$`)

// hostKeys lists the kinds of keys by which an ssh server proves that it is this machine; none where there is no server.
func (g *Guest) hostKeys() (kinds []string) {
	entries, err := os.ReadDir(filepath.Join(g.root, sshDir))
	if err != nil {
		return nil
	}
	for _, entry := range entries {
		if match := hostKey.FindStringSubmatch(entry.Name()); match != nil {
			kinds = append(kinds, match[1])
		}
	}
	return kinds
}

// isAnother says that the guest is to be another machine than it was, not the same one in its next life.
func (g *Guest) isAnother(machineID string) bool {
	known, err := os.ReadFile(filepath.Join(g.root, "etc/machine-id"))
	return machineID != "" && (err != nil || strings.TrimSpace(string(known)) != machineID)
}

// renewHostKeys replaces the keys that this machine has in common with what it was copied from. They go in any case, and
// a server without keys lets nobody in; renewed says that there are others now, but for a slow one, which follows.
func (g *Guest) renewHostKeys(kinds []string) (renewed bool) {
	for _, kind := range kinds {
		path := g.hostKeyFile(kind)
		for _, name := range []string{path, path + ".pub", path + "-cert.pub"} {
			if err := os.Remove(name); err != nil && !os.IsNotExist(err) {
				log.Printf("ssh host keys: %v", err)
				return false
			}
		}
	}
	quick := slices.DeleteFunc(slices.Clone(kinds), func(kind string) bool { return kind == slowKey })
	renewed = g.makeHostKeys(quick)
	if slices.Contains(kinds, slowKey) {
		go g.makeHostKeys([]string{slowKey})
	}
	return renewed
}

func (g *Guest) hostKeyFile(kind string) string {
	return filepath.Join(g.root, sshDir, "ssh_host_"+kind+"_key")
}

// makeHostKeys makes them and tells a server that runs.
func (g *Guest) makeHostKeys(kinds []string) bool {
	all := true
	for _, kind := range kinds {
		if err := g.kernel.makeHostKey(kind, g.hostKeyFile(kind)); err != nil {
			log.Printf("ssh host keys: %s: %v", kind, err)
			all = false
		}
	}
	if text, err := os.ReadFile(filepath.Join(g.root, sshPID)); err == nil {
		if pid, err := strconv.Atoi(strings.TrimSpace(string(text))); err == nil && pid > 1 {
			g.kernel.reload(pid, "sshd")
		}
	}
	return all
}

func (linuxKernel) makeHostKey(kind, path string) error {
	ctx, cancel := context.WithTimeout(context.Background(), keygenPatience)
	defer cancel()
	return exec.CommandContext(ctx, "ssh-keygen", "-q", "-t", kind, "-N", "", "-f", path).Run()
}

// reload has a server read its files again, if the process is still the one that is meant.
func (linuxKernel) reload(pid int, name string) {
	comm, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "comm"))
	if err == nil && strings.TrimSpace(string(comm)) == name {
		_ = unix.Kill(pid, unix.SIGHUP)
	}
}
