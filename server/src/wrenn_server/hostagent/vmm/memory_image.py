"""Guest memory on disk: a complete `memory` file, and `changes` against it.

A VM restored from a template has private copies of what it wrote; everything else is the template's still. So its
snapshot is a hard link to the template's memory and the changes alone, and who restores it shares the template's
pages with everybody else. Works on the QEMU process from outside, by its memfd and its page tables; QEMU must be paused.
"""

import errno
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wrenn_server.hostagent.vmm.qemu_command import MEMORY
from wrenn_server.hostagent.vmm.template_memory import identity
from wrenn_server.linux import memory as pages
from wrenn_server.linux.files import copy_sparse, create

NAME, CHANGES = "memory", "changes"


@dataclass(slots=True)
class Base:
    """The memory file whose content a VM started with, held open. `close` it."""

    path: Path
    fd: int

    @classmethod
    def open(cls, path: Path) -> "Base":
        """:raises OSError:"""
        return cls(path, os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW))

    @classmethod
    def find(cls, record: Any) -> "Base | None":
        """What `record` described, if it is still there and still the same file."""
        try:
            base = cls.open(Path(record["path"]))
        except (OSError, KeyError, TypeError):
            return None
        if base.record() == record:
            return base
        base.close()
        return None

    def record(self) -> dict[str, Any]:
        return {"path": os.fspath(self.path), "file": list(identity(os.fstat(self.fd)))}

    def close(self) -> None:
        os.close(self.fd)


def write(pid: int, directory: Path, base: Base | None) -> list[str]:
    """Writes the memory of a paused QEMU, durably. Returns the names of the files. Blocks.

    :raises OSError: ENOSPC and such.
    """
    # QEMU keeps the inherited descriptor; through /proc it is there for an agent that was restarted, too.
    source = os.open(f"/proc/{pid}/fd/{MEMORY}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        inode = os.fstat(source).st_ino
        if base is not None and _link(base.fd, directory / NAME):
            target = create(directory / CHANGES)
            try:
                pages.dump(pid, inode, target)
                os.fsync(target)
            finally:
                os.close(target)
            return [NAME, CHANGES]
        target = create(directory / NAME)
        try:
            copy_sparse(source, target)
            pages.overlay(pid, inode, target)
            os.fchmod(target, 0o400)  # others will link to it
            os.fsync(target)
        finally:
            os.close(target)
        return [NAME]
    finally:
        os.close(source)


def apply(pid: int, snapshot: Path) -> None:
    """Brings the memory of a fresh QEMU, which has the content of `memory`, to the state of the snapshot. Blocks.

    :raises OSError: the changes are damaged.
    """
    inode = os.stat(f"/proc/{pid}/fd/{MEMORY}").st_ino
    source = os.open(snapshot / CHANGES, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        pages.apply(pid, inode, source)
    finally:
        os.close(source)


def needed(pid: int, directory: Path, memory_mb: int, base: Base | None) -> int:
    """Bytes of disk that `write` may take."""
    if base is not None and _linkable(os.fstat(base.fd), directory):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                return min(int(line.split()[1]) << 10, memory_mb << 20)
    return memory_mb << 20


def _linkable(file: os.stat_result, directory: Path) -> bool:
    return file.st_nlink > 0 and file.st_dev == os.stat(directory).st_dev


def _link(fd: int, path: Path) -> bool:
    # Through /proc, since the file may have lost the name that it was opened by; and with a directory, because only
    # then does Python use linkat(2), which can follow.
    descriptors = os.open("/proc/self/fd", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.link(str(fd), path, src_dir_fd=descriptors, follow_symlinks=True)
    except OSError as error:
        # Another file system, too many links, or the last name of the file is gone.
        if error.errno in {errno.EXDEV, errno.EMLINK, errno.ENOENT}:
            return False
        raise
    finally:
        os.close(descriptors)
    return True
