"""A connected byte stream: bytes are pulled, so a reader that stops reading stops the sender.

One class over asyncio's transports for TCP, Unix sockets and TLS. Nobody but the owner of a stream reads it.
Three ways to end one: `close` sends what is buffered and then FIN, `abort` sends RST and drops the buffer,
`write_eof` closes only our direction.
"""

import asyncio
import contextlib
import re
import socket
import ssl as tls
import struct
from collections import deque
from collections.abc import Callable
from typing import Self, cast

from wrenn_server.wire.carrier import Carrier
from wrenn_server.wire.head import MAX_HEAD, BadHead

HIGH_WATER = 256 * 1024
"""Bytes buffered in either direction before the sender is made to wait; uvloop reads up to 250 kB at a time."""

_KEEPALIVE = (  # a peer that vanished without FIN is noticed after two minutes
    ((socket.SOL_SOCKET, socket.SO_KEEPALIVE), 1),
    ((socket.IPPROTO_TCP, socket.TCP_KEEPIDLE), 60),
    ((socket.IPPROTO_TCP, socket.TCP_KEEPINTVL), 15),
    ((socket.IPPROTO_TCP, socket.TCP_KEEPCNT), 4),
)
_GOODBYE = 0.3  # seconds for a TLS peer to answer close_notify when it has all there was
_BARE_LF = re.compile(rb"(?<!\r)\n")
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER on, 0 s


