"""Which host takes a sandbox. Pure: candidates in, one out."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from wrenn_server.db.hosts import Candidate, HostRow
from wrenn_server.db.sandboxes import Room

_EQUAL = 0.02
"""Hosts whose load differs by less than this are alike: then chance decides, so that many creates at one moment,
all with the same picture of the hosts, do not all go to the same one."""


@dataclass(frozen=True, slots=True)
class Saved:
    """What lies in an object store and is to go on somewhere."""

    store: str
    """Identity of the store."""
    machine: str
    """Of the host that wrote it, as `HostSpecs.machine`."""
    memory: bool
    """False: the disk alone, which boots on any machine of the same architecture."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What a sandbox asks of its host besides room."""

    team_id: str
    """Whose sandbox it is."""
    tags: frozenset[str] = frozenset()
    """That the host must have, all of them."""
    availability_zone: str | None = None
    """None: any."""


def allowed(candidates: Iterable[Candidate], team_id: str) -> list[Candidate]:
    """Those that a team's sandboxes may be on: its own alone, if it has any, or else those for everybody. Another team's
    never."""
    known = list(candidates)
    return [host for host in known if host.team_id == team_id] or [
        host for host in known if host.team_id is None
    ]


def suits(host: Candidate | HostRow, wish: Wish) -> bool:
    """Whether it has the tags, and is in the zone."""
    return wish.tags.issubset(host.tags) and wish.availability_zone in (None, host.availability_zone)


def can_go_on(host: Candidate, saved: Saved) -> bool:
    """Whether what was saved elsewhere can be fetched by a host, and goes on there."""
    if not saved.store or host.store != saved.store:
        return False
    if saved.memory:
        return bool(saved.machine) and host.machine == saved.machine
    return _architecture(host.machine) == _architecture(saved.machine) != ""


def choose(
    candidates: Iterable[Candidate],
    *,
    vcpus: int,
    memory_mb: int,
    disk_mb: int,
    room: Room,
    wish: Wish,
    chance: int,
    without: Collection[str] = (),
    saved: Saved | None = None,
) -> Candidate | None:
    """The host that is least loaded once the sandbox is on it; None when it fits nowhere. Hosts that have the image go
    before those that would have to fetch it.

    :param chance: any number, e.g. random; decides between hosts that are alike
    :param without: ids of hosts that were tried already
    :param saved: what it goes on from, in an object store
    """
    loads = [
        (load_with(host, vcpus, memory_mb, disk_mb, room), host)
        for host in allowed(candidates, wish.team_id)
        if host.id not in without
        and not host.draining
        and suits(host, wish)
        and (saved is None or can_go_on(host, saved))
    ]
    fitting = [(load, host) for load, host in loads if load <= 1]
    fitting = [(load, host) for load, host in fitting if host.has_image] or fitting
    if not fitting:
        return None
    least = min(load for load, _ in fitting)
    alike = sorted((host for load, host in fitting if load <= least + _EQUAL), key=lambda host: host.id)
    return alike[chance % len(alike)]


def load_with(host: Candidate, vcpus: int, memory_mb: int, disk_mb: int, room: Room) -> float:
    """What would be promised of the scarcest thing, as a share of what may be promised; above 1: does not fit."""
    return max(
        _share(host.cpus_reserved + vcpus, host.cpus * room.cpus),
        _share(host.memory_mb_reserved + memory_mb, host.memory_mb * room.memory),
        _share(host.disk_mb_reserved + disk_mb, host.disk_mb * room.disk),
    )


def _architecture(machine: str) -> str:
    return machine.partition("/")[0]


def _share(promised: float, limit: float) -> float:
    return promised / limit if limit > 0 else float("inf")
