"""The host's side of envd: is it there, and who is it now.

The guest is hostile: every answer is bounded in size and time, nothing of it is followed or believed. Each talk has
a connection of its own, because a connection that was open before a pause leads nowhere after it.
"""

import asyncio
import base64
import hashlib
import os
import re
import socket
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeVar

import msgspec

from wrenn_server.hostagent.sandbox.journal import Entry
from wrenn_server.model.sandbox import RENEWED
from wrenn_server.wire import envd, http1, stream

T = TypeVar("T")

Connect = Callable[[float], Awaitable[socket.socket]]
"""A connection to envd's port, at most that many seconds."""

ANSWER_LIMIT = 64 * 1024
LONGEST_CONNECT = 600.0
"""Seconds; what is waited for has its own, shorter limit."""
PAUSE = 0.02
"""Seconds between two tries while the guest is up and envd is not listening yet."""
ENTROPY = 64
"""Bytes, twice what the kernel's generator holds."""
PROTOCOL = "0.6.13"
"""Version of envd's protocol that this agent was made with, for an envd that does not tell its own."""
WARM_UP = (
    ("/bin/sh", "-c", "id; ls -l /; cat /proc/loadavg"),
    ("/usr/bin/env", "python3", "-c", "import json"),
)
"""What nearly every sandbox runs first. A program that an image lacks fails, and that is all."""
REHEARSAL = (("/bin/bash", "-l", "-c", ":"),)
"""What a restored guest does once more while it waits for its sandbox; the first command takes half as long then."""
WARM_UP_TIMEOUT = 20.0
"""Seconds for each; Python's first start takes 2 s under software emulation."""
PATIENCE = 5.0
IDLE_TIMEOUT = 5.0
FLUSH_TIMEOUT = 10.0
"""Seconds, beside those for the amount."""
RENEWED_HEADER = "x-envd-renewed"
"""On the answer to `/init`: words of `RENEWED`, separated by commas."""
_VERSION = re.compile(r"[0-9A-Za-z.+-]{1,32}")


class GuestFailed(Exception):
    """envd did not answer in time, or not as it must; the message says what was asked."""


class Idle(msgspec.Struct):
    """Seconds since something last went on in a guest, 0 while it does; None: it never did."""

    command: float | None = None
    """A program ran."""
    terminal: float | None = None
    """Somebody was attached to a terminal."""


@dataclass(frozen=True, slots=True)
class Introduced:
    """What a guest said of itself when it was told who it is."""

    version: str
    """Of its envd."""
    renewed: list[str]
    """Words of `RENEWED`."""


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    body: bytes
    version: str
    """Of envd."""
    renewed: list[str]


