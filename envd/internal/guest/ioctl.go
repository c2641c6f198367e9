package guest

import (
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// of linux/random.h; x/sys knows only some of the family
const (
	rndAddEntropy = 0x40085203
	rndReseedCRNG = 0x5207
)

// ioctl calls the device with a pointer to argument, or without one when argument is empty.
func ioctl(device *os.File, request uintptr, argument []byte) error {
	var errno syscall.Errno
	if len(argument) == 0 {
		_, _, errno = unix.Syscall(unix.SYS_IOCTL, device.Fd(), request, 0)
	} else {
		_, _, errno = unix.Syscall(unix.SYS_IOCTL, device.Fd(), request, uintptr(unsafe.Pointer(&argument[0])))
	}
	if errno != 0 {
		return errno
	}
	return nil
}
