"""Bytes from one stream straight into another: no task wakes for them, and only the kernel copies them."""

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wrenn_server.wire.stream import Stream

PIECE = 256 * 1024
"""Bytes received at once, at most."""


class Carrier(asyncio.BufferedProtocol):
    """The protocol of `source`'s transport until `count` bytes of it went on to `sink`; then it gets its own back.

    :ivar ended: done when that has happened, or cannot any more
    :ivar broken: the stream whose end came before
    """

    def __init__(self, source: "Stream", sink: "Stream", count: int) -> None:
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.broken: Stream | None = None
        self._source = source
        self._sink = sink
        self._left = count
        self._buffer = memoryview(bytearray(min(PIECE, count)))

    def stop(self) -> None:
        """Gives the source its own protocol back, if it is still without."""
        if self._left:
            self._left = 0
            self._source.take_back()

    def sink_lost(self) -> None:
        self._end(self._sink)

    def get_buffer(self, sizehint: int) -> memoryview:
        if self._sink.transport.get_write_buffer_size():
            self._buffer = memoryview(bytearray(len(self._buffer)))  # the last one is still being sent
        return self._buffer[: self._left]

    def buffer_updated(self, nbytes: int) -> None:
        self._source.received += nbytes
        self._sink.write(self._buffer[:nbytes])
        self._left -= nbytes
        if not self._left:
            self._source.take_back()
            self._end()

    def eof_received(self) -> bool:
        half_closable = self._source.eof_received()
        self._end(self._source)
        return half_closable

    def connection_lost(self, exc: Exception | None) -> None:
        self._source.connection_lost(exc)
        self._end(self._source)

    def pause_writing(self) -> None:
        self._source.pause_writing()

    def resume_writing(self) -> None:
        self._source.resume_writing()

    def _end(self, broken: "Stream | None" = None) -> None:
        if not self.ended.done():
            self.broken = broken
            self.ended.set_result(None)
