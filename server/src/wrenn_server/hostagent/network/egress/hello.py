"""The server name in the first message of a TLS client (RFC 8446 4.1.2, RFC 6066 3). Pure, for bytes of a stranger.

Whatever is not exactly as the RFCs have it is refused: a server must not find another name in it than we do.
"""

from wrenn_server.hostagent.network.egress.policy import canonical

MAX_HELLO = 16 * 1024
"""Bytes, record headers included. With post-quantum keys and a session ticket a few thousand are usual."""

ACCESS_DENIED = bytes((21, 3, 3, 0, 2, 2, 49))
"""A fatal alert, so that the client names the cause: RFC 8446 6.2, access_denied."""

_HANDSHAKE, _CLIENT_HELLO = 22, 1
_MAX_FRAGMENT = 2**14
_MAX_RECORDS = 4
"""Each look at half a message goes through them from the start, and the guest decides how often we look."""
_SERVER_NAME, _HOST_NAME = 0, 0


class BadHello(Exception):
    """Not a ClientHello with one host name."""


def server_name(data: bytes) -> str | None:
    """The canonical name. None: there has to come more first.

    :raises BadHello:"""
    message = _message(data)
    if message is None:
        if len(data) >= MAX_HELLO:
            raise BadHello(f"longer than {MAX_HELLO} bytes")
        return None
    hello = _Reader(message)
    hello.take(2 + 32)  # version, random
    hello.vector(1)  # session id
    hello.vector(2)  # cipher suites
    hello.vector(1)  # compression methods
    extensions = _Reader(hello.vector(2))
    hello.end()
    found: str | None = None
    while extensions.left:
        kind, body = extensions.number(2), extensions.vector(2)
        if kind == _SERVER_NAME:
            if found is not None:
                raise BadHello("two server names")
            found = _host_name(body)
    if found is None:
        raise BadHello("no server name")
    return found


def _message(data: bytes) -> bytes | None:
    """The body of the first handshake message, which may be spread over several records."""
    message, at = b"", 0
    for _ in range(_MAX_RECORDS):
        if data[at : at + 1] not in {b"", bytes([_HANDSHAKE])}:
            raise BadHello("no record of a handshake")
        if len(data) - at < 5:
            return None
        length = int.from_bytes(data[at + 3 : at + 5])
        if data[at + 1] != 3 or not 0 < length <= _MAX_FRAGMENT:
            raise BadHello("no record of a handshake")
        fragment = data[at + 5 : at + 5 + length]
        message += fragment
        at += 5 + length
        if message[:1] not in {b"", bytes([_CLIENT_HELLO])}:
            raise BadHello("another message than a ClientHello")
        end = 4 + int.from_bytes(message[1:4]) if len(message) >= 4 else MAX_HELLO
        if end > MAX_HELLO or len(message) > end:
            raise BadHello("a ClientHello that is too long, or more in its record")
        if len(fragment) < length:
            return None
        if len(message) == end:
            return message[4:]
    raise BadHello(f"a ClientHello in more than {_MAX_RECORDS} records")


def _host_name(body: bytes) -> str:
    extension = _Reader(body)
    names = _Reader(extension.vector(2))
    extension.end()
    if names.number(1) != _HOST_NAME:
        raise BadHello("a server name of another kind")
    written = names.vector(2)
    names.end()
    name = canonical(written.decode("latin-1"))
    if name is None:
        raise BadHello("a server name that is no host name")
    return name


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def left(self) -> int:
        return len(self._data) - self._at

    def take(self, count: int) -> bytes:
        if count > self.left:
            raise BadHello("a field that ends behind its message")
        self._at += count
        return self._data[self._at - count : self._at]

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size))

    def vector(self, size: int) -> bytes:
        """Bytes behind their length, a number of that size."""
        return self.take(self.number(size))

    def end(self) -> None:
        if self.left:
            raise BadHello("more in a field than belongs there")
