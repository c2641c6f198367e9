package process

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// size of a terminal in characters.
type size struct{ cols, rows uint16 }

// terminal makes a pseudo terminal: envd's side, pollable so that reads can have deadlines, and the program's,
// a plain descriptor that belongs to uid.
func terminal(uid int, wanted size) (master *os.File, slave int, err error) {
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, -1, fmt.Errorf("/dev/ptmx: %w", err)
	}
	master = os.NewFile(uintptr(fd), "/dev/ptmx")
	slave = -1
	defer func() {
		if err != nil {
			err = errors.Join(err, master.Close())
			if slave >= 0 {
				_ = unix.Close(slave)
			}
		}
	}()
	if err = unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		return nil, -1, fmt.Errorf("TIOCSPTLCK: %w", err)
	}
	number, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		return nil, -1, fmt.Errorf("TIOCGPTN: %w", err)
	}
	name := fmt.Sprintf("/dev/pts/%d", number)
	if slave, err = unix.Open(name, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0); err != nil {
		return nil, -1, fmt.Errorf("%s: %w", name, err)
	}
	// so that the program may open its terminal by name
	if err = unix.Fchown(slave, uid, -1); err != nil {
		return nil, -1, fmt.Errorf("%s: %w", name, err)
	}
	return master, slave, resize(master, wanted)
}

// resize tells the program by SIGWINCH. Not by the file's Fd(): that would make it blocking.
func resize(master *os.File, to size) error {
	raw, err := master.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = raw.Control(func(fd uintptr) {
		failed = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: to.rows, Col: to.cols})
	})
	return errors.Join(err, failed)
}
