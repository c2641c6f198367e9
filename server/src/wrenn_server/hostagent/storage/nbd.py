"""The server's side of the NBD protocol, as much of it as QEMU's `nbd` block driver needs for one disk: fixed newstyle
negotiation, simple replies, reads and writes. Source: https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md

The other side is the VMM of a guest, and as hostile as that may become: every length is bounded before it is read.
"""

import asyncio
import errno
import struct
from enum import IntEnum
from typing import Protocol

import structlog

from wrenn_server.model.errors import WrennError

GREETING, OPTION_MAGIC = b"NBDMAGIC", b"IHAVEOPT"
REPLY_MAGIC, REQUEST_MAGIC, SIMPLE_MAGIC = 0x3E889045565A9, 0x25609513, 0x67446698
FIXED_NEWSTYLE, NO_ZEROES = 1, 2
REP_ACK, REP_INFO, REP_ERR_UNSUP = 1, 3, 0x80000001
INFO_EXPORT, INFO_BLOCK_SIZE = 0, 3
HAS_FLAGS = 1

BLOCK = 512
LARGEST = 1 << 20
"""Bytes of one read or write; a client splits what is larger."""
REQUESTS = 16
"""Under way at once: QEMU has as many."""
_OPTIONS, _OPTION_LIMIT = 32, 4096
_NEGOTIATION = 10.0
"""Seconds."""
_REQUEST = struct.Struct(">IHHQQI")

log = structlog.get_logger()


class Option(IntEnum):
    EXPORT_NAME = 1
    ABORT = 2
    GO = 7


class Request(IntEnum):
    READ = 0
    WRITE = 1
    DISCONNECT = 2


class Device(Protocol):
    @property
    def size(self) -> int:
        """Bytes."""
        ...

    async def read(self, offset: int, length: int) -> bytes:
        """:raises OSError: :raises WrennError:"""
        ...

    async def write(self, offset: int, data: bytes) -> None:
        """:raises OSError: :raises WrennError:"""
        ...


class Malformed(Exception):
    """What came is not NBD, or not what was agreed on."""


async def serve(device: Device, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One client, until it goes or is wrong; what it has asked for is broken off then."""
    requests: set[asyncio.Task[None]] = set()
    try:
        async with asyncio.timeout(_NEGOTIATION):
            agreed = await _negotiate(device, reader, writer)
        if agreed:
            await _serve(device, reader, writer, requests)
    except (OSError, TimeoutError, asyncio.IncompleteReadError):
        pass  # it has gone
    except Malformed as error:
        log.warning("a VMM was understood no longer", action="nbd_malformed", error=str(error))
    finally:
        for task in requests:
            task.cancel()
        await asyncio.gather(*requests, return_exceptions=True)
        writer.close()


async def _negotiate(device: Device, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    """Whether requests follow. The name of the export is not looked at: there is one."""
    writer.write(GREETING + OPTION_MAGIC + struct.pack(">H", FIXED_NEWSTYLE | NO_ZEROES))
    (flags,) = struct.unpack(">I", await reader.readexactly(4))
    if flags & FIXED_NEWSTYLE == 0:
        raise Malformed(f"client flags {flags:#x}")
    for _ in range(_OPTIONS):
        magic, option, length = struct.unpack(">8sII", await reader.readexactly(16))
        # What asks for the export by its bare name cannot be told anything but the sizes, and QEMU does not.
        if magic != OPTION_MAGIC or length > _OPTION_LIMIT or option == Option.EXPORT_NAME:
            raise Malformed(f"option {option} of {length} bytes")
        await reader.readexactly(length)
        match option:
            case Option.GO:
                export = struct.pack(">HQH", INFO_EXPORT, device.size, HAS_FLAGS)
                sizes = struct.pack(">HIII", INFO_BLOCK_SIZE, BLOCK, 4096, LARGEST)
                for kind, data in ((REP_INFO, export), (REP_INFO, sizes), (REP_ACK, b"")):
                    writer.write(_reply(option, kind, data))
                return True
            case Option.ABORT:
                writer.write(_reply(option, REP_ACK))
                return False
            case _:
                writer.write(_reply(option, REP_ERR_UNSUP))
    raise Malformed("too many options")


def _reply(option: int, kind: int, data: bytes = b"") -> bytes:
    return struct.pack(">QIII", REPLY_MAGIC, option, kind, len(data)) + data


async def _serve(
    device: Device,
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    requests: set[asyncio.Task[None]],
) -> None:
    room = asyncio.Semaphore(REQUESTS)

    async def answer(kind: int, handle: int, offset: int, length: int, data: bytes) -> None:
        try:
            error, found = await _do(device, kind, offset, length, data)
            # Whole, without a pause: replies do not mix.
            writer.write(struct.pack(">IIQ", SIMPLE_MAGIC, error, handle) + found)
            await writer.drain()
        except OSError:
            pass  # it has gone, which whoever reads from it finds out
        finally:
            room.release()

    while True:
        await room.acquire()
        header = await reader.readexactly(_REQUEST.size)
        magic, _, kind, handle, offset, length = _REQUEST.unpack(header)
        if magic != REQUEST_MAGIC or (kind in {Request.READ, Request.WRITE} and length > LARGEST):
            raise Malformed(f"request {kind} of {length} bytes")
        if kind == Request.DISCONNECT:
            return
        data = await reader.readexactly(length) if kind == Request.WRITE else b""
        task = asyncio.create_task(answer(kind, handle, offset, length, data), name="nbd request")
        requests.add(task)
        task.add_done_callback(requests.discard)


async def _do(device: Device, kind: int, offset: int, length: int, data: bytes) -> tuple[int, bytes]:
    """Error number, 0 for none, and what was read."""
    if offset + length > device.size:
        return errno.EINVAL, b""
    try:
        match kind:
            case Request.READ:
                return 0, await device.read(offset, length)
            case Request.WRITE:
                await device.write(offset, data)
                return 0, b""
            case _:
                return errno.EINVAL, b""
    except OSError as error:
        return errno.ENOSPC if error.errno == errno.ENOSPC else errno.EIO, b""
    except WrennError:
        return errno.EIO, b""
