"""Bodies of HTTP/1.1 messages: cut out of a stream as their framing says, chunked coding undone and made.

Strict as `wire.head` is. Chunk extensions and trailers are read, bounded and dropped.
"""

import re

from wrenn_server.wire.head import Framing
from wrenn_server.wire.stream import Stream

LAST_CHUNK = b"0\r\n\r\n"

_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})(?:[ \t]*+;[\t\x20-\x7e\x80-\xff]*+)?")
_TRAILER = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]++:[\t\x20-\x7e\x80-\xff]*+")
_MAX_SIZE_LINE = 256
_MAX_TRAILERS = 8 * 1024
_LONG = 256 * 1024  # bytes that come in more than one or two pieces


class BadBody(Exception):
    """The body is not in the chunked coding that its head announced."""


def chunk(data: bytes) -> bytes:
    """:param data: not empty: an empty chunk ends the body"""
    return b"%x\r\n%b\r\n" % (len(data), data)


class Dechunker:
    """Undoes the chunked coding, in whatever pieces it comes.

    :ivar done: the last chunk and its trailers were seen
    :ivar rest: bytes after the end of the body, once `done`
    """

    def __init__(self) -> None:
        self.done = False
        self.rest = b""
        self._partial = b""
        self._left = 0
        self._after_data = False
        self._trailers = -1  # bytes seen of them; -1 before the last chunk

    def feed(self, data: bytes) -> bytes:
        """Gives the payload in these bytes, joined over chunks.

        :raises BadBody:
        """
        if self._partial:
            data = self._partial + data
            self._partial = b""
        payload: list[bytes] = []
        at = 0
        while at < len(data):
            if self._left:
                piece = data[at : at + self._left]
                payload.append(piece)
                at += len(piece)
                self._left -= len(piece)
                self._after_data = not self._left
                continue
            end = data.find(b"\r\n", at)
            if end < 0 or (self._after_data and end != at):
                self._keep(data[at:])
                break
            if self._after_data:
                self._after_data = False
            elif self._trailers >= 0:
                if self._trailer(data[at:end]):
                    self.done = True
                    self.rest = data[end + 2 :]
                    break
            else:
                self._size(data[at:end])
            at = end + 2
        return payload[0] if len(payload) == 1 else b"".join(payload)

    def _size(self, line: bytes) -> None:
        match = _SIZE.fullmatch(line)
        if match is None or len(line) > _MAX_SIZE_LINE:
            raise BadBody("malformed size of a chunk")
        self._left = int(match[1], 16)
        if not self._left:
            self._trailers = 0

    def _trailer(self, line: bytes) -> bool:
        """True for the blank line that ends them."""
        if not line:
            return True
        self._trailers += len(line)
        if self._trailers > _MAX_TRAILERS or not _TRAILER.fullmatch(line):
            raise BadBody("malformed or too long trailers")
        return False

    def _keep(self, partial: bytes) -> None:
        """The start of a line; refused as soon as no continuation could make it right."""
        if self._after_data:
            if partial != b"\r":
                raise BadBody("a chunk does not end where its size says")
        elif len(partial) > (_MAX_SIZE_LINE if self._trailers < 0 else _MAX_TRAILERS) or b"\n" in partial:
            raise BadBody("malformed line in a chunked body")
        self._partial = partial


class Body:
    """The body of one message on a stream. What follows it stays on the stream.

    :ivar done: the body was read to its end
    :ivar received: bytes of it so far, without the chunked coding
    """

    def __init__(self, stream: Stream, framing: Framing) -> None:
        self.done = framing.kind == "none"
        self.received = 0
        self._stream = stream
        self._left = framing.length if framing.kind == "length" else -1
        self._chunks = Dechunker() if framing.kind == "chunked" else None

    async def read(self) -> bytes:
        """The next piece; b"" at the end.

        :raises BadBody:
        :raises ConnectionError: the connection broke, or ended before the body
        """
        while not self.done:
            data = await self._stream.read()
            if not data:
                if self._left >= 0 or self._chunks is not None:
                    raise ConnectionResetError("the connection ended inside a body")
                self.done = True
            elif piece := self._cut(data):
                return piece
        return b""

    def take(self) -> bytes:
        """What `read` would give without waiting; b"" when there is nothing now, or at the end."""
        while not self.done and (data := self._stream.take()):
            if piece := self._cut(data):
                return piece
        return b""

    async def carry(self, sink: Stream) -> bool:
        """Sends the rest on to `sink` without waking for each piece, if it is long and of a known length. False: it is not.

        :raises ConnectionError: one of the two broke, or the connection ended before the body
        """
        if self._left < _LONG or self._stream.buffered:
            return False
        before = self._stream.received
        try:
            await self._stream.carry(sink, self._left)
        finally:
            carried = min(self._stream.received - before, self._left)
            self._left -= carried
            self.received += carried
            self.done = not self._left
        return True

    def _cut(self, data: bytes) -> bytes:
        if self._chunks is not None:
            data = self._chunks.feed(data)
            if self._chunks.done:
                self.done = True
                self._stream.unread(self._chunks.rest)
        elif self._left >= 0:
            if len(data) > self._left:
                self._stream.unread(data[self._left :])
                data = data[: self._left]
            self._left -= len(data)
            self.done = not self._left
        self.received += len(data)
        return data