class Guest:
    """Talks to the envd of any sandbox of this host."""

    def __init__(self, *, start_timeout: float, boot_timeout: float) -> None:
        self._start_timeout = start_timeout
        self._boot_timeout = boot_timeout

    async def answering(self, connect: Connect) -> str:
        """Waits until a freshly booted guest's envd answers `/health`; its version.

        :raises GuestFailed: not within the boot timeout"""
        doing = f"waiting for envd to answer within {self._boot_timeout:g} s of the boot"
        return await self._until(self._boot_timeout, doing, lambda: self._health(connect))

    async def warm_up(
        self, connect: Connect, init: Callable[[], envd.Init], programs: Sequence[Sequence[str]]
    ) -> None:
        """Has an envd do once what every sandbox will ask of it first, so that code, page tables and page cache are in
        memory before anybody waits for them. The guest has no token yet and gets none.

        :raises GuestFailed: not all of it could be done; the guest is as good as before"""
        doing = f"warming up the guest within {WARM_UP_TIMEOUT:g} s"
        await self._until(WARM_UP_TIMEOUT, doing, lambda: self._init(connect, init, None))
        for argv in programs:
            process = envd.ProcessConfig(cmd=argv[0], args=list(argv[1:]))
            body = envd.envelope(envd.StartRequest(process=process))
            headers = [("Content-Type", "application/connect+json"), ("Connect-Protocol-Version", "1")]
            path = "/process.Process/Start"

            async def start() -> int:
                return (await self._ask(connect, "POST", path, headers, lambda: body)).status  # noqa: B023 - awaited at once

            await self._until(WARM_UP_TIMEOUT, doing, start)

    async def introduce(
        self, connect: Connect, init: Callable[[], envd.Init], proof: str | None
    ) -> Introduced:
        """Tells a restored guest who it is now.

        :raises GuestFailed: it did not acknowledge within the start timeout"""
        doing = f"waiting for envd to acknowledge /init within {self._start_timeout:g} s"
        return await self._until(self._start_timeout, doing, lambda: self._init(connect, init, proof))

    async def flush(self, connect: Connect, token: str, *, memory_mb: int) -> None:
        """Has the guest write out all of its file systems.

        :raises GuestFailed: it did not within what its memory's share of dirty pages (a fifth) takes at 200 MB/s"""
        seconds = FLUSH_TIMEOUT + memory_mb / 1000

        async def ask() -> None:
            headers = [("X-Access-Token", token)]
            answer = await self._ask(connect, "POST", "/sync", headers, lambda: b"", seconds)
            if answer.status != 204:
                raise GuestFailed(f"envd answered /sync with {answer.status}: {printable(answer.body)}")

        await self._until(seconds, f"writing out the guest's file systems within {seconds:.0f} s", ask)

    async def idle(self, connect: Connect, token: str) -> Idle:
        """:raises GuestFailed: no answer in time, or not one that envd gives"""
        doing = f"asking what goes on in the guest within {IDLE_TIMEOUT:g} s"

        async def ask() -> Idle:
            headers = [("X-Access-Token", token)]
            answer = await self._ask(connect, "GET", "/activity", headers, lambda: b"")
            if answer.status != 200:
                raise GuestFailed(f"envd answered /activity with {answer.status}: {printable(answer.body)}")
            try:
                return msgspec.json.decode(answer.body, type=Idle)
            except (msgspec.MsgspecError, UnicodeDecodeError) as error:
                raise GuestFailed(f"{doing}: not an answer that envd gives: {error}") from error

        return await self._until(IDLE_TIMEOUT, doing, ask)

    async def _init(self, connect: Connect, init: Callable[[], envd.Init], proof: str | None) -> Introduced:
        headers = [("Content-Type", "application/json")]
        if proof is not None:
            headers.append(("X-Access-Token", proof))
        # Encoded when the connection stands: the guest's clock is set from it.
        answer = await self._ask(connect, "POST", "/init", headers, lambda: encode(init()))
        if answer.status != 204:
            raise GuestFailed(f"envd answered /init with {answer.status}: {printable(answer.body)}")
        return Introduced(answer.version, answer.renewed)

    async def _health(self, connect: Connect) -> str:
        answer = await self._ask(connect, "GET", "/health", [], lambda: b"")
        if answer.status not in (200, 204):
            raise GuestFailed(f"envd answered /health with {answer.status}: {printable(answer.body)}")
        return answer.version

    async def _ask(
        self,
        connect: Connect,
        method: str,
        path: str,
        headers: list[tuple[str, str]],
        body: Callable[[], bytes],
        patience: float = PATIENCE,
    ) -> Answer:
        """One request on a connection of its own.

        :param patience: seconds without a byte of the answer"""
        timeouts = http1.Timeouts(head=patience, idle=patience)
        connection = http1.Connection(await _connected(connect), host="envd", timeouts=timeouts)
        async with connection:
            response = await connection.request(method, path, headers=headers, body=body())
            content = await response.read(limit=ANSWER_LIMIT)
            version = response.header("x-envd-version") or ""
            told = (response.header(RENEWED_HEADER) or "").split(",")
            return Answer(
                status=response.status,
                body=content,
                version=version if _VERSION.fullmatch(version) else PROTOCOL,
                renewed=[word for word in RENEWED if word in told],
            )

    async def _until(self, timeout: float, doing: str, talk: Callable[[], Awaitable[T]]) -> T:
        """Repeats `talk` while its connection breaks or stays silent. All of envd's calls here may be repeated."""
        last: Exception | None = None
        try:
            async with asyncio.timeout(timeout):
                while True:
                    try:
                        return await talk()
                    except http1.TooMuch as error:
                        raise GuestFailed(f"{doing}: not an answer that envd gives: {error}") from error
                    except (TimeoutError, OSError) as error:
                        last = error
                        await asyncio.sleep(PAUSE)
        except TimeoutError:
            raise GuestFailed(f"{doing}: {last or 'no answer'}") from last


async def _connected(connect: Connect) -> stream.Stream:
    while True:
        try:
            return await stream.adopt(await connect(LONGEST_CONNECT))
        except ConnectionRefusedError:
            await asyncio.sleep(PAUSE)


def incarnation(entry: Entry) -> Callable[[], envd.Init]:
    """What envd is told about itself, with the time and fresh entropy of the moment of the call."""

    def init() -> envd.Init:
        return envd.Init(
            access_token=entry.access_token,
            env_vars=entry.envs,
            hostname=entry.id,
            timestamp=timestamp(time.time_ns()),
            entropy=entropy(),
            machine_id=hashlib.sha256(entry.id.encode()).hexdigest()[:32],
            sandbox_id=entry.id,
            template_id=entry.template_id,
            lifecycle_id=f"{entry.id}:{entry.generation}",
        )

    return init


def nameless() -> envd.Init:
    """What the envd of a template is told: it will be many."""
    return envd.Init(access_token="", timestamp=timestamp(time.time_ns()), entropy=entropy())


def anonymous(name: str) -> Callable[[], envd.Init]:
    """What an envd is told that belongs to nobody yet: everything but a token."""

    def init() -> envd.Init:
        return envd.Init(
            access_token="",
            hostname=name,
            timestamp=timestamp(time.time_ns()),
            entropy=entropy(),
            machine_id=hashlib.sha256(name.encode()).hexdigest()[:32],
            sandbox_id=name,
            lifecycle_id=f"{name}:0",
        )

    return init


def entropy() -> str:
    return base64.b64encode(os.urandom(ENTROPY)).decode()


def encode(init: envd.Init) -> bytes:
    return msgspec.json.encode(init)


def timestamp(nanoseconds: int) -> str:
    """RFC 3339 in UTC with nine digits of the second."""
    seconds, rest = divmod(nanoseconds, 1_000_000_000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest:09d}Z"


def printable(body: bytes) -> str:
    """The beginning of a guest's answer, fit for a log line."""
    text = body[:200].decode(errors="replace")
    return "".join(c if c.isprintable() else " " for c in text)
