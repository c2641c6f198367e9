package guest

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const bootID = "proc/sys/kernel/random/boot_id"

// kernel is the part of the identity that only system calls reach.
type kernel interface {
	addEntropy(seed []byte) error
	setClock(now time.Time) error
	setHostname(name string) error
	// bind shows source in the place of target
	bind(source, target string) error
	makeHostKey(kind, path string) error
	reload(pid int, name string)
}

// become gives this clone its own random numbers, time and names, and tells which. Random numbers come first: the
// boot id below is drawn from them.
func (g *Guest) become(who identity) (renewed []string, err error) {
	another := g.isAnother(who.machineID)
	for _, step := range []struct {
		name  string
		asked bool
		do    func() error
	}{
		{"random", len(who.entropy) > 0, func() error { return g.kernel.addEntropy(who.entropy) }},
		{"clock", !who.now.IsZero(), func() error { return g.kernel.setClock(who.now) }},
		{"hostname", who.hostname != "", func() error { return g.rename(who.hostname) }},
		{"machine_id", who.machineID != "", func() error {
			return overwrite(filepath.Join(g.root, "etc/machine-id"), who.machineID+"\n", 0o644)
		}},
		{"boot_id", true, g.renewBootID},
	} {
		if !step.asked {
			continue
		}
		if err := step.do(); err != nil {
			return nil, fmt.Errorf("%s: %w", step.name, err)
		}
		renewed = append(renewed, step.name)
	}
	if another {
		if kinds := g.hostKeys(); len(kinds) > 0 && g.renewHostKeys(kinds) {
			renewed = append(renewed, "ssh_host_keys")
		}
	}
	return renewed, nil
}

func (g *Guest) rename(name string) error {
	if err := g.kernel.setHostname(name); err != nil {
		return err
	}
	if err := overwrite(filepath.Join(g.root, "etc/hostname"), name+"\n", 0o644); err != nil {
		return err
	}
	path := filepath.Join(g.root, "etc/hosts")
	old, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return overwrite(path, hostsWith(string(old), name), 0o644)
}

// hostsWith gives /etc/hosts with name at Debian's address for the machine's own name.
func hostsWith(old, name string) string {
	var lines []string
	localhost := false
	for line := range strings.Lines(old) {
		fields := strings.Fields(line)
		if len(fields) > 0 && fields[0] == "127.0.1.1" {
			continue
		}
		localhost = localhost || len(fields) > 1 && fields[0] == "127.0.0.1"
		lines = append(lines, strings.TrimRight(line, "\n"))
	}
	if !localhost {
		lines = append([]string{"127.0.0.1\tlocalhost"}, lines...)
	}
	return strings.Join(append(lines, "127.0.1.1\t"+name), "\n") + "\n"
}

// renewBootID shows a fresh value in place of the kernel's, which all clones of one boot share.
func (g *Guest) renewBootID() error {
	var raw [16]byte
	if _, err := rand.Read(raw[:]); err != nil {
		return err
	}
	raw[6], raw[8] = raw[6]&0x0f|0x40, raw[8]&0x3f|0x80 // RFC 4122, version 4
	id := fmt.Sprintf("%x-%x-%x-%x-%x\n", raw[:4], raw[4:6], raw[6:8], raw[8:10], raw[10:])
	source := filepath.Join(g.root, "run/envd/boot_id")
	_, err := os.Stat(source)
	bound := err == nil
	// In place: once bound, the file's inode is what readers see.
	if err := overwrite(source, id, 0o644); err != nil {
		return err
	}
	if bound {
		return nil
	}
	if err := g.kernel.bind(source, filepath.Join(g.root, bootID)); err != nil {
		return errors.Join(err, os.Remove(source))
	}
	return nil
}

// overwrite writes a small file in place: it may be bind-mounted, so it cannot be renamed over. Nothing is cut off
// before it is written: giving blocks back and taking them again is most of what it costs.
func overwrite(path, content string, mode fs.FileMode) error {
	flags := os.O_WRONLY | os.O_CREATE
	file, err := os.OpenFile(path, flags, mode)
	if errors.Is(err, fs.ErrNotExist) {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		file, err = os.OpenFile(path, flags, mode)
	}
	if err != nil {
		return err
	}
	_, err = file.WriteString(content)
	if info, failed := file.Stat(); err == nil && failed == nil && info.Size() > int64(len(content)) {
		err = file.Truncate(int64(len(content)))
	}
	return errors.Join(err, file.Close())
}

type linuxKernel struct{}

// addEntropy credits seed to the kernel's pool and makes its generator use it at once (random(4)).
func (linuxKernel) addEntropy(seed []byte) error {
	device, err := os.OpenFile("/dev/urandom", os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer device.Close()
	// struct rand_pool_info: entropy in bits, size in bytes, the bytes
	info := make([]byte, 8, 8+len(seed))
	binary.NativeEndian.PutUint32(info[0:], uint32(8*len(seed)))
	binary.NativeEndian.PutUint32(info[4:], uint32(len(seed)))
	info = append(info, seed...)
	if err := ioctl(device, rndAddEntropy, info); err != nil {
		return fmt.Errorf("RNDADDENTROPY: %w", err)
	}
	if err := ioctl(device, rndReseedCRNG, nil); err != nil {
		return fmt.Errorf("RNDRESEEDCRNG: %w", err)
	}
	return nil
}

func (linuxKernel) setClock(now time.Time) error {
	spec := unix.NsecToTimespec(now.UnixNano())
	return unix.ClockSettime(unix.CLOCK_REALTIME, &spec)
}

func (linuxKernel) setHostname(name string) error { return unix.Sethostname([]byte(name)) }

func (linuxKernel) bind(source, target string) error {
	return unix.Mount(source, target, "", unix.MS_BIND, "")
}