class Stream(asyncio.Protocol):
    """Made by `connect_tcp`, `connect_unix`, `adopt`, or as the protocol of a server.

    :ivar eof: the peer sent FIN; bytes received before it may still be unread
    :ivar lost: the connection is gone, in both directions
    :ivar received: bytes received so far
    """

    def __init__(self) -> None:
        self.transport: asyncio.Transport = cast("asyncio.Transport", None)
        self.eof = False
        self.lost = False
        self.received = 0
        self.error: Exception | None = None
        self.on_end: Callable[[], None] | None = None
        """Called when the peer sends FIN, and again when the connection is lost."""
        self._chunks: deque[bytes] = deque()
        self._size = 0
        self._reader: asyncio.Future[None] | None = None
        self._writer: asyncio.Future[None] | None = None
        self._closed: asyncio.Future[None] | None = None
        self._reading = True
        self._writable = True
        self._half_closable = True
        self._sink: Stream | None = None
        self._source: Stream | None = None
        self._carrier: Carrier | None = None  # of the source

    # Reading

    async def read(self) -> bytes:
        """The next bytes as they came, at most about 256 KiB; b"" after FIN.

        :raises ConnectionError: the connection broke
        """
        if not self._chunks and not await self.readable():
            return b""
        return self.take()

    async def readable(self) -> bool:
        """Waits until there is something to read; False after FIN.

        :raises ConnectionError: the connection broke
        """
        while not self._chunks:
            if self.eof:
                return False
            if self.lost:
                raise self.broken()
            self._reader = asyncio.get_running_loop().create_future()
            try:
                await self._reader
            finally:
                self._reader = None
        return True

    def take(self) -> bytes:
        """What `read` would give without waiting: b"" when there is nothing now."""
        if not self._chunks:
            return b""
        data = self._chunks.popleft()
        self._size -= len(data)
        if self._size < HIGH_WATER:
            self.resume_reading()
        return data

    def unread(self, data: bytes) -> None:
        """Puts bytes back to the front."""
        if data:
            self._chunks.appendleft(data)
            self._size += len(data)

    @property
    def buffered(self) -> int:
        """Bytes received and not read."""
        return self._size

    async def read_head(self, limit: int = MAX_HEAD) -> bytes | None:
        """Bytes through the first blank line; None when the peer closed before the first byte.

        :raises BadHead: longer than limit, or a line that does not end in CRLF
        :raises ConnectionError: the connection broke or ended inside the head
        """
        data = self.take() or await self.read()
        if not data:
            return None
        end = data.find(b"\r\n\r\n")
        if end >= 0:  # nearly always: the whole head in one piece
            end += 4
            if end == len(data) <= limit:
                return data
            self.unread(data[end:])
            return self._bounded(data[:end], limit)
        head = bytearray(data)
        while True:
            if _BARE_LF.search(head, len(head) - len(data)):
                raise BadHead(
                    "a LF of its own in the head"
                )  # now, instead of waiting for a CRLF that never comes
            if len(head) > limit:
                raise BadHead(f"the head is longer than {limit} bytes", 431)
            data = await self.read()
            if not data:
                raise ConnectionResetError("the connection ended inside a head")
            start = max(0, len(head) - 3)
            head += data
            end = head.find(b"\r\n\r\n", start)
            if end >= 0:
                self.unread(bytes(head[end + 4 :]))
                return self._bounded(bytes(head[: end + 4]), limit)

    @staticmethod
    def _bounded(head: bytes, limit: int) -> bytes:
        if len(head) > limit:
            raise BadHead(f"the head is longer than {limit} bytes", 431)
        return head

    # Writing

    def write(self, data: bytes | memoryview) -> None:
        """Sends without waiting; call `drain` when more follows. Dropped when the connection is lost."""
        if not self.lost:
            self.transport.write(data)

    @property
    def writable(self) -> bool:
        """False while so much is unsent that `drain` would wait."""
        return self._writable

    async def drain(self) -> None:
        """Waits until the peer has taken enough.

        :raises ConnectionError: the connection broke
        """
        while not self._writable:
            self._writer = asyncio.get_running_loop().create_future()
            try:
                await self._writer
            finally:
                self._writer = None
        if self.lost:
            raise self.broken()

    def write_eof(self) -> None:
        """FIN after what is buffered; reading goes on. TLS cannot do half of it: there it is `close`."""
        if self.lost or self.transport.is_closing():
            return
        if self.transport.can_write_eof():
            self.transport.write_eof()
        else:
            self.transport.close()

    # Ending

    def close(self) -> None:
        """Sends what is buffered, then FIN. The peer may take its time: `wait_closed`."""
        if self.lost or self.transport.is_closing():
            return
        sent = not self.transport.get_write_buffer_size()
        self.transport.close()
        if sent and not self._half_closable:
            # TLS waits for the peer's close_notify, which most peers that are idle never send.
            asyncio.get_running_loop().call_later(_GOODBYE, self.transport.abort)

    def abort(self) -> None:
        """RST at once; what is buffered is dropped."""
        if self.lost:
            return
        sock = self.transport.get_extra_info("socket")
        if sock is not None and sock.family != socket.AF_UNIX:
            with contextlib.suppress(OSError):  # the descriptor went away under us: nothing is left to reset
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        self.transport.abort()

    async def wait_closed(self) -> None:
        if self.lost:
            return
        if self._closed is None:
            self._closed = asyncio.get_running_loop().create_future()
        await asyncio.shield(self._closed)

    def broken(self) -> ConnectionError:
        if isinstance(self.error, ConnectionError):
            return self.error
        broken = ConnectionResetError("the connection is closed")
        broken.__cause__ = self.error
        return broken

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.abort()

    # Splicing

    def relay(self, sink: "Stream") -> None:
        """From now on everything received goes to `sink` without passing a task; FIN and loss are passed on.

        Nobody may read this stream afterwards. `edge.splice` joins two of them both ways.
        """
        self._sink = sink
        sink._source = self
        while self._chunks:
            sink.write(self._chunks.popleft())
        self._size = 0
        if self.lost:
            self._end_sink(self.error)
        elif self.eof:
            sink.write_eof()
        else:
            self._follow(sink)

    async def carry(self, sink: "Stream", count: int) -> None:
        """Sends the next `count` bytes on to `sink` without passing a task; `received` tells how far it came.

        Everything received so far must have been read. What follows these bytes stays to be read.

        :raises ConnectionError: one of the two broke, or this one ended before
        """
        if self.lost or self.eof:
            raise self.broken()
        if sink.lost:
            raise sink.broken()
        carrier = sink._carrier = Carrier(self, sink, count)
        sink._source = self
        self._become(carrier)
        self._follow(sink)
        try:
            await carrier.ended
        finally:
            sink._source = sink._carrier = None
            carrier.stop()
        if carrier.broken is not None:
            raise carrier.broken.broken()

    def take_back(self) -> None:
        """What comes from now on is to be read here."""
        if not self.lost:
            self._become(self)
            self.resume_reading()

    def _become(self, protocol: asyncio.BaseProtocol) -> None:
        """Nothing is received afterwards: uvloop chooses how it reads when it starts to."""
        self.pause_reading()
        self.transport.set_protocol(protocol)

    def _follow(self, sink: "Stream") -> None:
        if sink._writable:
            self.resume_reading()
        else:
            self.pause_reading()

    def pause_reading(self) -> None:
        if self._reading and not self.lost:
            self._reading = False
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        if not self._reading and not self.lost:
            self._reading = True
            self.transport.resume_reading()

    def _end_sink(self, error: Exception | None) -> None:
        sink = self._sink
        if sink is None:
            return
        if error is not None or not self.eof:
            sink.abort()
        else:
            sink.close()

    # asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.transport.set_write_buffer_limits(high=HIGH_WATER, low=HIGH_WATER // 4)
        sock = transport.get_extra_info("socket")
        if sock is not None and sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for option, value in _KEEPALIVE:
                sock.setsockopt(*option, value)
        self._half_closable = transport.get_extra_info("sslcontext") is None

    def data_received(self, data: bytes) -> None:
        self.received += len(data)
        if self._sink is not None:
            self._sink.write(data)
            return
        self._chunks.append(data)
        self._size += len(data)
        if self._size >= HIGH_WATER:
            self.pause_reading()
        reader = self._reader
        if reader is not None and not reader.done():
            reader.set_result(None)

    def eof_received(self) -> bool:
        self.eof = True
        self._wake_reader()
        if self._sink is not None:
            self._sink.write_eof()
        if self.on_end is not None:
            self.on_end()
        return self._half_closable  # our direction stays open: the owner decides

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        self.error = exc
        self._writable = True
        self._wake_reader()
        if self._writer is not None and not self._writer.done():
            self._writer.set_result(None)
        if self._closed is not None and not self._closed.done():
            self._closed.set_result(None)
        self._end_sink(exc)
        if self._carrier is not None:
            self._carrier.sink_lost()
        if self.on_end is not None:
            self.on_end()

    def pause_writing(self) -> None:
        self._writable = False
        if self._source is not None:
            self._source.pause_reading()

    def resume_writing(self) -> None:
        self._writable = True
        if self._writer is not None and not self._writer.done():
            self._writer.set_result(None)
        if self._source is not None:
            self._source.resume_reading()

    def _wake_reader(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)


async def connect_tcp(
    host: str, port: int, *, ssl: tls.SSLContext | None = None, server_hostname: str | None = None
) -> Stream:
    """:raises OSError: also for a failed TLS handshake (`ssl.SSLError` is one)"""
    loop = asyncio.get_running_loop()
    _, stream = await loop.create_connection(
        Stream, host, port, ssl=ssl, server_hostname=server_hostname if ssl else None
    )
    return stream


async def connect_unix(path: str) -> Stream:
    """:raises OSError:"""
    _, stream = await asyncio.get_running_loop().create_unix_connection(Stream, path)
    return stream


async def adopt(sock: socket.socket) -> Stream:
    """Takes over a connected socket, e.g. one made inside another network namespace."""
    sock.setblocking(False)
    _, stream = await asyncio.get_running_loop().create_connection(Stream, sock=sock)
    return stream
