"""Signed links to files that name no sandbox, on the plain address of the API.

A signature is a SHA-256 over the token of one sandbox, so it says whose it is, but only by trying all of them. The
database does that for one link at a time, and rests as long as it looked after each one in vain: whoever makes up
signatures takes at most half of one core, and only the time of others who use such links for the first time.
"""

import asyncio
import time
from collections import OrderedDict
from typing import TypeVar

from wrenn_server.db import signatures
from wrenn_server.db.pool import Database
from wrenn_server.edge import answers
from wrenn_server.edge.route import SignedFile
from wrenn_server.edge.target import Answer
from wrenn_server.model.errors import Unavailable
from wrenn_server.model.ids import SandboxId, parse_sandbox_id

LONGEST = 1024
"""Characters of path and user together: they are hashed once for each sandbox."""
WAITING = 16
"""Links that may wait for their turn."""
LOOK_TIMEOUT = 5.0
_REMEMBERED = 10_000
_IN_VAIN_SEC = 10.0

T = TypeVar("T")

HINT = "name the sandbox in the host name, or by the headers E2b-Sandbox-Id and E2b-Sandbox-Port"


class Signed:
    """Which sandbox a link belongs to, and what was found out lately."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._known: OrderedDict[bytes, SandboxId] = OrderedDict()
        self._in_vain: OrderedDict[bytes, float] = OrderedDict()
        self._turn = asyncio.Lock()
        self._waiting = 0
        self._resting = 0.0

    async def sandbox_of(self, link: SignedFile) -> SandboxId | Answer:
        """
        :raises Unavailable: too many look-ups at this time
        :raises DatabaseUnavailable:
        """
        if link.expires is not None and link.expires < time.time():
            return answers.signature_expired()
        if len(link.before) + len(link.after) > LONGEST:
            return answers.bad_address(
                f"the path of the signed link is too long to look for its sandbox: {HINT}"
            )
        if link.digest not in self._known and not self._is_in_vain(link.digest):
            await self._look_in_turn(link)
        found = self._known.get(link.digest)
        return found or answers.bad_address(f"the signature is that of no sandbox that runs: {HINT}")

    async def _look_in_turn(self, link: SignedFile) -> None:
        if self._waiting >= WAITING:
            raise Unavailable("too many signed links are being looked up", code="overloaded", hint=HINT)
        self._waiting += 1
        try:
            async with self._turn:
                if link.digest not in self._known and not self._is_in_vain(link.digest):
                    await self._look(link)
        finally:
            self._waiting -= 1

    async def _look(self, link: SignedFile) -> None:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(self._resting - loop.time())
        began = loop.time()
        try:
            async with asyncio.timeout(LOOK_TIMEOUT):
                found = await signatures.sandbox_of(self._db, link.digest, link.before, link.after)
        except TimeoutError:
            found = None
        sandbox_id = parse_sandbox_id(found or "")
        if sandbox_id is None:
            self._resting = 2 * loop.time() - began
            _remember(self._in_vain, link.digest, loop.time() + _IN_VAIN_SEC)
        else:
            _remember(self._known, link.digest, sandbox_id)

    def _is_in_vain(self, digest: bytes) -> bool:
        until = self._in_vain.get(digest)
        return until is not None and until > asyncio.get_running_loop().time()


def _remember(known: OrderedDict[bytes, T], digest: bytes, value: T) -> None:
    known[digest] = value
    if len(known) > _REMEMBERED:
        known.popitem(last=False)
