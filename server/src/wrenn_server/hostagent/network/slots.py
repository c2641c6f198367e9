"""The pool of prepared slots, and the removal of everything that one install put into the host's network."""

import asyncio
import contextlib
import ipaddress
import secrets
import socket
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path
from types import TracebackType
from typing import Self

import structlog

from wrenn_server.hostagent.network import plan, rules
from wrenn_server.hostagent.network.base import Slot
from wrenn_server.hostagent.network.connect import connect
from wrenn_server.hostagent.network.egress.enforcer import Enforcer, Surroundings
from wrenn_server.hostagent.network.egress.policy import OPEN, Policy, parse
from wrenn_server.hostagent.network.egress.resolver import RESOLV_CONF
from wrenn_server.hostagent.network.ranges import BLOCKED
from wrenn_server.linux.netlink import Netlink
from wrenn_server.linux.nft import Nft
from wrenn_server.linux.process import CommandFailed
from wrenn_server.model.errors import Internal, Unavailable
from wrenn_server.wire.agent import Network

READY = 16
"""Slots kept prepared. One takes 10 ms of processor time, which creates that come at once need for themselves."""
AT_LEAST = 4
"""Of those, as many as are prepared even while the host is busy."""
RETRY = 1.0
"""Seconds until the next try when a slot could not be prepared."""

log = structlog.get_logger()


async def at_once() -> None:
    """Of a host that is never busy."""


