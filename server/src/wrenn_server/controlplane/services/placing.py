"""Where a sandbox can go: the hosts that it fits on, the best first."""

import secrets
from collections.abc import AsyncGenerator, Sequence
from typing import Protocol

from wrenn_server.controlplane.context import ControlPlane
from wrenn_server.controlplane.hosts_client import Host
from wrenn_server.controlplane.scheduler import place
from wrenn_server.controlplane.scheduler.place import Saved, Wish
from wrenn_server.db import placement

CANDIDATES = 8
CANDIDATES_FOR_SAVED = 64
"""More, because which of them can go on with a certain memory is seen only when they are chosen from."""


class Wishing(Protocol):
    @property
    def team_id(self) -> str: ...
    @property
    def host_tags(self) -> Sequence[str]: ...
    @property
    def availability_zone(self) -> str | None: ...


class Demand(Wishing, Protocol):
    """A sandbox that looks for a host."""

    @property
    def vcpus(self) -> int: ...
    @property
    def memory_mb(self) -> int: ...
    @property
    def disk_mb(self) -> int: ...


def wish_of(demand: Wishing) -> Wish:
    return Wish(demand.team_id, frozenset(demand.host_tags), demand.availability_zone)


async def fitting(
    cp: ControlPlane,
    demand: Demand,
    *,
    image: str,
    tried: set[str],
    host_id: str | None = None,
    saved: Saved | None = None,
) -> AsyncGenerator[Host]:
    """Each is asked for when those before it had no room after all.

    :param tried: hosts that are out of the question; gets those that are given
    :param host_id: the only one that it may be
    :param saved: what it goes on from, in an object store"""
    candidates = await placement.choices(
        cp.db,
        image=image,
        host_id=host_id,
        store=saved.store if saved else None,
        team_id=demand.team_id,
        tags=demand.host_tags,
        availability_zone=demand.availability_zone,
        vcpus=demand.vcpus,
        memory_mb=demand.memory_mb,
        disk_mb=demand.disk_mb,
        room=cp.config.room,
        limit=CANDIDATES_FOR_SAVED if saved else CANDIDATES,
    )
    wish = wish_of(demand)
    while host := place.choose(
        candidates,
        vcpus=demand.vcpus,
        memory_mb=demand.memory_mb,
        disk_mb=demand.disk_mb,
        room=cp.config.room,
        wish=wish,
        chance=secrets.randbits(32),
        without=tried,
        saved=saved,
    ):
        tried.add(host.id)
        yield cp.host(host.id, host.address)
