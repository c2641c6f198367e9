"""The jail of one Firecracker: what is in it, how it is started, how it is taken apart.

The jail lies inside the VM's directory, `<directory>/<name of the binary>/<id>/root`; inside of it paths are the
same for all VMs, because a snapshot remembers them. What Firecracker only reads is a hard link to a file of root's,
which its uid can neither write nor chmod; never is the owner of a linked file changed, that would change it for everybody.
Once Firecracker runs, everything in the jail's root is hostile. Source: Firecracker docs/jailer.md.
"""

import errno
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from wrenn_server.hostagent.vmm.base import Place, VmmError
from wrenn_server.hostagent.vmm.running import empty
from wrenn_server.linux import mounts

KERNEL, INITRD, ROOT, OVERLAY = "/kernel", "/initrd", "/rootfs", "/overlay"
STATE_IN, MEMORY_IN, STATE_OUT, MEMORY_OUT = "/state", "/memory", "/state.new", "/memory.new"
LOG, API_SOCKET, PID_FILE = "/log", "/run/api.sock", "firecracker.pid"
_LINKED = (KERNEL, INITRD, ROOT, OVERLAY, STATE_IN, MEMORY_IN)
_PID_FILE_LIMIT = 32


@dataclass(frozen=True, slots=True)
class Jail:
    place: Place
    binary: Path
    """Firecracker's, without symbolic links."""

    @property
    def root(self) -> Path:
        return self.place.directory / self.binary.name / self.place.id / "root"

    def path(self, inside: str) -> Path:
        """Host path of a path inside the jail."""
        return self.root / inside.lstrip("/")

    def argv(self, jailer: Path, *, file_size: int) -> list[str]:
        """The jailer's command line. The jailer needs root and gives it up itself; the cgroup is joined before.

        :param file_size: bytes that Firecracker may give to a file (RLIMIT_FSIZE).
        """
        place = self.place
        # fmt: off
        return [
            os.fspath(jailer),
            "--id", place.id,
            "--exec-file", os.fspath(self.binary),
            "--uid", str(place.uid),
            "--gid", str(place.gid),
            "--chroot-base-dir", os.fspath(place.directory),
            "--netns", os.fspath(place.netns),
            "--new-pid-ns",
            "--resource-limit", f"fsize={file_size}",
            "--",
            "--api-sock", API_SOCKET,
            "--log-path", LOG,
            "--level", "Info",
        ]
        # fmt: on

    def make(self) -> None:
        """The empty jail with the directory of the API socket, so that it can be watched before the start."""
        self.path(API_SOCKET).parent.mkdir(parents=True, mode=0o700)

    def give(self, source: Path, inside: str, *, read_only: bool) -> None:
        """Puts a file of the host into the jail without copying it.

        :raises OSError: it does not exist, or can neither be linked nor mounted.
        """
        target = self.path(inside)
        try:
            os.link(source.resolve(), target)  # link(2) does not follow
        except OSError as error:
            if error.errno not in {errno.EXDEV, errno.EMLINK}:
                raise
            os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
            mounts.bind(source, target, read_only=read_only)

    def create(self, inside: str) -> int:
        """A new file in the jail that belongs to the VM's uid, opened for writing."""
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(self.path(inside), flags, 0o600)
        os.fchown(fd, self.place.uid, self.place.gid)
        return fd

    def take(self, inside: str, target: Path) -> None:
        """Moves a file that Firecracker wrote out of the jail and makes it root's, read-only.

        :raises VmmError: what lies there is not a plain file of the VM's alone.
        """
        source = self.path(inside)
        fd = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1 or found.st_uid != self.place.uid:
                raise VmmError(f"{self.place.id}: {inside} in the jail is not what Firecracker writes")
            os.fchown(fd, 0, 0)
            os.fchmod(fd, 0o444)
            os.rename(source, target)
            moved = os.lstat(target)
            if (moved.st_dev, moved.st_ino) != (found.st_dev, found.st_ino):
                target.unlink()
                raise VmmError(f"{self.place.id}: {inside} was exchanged while it was taken out of the jail")
            os.fsync(fd)
        finally:
            os.close(fd)

    def discard(self, inside: str) -> None:
        self.path(inside).unlink(missing_ok=True)

    def pid(self) -> int:
        """What the jailer wrote down before it ended: Firecracker's number on the host.

        :raises VmmError: nothing of the kind is there.
        """
        try:
            fd = os.open(self.root / PID_FILE, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                return int(os.read(fd, _PID_FILE_LIMIT))
            finally:
                os.close(fd)
        except (OSError, ValueError) as error:
            raise VmmError(f"{self.place.id}: the jailer left no {PID_FILE}: {error}") from error

    def remove(self) -> None:
        """Takes the jail apart; files that were only given stay where they came from. Firecracker must have ended."""
        for inside in _LINKED:
            mounts.unbind(self.path(inside))
        empty(self.place.directory)