class Slots:
    """See `network.base.SlotPool`. An index, and with it a uid and an address range, is given out again only when
    everything of its last user is gone."""

    def __init__(
        self,
        *,
        tag: str,
        network: ipaddress.IPv4Network,
        uid_base: int,
        limit: int,
        ready: int = READY,
        rest: Callable[[], Awaitable[object]] = at_once,
        resolv_conf: Path = RESOLV_CONF,
        netlink: Netlink | None = None,
        nft: Nft | None = None,
    ) -> None:
        """:param limit: the most slots in use at one time
        :param rest: returns when the host is not busy
        :raises ValueError: the network has no room for so many"""
        room = plan.capacity(network)
        if limit > room:
            raise ValueError(f"{network} has room for {room} slots, not for {limit}")
        self._tag, self._network, self._uid_base, self._limit = tag, network, uid_base, limit
        self._target = min(ready, room - limit)
        self._rest = rest
        self._resolv_conf = resolv_conf
        self._netlink = netlink or Netlink()
        self._nft = nft or Nft()
        self._indices = range(limit + self._target)  # so the prepared ones never take the last user's place
        self._free = deque[int]()
        self._ready = deque[Slot]()
        self._used = set[int]()
        self._coming = 0
        """Acquired, but still being prepared."""
        self._policies = dict[int, Policy]()
        """What the rules in each namespace say, as far as we know it."""
        self._fresh = set[int]()
        """Slots that nobody has enforced yet."""
        self._releases = dict[int, asyncio.Task[None]]()
        self._taken: list[asyncio.Event] = []
        """One for each refiller."""
        self._refillers: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        if not await self._netlink.forwards():
            log.warning(
                "this host does not forward packets, so sandboxes have no internet access",
                action="network_check",
                hint="sysctl -w net.ipv4.ip_forward=1",
            )
        await _remove(self._tag, self._netlink, keep=self._used)
        await self._nft.apply(rules.host_ruleset(self._tag, self._network))
        self._free.extend(index for index in self._indices if index not in self._used)
        least = min(AT_LEAST, self._target)
        try:
            await self._fill(least, at_once)
        except BaseException:
            await self._drain()
            raise
        for target, turn in ((least, at_once), (self._target, self._rest)):
            self._taken.append(asyncio.Event())
            refilling = self._refill(target, turn, self._taken[-1])
            self._refillers.append(asyncio.create_task(refilling, name=f"keep {target} slots ready"))
        self._want()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for refiller in self._refillers:
            refiller.cancel()
        await asyncio.gather(*self._refillers, return_exceptions=True)
        await asyncio.gather(*self._releases.values(), return_exceptions=True)
        await self._drain()

    def adopt(self, index: int) -> Slot:
        if self._refillers:
            raise RuntimeError("slots are adopted before the pool is entered")
        self._used.add(index)
        return plan.slot(self._tag, self._uid_base, index)

    async def acquire(self) -> Slot:
        while len(self._used) - len(self._releases) + self._coming < self._limit:
            if self._ready:
                slot = self._ready.popleft()
            elif self._free:
                self._coming += 1
                try:
                    slot = await self._make(self._free.popleft())
                finally:
                    self._coming -= 1
            else:
                await asyncio.wait(self._releases.values(), return_when=asyncio.FIRST_COMPLETED)
                continue
            self._used.add(slot.index)
            self._want()
            return slot
        raise Unavailable(
            f"all {self._limit} slots of this host are in use",
            code="no_slots",
            hint="raise AGENT_SLOTS or add a host",
        )

    async def release(self, slot: Slot) -> None:
        if slot.index in self._used and slot.index not in self._releases:
            task = asyncio.create_task(self._release(slot), name=f"release {slot.name}")
            self._releases[slot.index] = task
        if task := self._releases.get(slot.index):
            await asyncio.shield(task)  # goes on when its caller is cancelled

    async def connect(self, slot: Slot, port: int, timeout: float) -> socket.socket:
        return await connect(lambda: self._netlink.tcp_socket(slot.netns), port, timeout)

    @contextlib.asynccontextmanager
    async def enforcing(self, slot: Slot, network: Network) -> AsyncGenerator[Enforcer]:
        policy = parse(network)
        around = Surroundings(
            enforce=lambda policy: self._enforce(slot, policy),
            tcp=lambda: self._netlink.tcp_socket(slot.netns),
            udp=lambda: self._netlink.udp_socket(slot.netns),
            blocked=(*BLOCKED, self._network),
            resolv_conf=self._resolv_conf,
        )
        async with Enforcer(around) as enforcer:
            await enforcer.replace(policy)
            self._fresh.discard(slot.index)
            yield enforcer

    async def _enforce(self, slot: Slot, policy: Policy) -> None:
        known = self._policies.pop(slot.index, None)  # nobody knows, should it be left half-way
        if known is None or not rules.alike(policy, known):
            try:
                await self._change(slot, policy)
            except (CommandFailed, OSError) as error:
                if known is not None:
                    self._policies[slot.index] = known
                raise Internal(
                    f"setting the network rules of {slot.name} failed; the old ones stay"
                ) from error
        self._policies[slot.index] = policy

    async def _change(self, slot: Slot, policy: Policy) -> None:
        change, namespace = secrets.token_hex(4), slot.netns
        if slot.index in self._fresh:  # no VM yet whose packets would need the second transaction
            await self._nft.apply(rules.prepared(policy, change) + rules.switched(change, []), namespace)
            return
        old = rules.of_changes(await self._nft.chains("ip", "wrenn", namespace))
        await self._nft.apply(rules.prepared(policy, change), namespace)
        await self._nft.apply(rules.switched(change, old), namespace)

    async def _release(self, slot: Slot) -> None:
        try:
            await self._netlink.delete([slot.name], [slot.veth])
            self._used.discard(slot.index)
            self._policies.pop(slot.index, None)
            self._fresh.discard(slot.index)
            if slot.index in self._indices:
                self._free.append(slot.index)
            self._want()
        finally:
            del self._releases[slot.index]

    def _want(self) -> None:
        for taken in self._taken:
            taken.set()

    async def _refill(self, target: int, turn: Callable[[], Awaitable[object]], taken: asyncio.Event) -> None:
        while True:
            await taken.wait()
            taken.clear()
            try:
                await self._fill(target, turn)
            except (OSError, CommandFailed):
                log.exception("a slot could not be prepared", action="slot_prepare")
                await asyncio.sleep(RETRY)
                taken.set()

    async def _fill(self, target: int, turn: Callable[[], Awaitable[object]]) -> None:
        while len(self._ready) < target and self._free:
            await turn()
            if len(self._ready) < target and self._free:
                self._ready.append(await self._make(self._free.popleft()))

    async def _make(self, index: int) -> Slot:
        slot = plan.slot(self._tag, self._uid_base, index)
        try:
            await self._netlink.create(plan.namespace(slot, self._network))
        except BaseException:
            with contextlib.suppress(OSError):
                await self._netlink.delete([slot.name], [slot.veth])
            self._free.append(index)
            raise
        self._policies[index] = OPEN
        self._fresh.add(index)
        return slot

    async def _drain(self) -> None:
        """What nobody uses goes; the host's table goes when nobody is left to need it."""
        slots, self._ready = list(self._ready), deque[Slot]()
        try:
            await self._netlink.delete([slot.name for slot in slots], [slot.veth for slot in slots])
        finally:
            if not self._used:
                await self._nft.delete_table("inet", rules.host_table_name(self._tag))


async def clean_up(tag: str, netlink: Netlink | None = None, nft: Nft | None = None) -> None:
    """Removes every namespace, cable and table that carries the tag. Idempotent; needs no pool and no journal.

    :raises OSError: the kernel refused; :raises CommandFailed: nft did"""
    netlink, nft = netlink or Netlink(), nft or Nft()
    try:
        await _remove(tag, netlink, keep=set())
    finally:
        if ("inet", rules.host_table_name(tag)) in await nft.tables():
            await nft.delete_table("inet", rules.host_table_name(tag))


async def _remove(tag: str, netlink: Netlink, *, keep: set[int]) -> None:
    def unwanted(found: list[str], prefix: str) -> list[str]:
        indices = ((name, name.removeprefix(prefix)) for name in found)
        return [name for name, index in indices if index.isdecimal() and int(index) not in keep]

    namespaces, cables = plan.namespace_prefix(tag), rules.veth_prefix(tag)
    names = unwanted(await netlink.names(namespaces), namespaces)
    links = unwanted(await netlink.links(cables), cables)
    if names or links:
        log.info("removing leftovers of an earlier run", action="network_clean", slots=len(names))
        await netlink.delete(names, links)
