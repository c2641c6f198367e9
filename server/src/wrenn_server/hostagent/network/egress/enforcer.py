"""The policy of one sandbox, kept in force while its VM runs under this agent."""

import asyncio
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self

from wrenn_server.hostagent.network.egress.policy import Policy, parse
from wrenn_server.wire.agent import Network


class Enforcer:
    """See `network.base.Egress`. The kernel judges addresses."""

    def __init__(self, enforce: Callable[[Policy], Awaitable[None]]) -> None:
        """:param enforce: puts a policy into the kernel, in one transaction"""
        self._enforce = enforce
        self._turn = asyncio.Lock()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

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
            await self._enforce(policy)
