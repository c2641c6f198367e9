"""The server of one disk, asked as QEMU asks, and as nobody should."""

import asyncio
import errno
import struct
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from wrenn_server.hostagent.storage import nbd
from wrenn_server.model.errors import Internal

SIZE = 4 << 20


@dataclass
class Disk:
    size: int = SIZE
    data: bytearray = field(default_factory=lambda: bytearray(SIZE))
    gate: asyncio.Event | None = None
    error: Exception | None = None
    under_way: int = 0

    async def read(self, offset: int, length: int) -> bytes:
        await self._reach()
        return bytes(self.data[offset : offset + length])

    async def write(self, offset: int, data: bytes) -> None:
        await self._reach()
        self.data[offset : offset + len(data)] = data

    async def _reach(self) -> None:
        self.under_way += 1
        try:
            if self.gate is not None:
                await self.gate.wait()
            if self.error is not None:
                raise self.error
        finally:
            self.under_way -= 1


class Client:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def greet(self) -> None:
        assert await self.reader.readexactly(18) == b"NBDMAGIC" + b"IHAVEOPT" + b"\0\3"
        self.writer.write(struct.pack(">I", 3))

    async def option(self, number: int, data: bytes = b"") -> list[tuple[int, bytes]]:
        """Replies until one that is not an INFO."""
        self.writer.write(b"IHAVEOPT" + struct.pack(">II", number, len(data)) + data)
        replies: list[tuple[int, bytes]] = []
        while not replies or replies[-1][0] == 3:
            magic, option, kind, length = struct.unpack(">QIII", await self.reader.readexactly(20))
            assert (magic, option) == (0x3E889045565A9, number)
            replies.append((kind, await self.reader.readexactly(length)))
        return replies

    async def go(self) -> None:
        await self.greet()
        replies = await self.option(7, struct.pack(">I7sHH", 7, b"overlay", 1, 3))
        assert replies == [
            (3, struct.pack(">HQH", 0, SIZE, 1)),
            (3, struct.pack(">HIII", 3, 512, 4096, 1 << 20)),
            (1, b""),
        ]

    def ask(self, kind: int, offset: int, length: int, data: bytes = b"", *, handle: int = 9) -> None:
        self.writer.write(struct.pack(">IHHQQI", 0x25609513, 0, kind, handle, offset, length) + data)

    async def answer(self, length: int = 0) -> tuple[int, int, bytes]:
        magic, error, handle = struct.unpack(">IIQ", await self.reader.readexactly(16))
        assert magic == 0x67446698
        return handle, error, await self.reader.readexactly(0 if error else length)

    async def is_over(self) -> bool:
        return await self.reader.read() == b""


@pytest.fixture
def disk() -> Disk:
    return Disk()


@pytest.fixture
async def client(disk: Disk, tmp_path: Path) -> AsyncGenerator[Client]:
    served: list[asyncio.Task[None]] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        served.append(asyncio.ensure_future(nbd.serve(disk, reader, writer)))

    server = await asyncio.start_unix_server(serve, tmp_path / "nbd")
    client = Client(*await asyncio.open_unix_connection(tmp_path / "nbd"))
    yield client
    client.writer.close()
    server.close()
    async with asyncio.timeout(5):  # whatever happened, nothing goes on
        await asyncio.gather(*served)
    assert disk.under_way == 0


async def test_a_disk_is_written_and_read(disk: Disk, client: Client) -> None:
    await client.go()
    client.ask(1, 1 << 20, 5, b"hello")
    assert await client.answer() == (9, 0, b"")
    client.ask(0, (1 << 20) - 1, 7, handle=10)
    assert await client.answer(7) == (10, 0, b"\0hello\0")
    client.ask(2, 0, 0)
    assert await client.is_over()


