"""The policy of one sandbox, kept in force while its VM runs under this agent."""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import Path
from types import TracebackType
from typing import Self

from wrenn_server.hostagent.network import rules
from wrenn_server.hostagent.network.base import GATEWAY_ADDRESS
from wrenn_server.hostagent.network.egress.given import Given
from wrenn_server.hostagent.network.egress.policy import OPEN, Policy, parse
from wrenn_server.hostagent.network.egress.proxy import Proxy
from wrenn_server.hostagent.network.egress.resolver import MakeSocket, Resolver
from wrenn_server.hostagent.network.egress.responder import Responder
from wrenn_server.model.errors import Internal
from wrenn_server.wire.agent import Network

BACKLOG = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """Of one slot, for its enforcer."""

    enforce: Callable[[Policy], Awaitable[None]]
    """Puts a policy into the kernel, all of it or nothing; raises Internal."""
    tcp: MakeSocket
    udp: MakeSocket
    """Make sockets inside the namespace."""
    blocked: Sequence[IPv4Network]
    resolv_conf: Path
    """Names the host's resolvers."""


class Enforcer:
    """See `network.base.Egress`. The kernel judges addresses; a resolver and a proxy judge names, made when the first
    policy comes that needs them."""

    def __init__(self, around: Surroundings) -> None:
        self._around = around
        self._policy = OPEN
        self._proxy: Proxy | None = None
        self._turn = asyncio.Lock()
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        async with self._turn:
            await self._stack.aclose()

    async def apply(self, network: Network) -> None:
        policy = parse(network)
        task = asyncio.create_task(self.replace(policy), name="replace network rules")
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            await asyncio.wait([task])  # half of a change would be neither policy
            task.exception()  # nobody is left to hear it
            raise

    async def replace(self, policy: Policy) -> None:
        """:raises Internal: the kernel refused"""
        async with self._turn:
            if policy.resolves and self._proxy is None:
                try:
                    self._proxy = await self._serve()
                except OSError as error:
                    raise Internal("the resolver and the proxy of a sandbox cannot be started") from error
            await self._around.enforce(policy)
            self._policy = policy
            if self._proxy is not None:
                await self._proxy.cut()

    async def _serve(self) -> Proxy:
        """Before any packet is sent there: what nobody serves is refused."""
        around, given = self._around, Given()
        resolver = Resolver(around.tcp, around.udp, around.blocked, around.resolv_conf)
        responder = Responder(lambda: self._policy, resolver, given)
        proxy = Proxy(lambda: self._policy, resolver, given, around.tcp)
        async with AsyncExitStack() as stack:
            questions = stack.enter_context(await around.udp())
            questions.bind((GATEWAY_ADDRESS, rules.DNS_PORT))
            longer = stack.enter_context(await around.tcp())
            _listen(longer, rules.DNS_PORT)
            web = stack.enter_context(await around.tcp())
            _listen(web, rules.PROXY_PORT)
            await stack.enter_async_context(responder.serving(questions, longer))
            await stack.enter_async_context(proxy.serving(web))
            self._stack = stack.pop_all()
        return proxy


def _listen(made: socket.socket, port: int) -> None:
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # the last agent's connections may linger
    made.bind((GATEWAY_ADDRESS, port))
    made.listen(BACKLOG)
