"""`wrenn down`: end the supervisor; with `--purge` remove every trace of this installation."""

import os
import shutil
import signal
from pathlib import Path

from wrenn_server.hostagent import leftovers
from wrenn_server.linux import daemon, forwarding
from wrenn_server.up import supervisor
from wrenn_server.up.settings import Settings
from wrenn_server.up.start import MARK


class CannotStop(Exception):
    """Refused; the message says why."""


async def stop(settings: Settings, *, kill: bool = False) -> bool:
    """Ends the supervisor, which pauses every sandbox first. `kill`: they are not worth pausing. False when nothing ran."""
    pid = supervisor.running_pid(settings.run_dir)
    if pid is None:
        return False
    os.kill(pid, supervisor.PURGE if kill else signal.SIGTERM)
    await daemon.wait(pid)
    await leftovers.remove_empty(settings.tag)
    return True


async def purge(settings: Settings) -> None:
    """Removes VMs, namespaces, rules, cgroups and files of a stopped installation, also of one that crashed.

    :raises CannotStop: the directory was not made by `wrenn up`."""
    if not settings.data_dir.exists():
        return
    if not (settings.data_dir / MARK).exists():
        raise CannotStop(
            f"{settings.data_dir} has no {MARK} file, so `wrenn up` did not make it; nothing was removed"
        )
    await leftovers.remove_all(settings.data_dir, settings.tag)
    forwarding.put_back(settings.run_dir / "ip_forward.before")
    remove_tree(settings.data_dir)


def remove_tree(directory: Path) -> None:
    if not shutil.rmtree.avoids_symlink_attacks:
        raise CannotStop("this Python cannot remove directories safely")
    shutil.rmtree(directory)