async def test_what_is_not_offered_is_refused(client: Client) -> None:
    await client.greet()
    for number in (8, 5, 10):  # structured replies, TLS, contexts
        assert await client.option(number, b"x" * 10) == [(0x80000001, b"")]
    assert await client.option(2) == [(1, b"")]
    assert await client.is_over()


async def test_one_that_waits_does_not_keep_the_others(disk: Disk, client: Client) -> None:
    await client.go()
    disk.gate = asyncio.Event()
    for handle in range(nbd.REQUESTS):
        client.ask(0, 0, 512, handle=handle)
    while disk.under_way < nbd.REQUESTS:  # noqa: ASYNC110 - turns of the loop
        await asyncio.sleep(0)
    client.ask(0, 0, 512, handle=99)  # read only when there is room
    await asyncio.sleep(0.05)
    assert disk.under_way == nbd.REQUESTS
    disk.gate.set()
    answers = [await client.answer(512) for _ in range(nbd.REQUESTS + 1)]
    assert sorted(handle for handle, _, _ in answers) == [*range(nbd.REQUESTS), 99]


async def test_who_goes_leaves_nothing_behind(disk: Disk, client: Client) -> None:
    await client.go()
    disk.gate = asyncio.Event()
    client.ask(0, 0, 512)
    while not disk.under_way:  # noqa: ASYNC110 - turns of the loop
        await asyncio.sleep(0)


@pytest.mark.parametrize(
    ("error", "number"),
    [
        (OSError(errno.ENOSPC, "full"), errno.ENOSPC),
        (OSError(errno.EIO, "broken"), errno.EIO),
        (Internal("lost", code="snapshot_damaged"), errno.EIO),
    ],
)
async def test_errors_are_told(disk: Disk, client: Client, error: Exception, number: int) -> None:
    await client.go()
    disk.error = error
    client.ask(0, 0, 512)
    assert await client.answer() == (9, number, b"")
    client.ask(1, 0, 2, b"ab")
    assert await client.answer() == (9, number, b"")
    disk.error = None
    client.ask(0, 0, 1)
    assert await client.answer(1) == (9, 0, b"\0")


@pytest.mark.parametrize(
    ("kind", "offset", "length"),
    [(0, SIZE, 1), (0, SIZE - 511, 512), (0, 2**64 - 1, 512), (4, 0, 512), (77, 0, 0)],
)
async def test_what_cannot_be_is_refused(client: Client, kind: int, offset: int, length: int) -> None:
    await client.go()
    client.ask(kind, offset, length)
    assert await client.answer() == (9, errno.EINVAL, b"")


@pytest.mark.parametrize(
    "said",
    [
        struct.pack(">IHHQQI", 0x25609513, 0, 0, 1, 0, (1 << 20) + 1),
        struct.pack(">IHHQQI", 0x25609513, 0, 1, 1, 0, 1 << 31),
        struct.pack(">IHHQQI", 0x11111111, 0, 0, 1, 0, 1),
    ],
    ids=["read too much", "write too much", "no magic"],
)
async def test_who_keeps_to_nothing_is_left(client: Client, said: bytes) -> None:
    await client.go()
    client.writer.write(said)
    assert await client.is_over()


@pytest.mark.parametrize(
    "said",
    [
        struct.pack(">I", 0),
        struct.pack(">I8sII", 3, b"IHAVEOPT", 7, 1 << 30),
        struct.pack(">I8sII", 3, b"WHATEVER", 7, 0),
        struct.pack(">I8sII", 3, b"IHAVEOPT", 1, 0),
        struct.pack(">I", 3) + 40 * struct.pack(">8sII", b"IHAVEOPT", 8, 0),
    ],
    ids=["old style", "endless option", "no magic", "bare name", "too many options"],
)
async def test_who_agrees_to_nothing_is_left(client: Client, said: bytes) -> None:
    await client.reader.readexactly(18)
    client.writer.write(said)
    with pytest.raises(asyncio.IncompleteReadError):
        await client.reader.readexactly(1 << 20)
