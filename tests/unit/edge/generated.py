"""Request heads made up from a seed: right ones, ones that are nearly right, and what follows them on a connection."""

import random
from dataclasses import dataclass

METHODS = (b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"OPTIONS", b"PATCH")
TARGETS = (
    b"/", b"/x?y=1", b"/files?path=%2Fa", b"//x", b"/./init", b"/%69nit", b"http://a/x", b"HTTP://a", b"http://b/",
    b"*", b"a:1", b"x", b"/" + b"a" * 300, b"/\xff", b"/a b", b"/a\tb", b"/#f", b"", b"/\"<>", b"https://a:1/",
)  # fmt: skip
HOSTS = (
    b"a", b"a:1", b"3000-sbaaaaaaaaaaaaaaaaaaaa.x", b"49983-sbaaaaaaaaaaaaaaaaaaaa.x", b"0-sbaaaaaaaaaaaaaaaaaaaa.x",
    b"[::1]:80", b"a,b", b"a b", b"", b"a@b", b"65536-sbaaaaaaaaaaaaaaaaaaaa.x", b"a\xff", b"a/b", b"127.0.0.1",
)  # fmt: skip
LENGTHS = (
    b"0", b"1", b"3", b"5", b"+3", b"-1", b"3, 3", b"3,5", b"0x3", b"3 ", b" 3", b"3;", b"03", b"", b"1e1",
    b"99999999999999999999", b"18446744073709551616", b"3\t", b"\xb3",
)  # fmt: skip
CODINGS = (
    b"chunked", b"Chunked", b"chunked, chunked", b"gzip, chunked", b"chunked, gzip", b"identity", b"\tchunked",
    b"chunked\t", b"x chunked", b"\"chunked\"", b"chunked;q=1", b"", b"chunke", b"\x0bchunked", b"xchunked",
)  # fmt: skip
NAMES = (
    b"X-A", b"Accept", b"Cookie", b"Authorization", b"E2b-Sandbox-Id", b"E2b-Sandbox-Port", b"Expect", b"Connection",
    b"Upgrade", b"X-Forwarded-For", b"X-Request-Id", b"Keep-Alive", b"TE", b"Trailer", b"Content_Length",
    b"Transfer_Encoding", b"content-length ", b"X\xff", b"X A", b"", b":", b"X\0", b"Transfer-Encoding\t",
)  # fmt: skip
VALUES = (
    b"1", b"close", b"keep-alive", b"upgrade", b"websocket", b"h2c", b"100-continue", b"a, b", b"", b"  v  ", b"\xe9",
    b"x\0y", b"x\x7fy", b"host", b"content-length", b"sbaaaaaaaaaaaaaaaaaaaa", b"8080", b"\x0b", b"e2b_" + b"0" * 40,
)  # fmt: skip
SPICE = (
    b"\r\n", b"\n", b"\r", b"\0", b" ", b"\t", b":", b",", b"0", b"\xff", b"\r\n ", b"\r\n\t", b"\n\n", b"\r\r\n",
    b"Transfer-Encoding: chunked\r\n", b"Content-Length: 3\r\n", b"HTTP/1.1", b"\r\n\r\n",
    b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n",
)  # fmt: skip
CHUNKED = (
    b"0\r\n\r\n", b"3\r\nabc\r\n0\r\n\r\n", b"3;x=\"y\"\r\nabc\r\n0\r\nT: 1\r\n\r\n", b"03\r\nabc\r\n0\r\n\r\n",
    b"3\r\nabcd\r\n0\r\n\r\n", b"3\nabc\n0\n\n", b"0x3\r\nabc\r\n0\r\n\r\n", b"-1\r\n\r\n", b"3 \r\nabc\r\n0\r\n\r\n",
    b"ffffffffffffffff\r\n", b"fffffffffffffff\r\na", b"3\r\nabc0\r\n\r\n", b"0\r\nContent-Length: 5\r\n\r\n",
    b"3\r\n\r\n", b"", b"0\r\n", b"g\r\n", b"0\r\n X: 1\r\n\r\n", b"1;" + b"a" * 300 + b"\r\na\r\n0\r\n\r\n",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Case:
    """What one connection sends."""

    heads: int
    pieces: list[bytes]
    """To be sent one after the other."""

    @property
    def data(self) -> bytes:
        return b"".join(self.pieces)


class Generator:
    """The same seed gives the same heads."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._random = random.Random(seed)

    def case(self) -> Case:
        """Right requests in a pipeline, and at their end one that often is not right."""
        chance = self._random
        count = chance.choice((1, 1, 2, 3, 5, 8))
        data = b"".join(self._right() for _ in range(count - 1)) + (
            self.head() + self._body() if chance.random() < 0.8 else self._right()
        )
        cuts = sorted(chance.randrange(len(data) + 1) for _ in range(chance.choice((0, 0, 1, 2, 5))))
        pieces = [data[start:end] for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]
        return Case(count, [piece for piece in pieces if piece])

    def head(self) -> bytes:
        """One head through its blank line, as far as it has one."""
        chance = self._random
        wrong = chance.random() < 0.5
        version = b"HTTP/1.1" if not wrong or chance.random() < 0.8 else chance.choice(
            (b"HTTP/1.0", b"HTTP/2.0", b"HTTP/1.2", b"http/1.1", b"HTTP/1.1 ", b"HTTP/11", b"", b"HTTP/0.9")
        )  # fmt: skip
        blank = b" " if chance.random() < 0.97 else chance.choice((b"  ", b"\t", b"", b"\x0c"))
        method = chance.choice(METHODS)
        lines = [
            method
            + blank
            + (self._any(TARGETS, 5) if wrong else chance.choice(TARGETS[:3]))
            + blank
            + version
        ]
        if chance.random() < 0.97:
            lines.append(b"Host: " + (self._any(HOSTS, 4) if wrong else chance.choice(HOSTS[:3])))
        lines += [self._framing() for _ in range(chance.choice((0, 0, 0, 1, 1, 2)) if wrong else 0)]
        if not wrong and chance.random() < 0.3:
            lines.append(chance.choice((b"Content-Length: 3", b"Transfer-Encoding: chunked")))
        more = chance.choice((0, 1, 2, 4))
        lines += [self._any(NAMES, 8) + b": " + self._any(VALUES, 8) for _ in range(more)]
        if chance.random() < 0.02:
            lines += [b"X-Many: 1"] * chance.choice((190, 201, 400))
        if chance.random() < 0.01:
            lines.append(b"X-Long: " + b"a" * chance.choice((8_000, 65_000, 70_000)))
        chance.shuffle(lines) if chance.random() < 0.02 else None
        data = b"\r\n".join(lines) + b"\r\n\r\n"
        return self._mutated(data) if chance.random() < 0.25 else data

    def _right(self) -> bytes:
        chance = self._random
        match chance.randrange(4):
            case 0:
                return b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc"
            case 1:
                return b"PUT /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + CHUNKED[1]
            case 2:
                return b"HEAD /x HTTP/1.1\r\nHost: a:1\r\n\r\n"
            case _:
                return b"GET /x?y=%d HTTP/1.1\r\nHost: a\r\nAccept: */*\r\n\r\n" % chance.randrange(1000)

    def _framing(self) -> bytes:
        if self._random.random() < 0.5:
            return (
                self._any((b"Content-Length", b"content-length", b"CONTENT-LENGTH "), 2)
                + b": "
                + self._any(LENGTHS, 4)
            )
        return (
            self._any((b"Transfer-Encoding", b"transfer-encoding", b" Transfer-Encoding"), 2)
            + b": "
            + self._any(CODINGS, 2)
        )

    def _body(self) -> bytes:
        return self._random.choice((b"", b"", b"abc", b"abcde", *CHUNKED))

    def _any(self, samples: tuple[bytes, ...], good: int) -> bytes:
        """:param good: so many of the first are taken mostly"""
        chance = self._random
        return chance.choice(samples[:good] if chance.random() < 0.8 else samples)

    def _mutated(self, head: bytes) -> bytes:
        chance = self._random
        data = bytearray(head)
        for _ in range(chance.choice((1, 1, 2, 4))):
            at = chance.randrange(len(data) + 1)
            match chance.randrange(5):
                case 0:
                    data[at:at] = chance.choice(SPICE)
                case 1:
                    del data[at : at + chance.randrange(9)]
                case 2:
                    data[at : at + 1] = bytes([chance.randrange(256)])
                case 3:
                    data[at:at] = data[chance.randrange(len(data) + 1) :][:40]
                case _:
                    del data[at:]
        return bytes(data)
