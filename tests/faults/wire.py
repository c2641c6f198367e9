"""A wire between a control plane and an agent, which can lose what goes over it, and say it again."""

import asyncio
import contextlib
import re
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field

LOST, UNANSWERED, CUT_BEFORE, CUT_AFTER = "request lost", "answer lost", "cut before it", "cut after it"
"""What can happen to a request. Lost: the connection breaks, once. Cut: all connections do, and none comes up before the
wire is mended; before or after the agent has carried it out."""
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)


@dataclass(slots=True)
class Wire:
    far: str
    """HOST:PORT of the agent."""
    near: str = ""
    """HOST:PORT to be called instead."""
    said: bytes = b""
    """The last request that was looked for."""
    _wanted: re.Pattern[bytes] | None = None
    _fault: str = ""
    _down: bool = False
    _writers: set[asyncio.StreamWriter] = field(default_factory=set[asyncio.StreamWriter])

    def watch(self, begin: bytes, fault: str = "") -> None:
        """Looks for requests that begin like that; the fault happens to the first."""
        self._wanted, self._fault = re.compile(begin), fault

    def mend(self) -> None:
        self._wanted, self._down = None, False

    async def say_again(self) -> int:
        """Delivers the last request once more. Returns the status of the answer."""
        reader, writer = await asyncio.open_connection(*_parts(self.far))
        writer.write(self.said)
        status = int((await reader.readline()).split()[1])
        writer.transport.abort()
        return status

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection of the control plane."""
        back: asyncio.Task[None] | None = None
        ends = {writer}
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            if not self._down:
                answers, there = await asyncio.open_connection(*_parts(self.far))
                ends.add(there)
                self._writers |= ends
                back = asyncio.create_task(_pass(answers, writer), name="answers")
                while not await self._request(reader, answers, there, back):
                    pass
        if back is not None:
            back.cancel()
            await asyncio.wait([back])
        self._writers -= ends
        for end in ends:
            end.transport.abort()

    async def _request(
        self,
        reader: asyncio.StreamReader,
        answers: asyncio.StreamReader,
        there: asyncio.StreamWriter,
        back: "asyncio.Task[None]",
    ) -> bool:
        """Whether the connection ends with this one."""
        head = await reader.readuntil(b"\r\n\r\n")
        length = _LENGTH.search(head)
        data = head + (await reader.readexactly(int(length[1])) if length else b"")
        fault = ""
        if self._wanted is not None and self._wanted.match(data):
            fault, self.said, self._fault = self._fault, data, ""
        if fault in (UNANSWERED, CUT_AFTER):
            back.cancel()
            await asyncio.wait([back])
        if fault not in (LOST, CUT_BEFORE):
            there.write(data)
        if fault in (UNANSWERED, CUT_AFTER):
            await answers.read(1)
        if fault in (CUT_BEFORE, CUT_AFTER):
            self.cut()
        return bool(fault)

    def cut(self) -> None:
        self._down = True
        for end in self._writers:
            end.transport.abort()


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(1 << 20):
            writer.write(data)
        writer.transport.abort()


@contextlib.asynccontextmanager
async def to(far: str) -> AsyncGenerator[Wire]:
    wire = Wire(far)
    server = await asyncio.start_server(wire.serve, "127.0.0.1", 0)
    wire.near = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield wire
    finally:
        server.close()
        wire.cut()


def _parts(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host, int(port)
