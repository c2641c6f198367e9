"""The name in a ClientHello: of real clients, in pieces, and from somebody who means harm."""

import ssl
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wrenn_server.hostagent.network.egress.hello import MAX_HELLO, BadHello, server_name


def client_hello(name: str | None, *, minimum: ssl.TLSVersion = ssl.TLSVersion.TLSv1_2) -> bytes:
    """What OpenSSL sends."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.minimum_version = minimum
    context.set_alpn_protocols(["h2", "http/1.1"])
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(incoming, outgoing, server_hostname=name).do_handshake()
    return outgoing.read()


REAL = client_hello("allowed.example")


def records(message: bytes, *sizes: int) -> bytes:
    """A handshake message in records of the given sizes, and the rest in a last one."""
    data = b""
    for size in (*sizes, len(message)):
        if piece := message[:size]:
            data += struct.pack("!BHH", 22, 0x0301, len(piece)) + piece
        message = message[size:]
    return data


def vector(size: int, data: bytes) -> bytes:
    return len(data).to_bytes(size) + data


def named(*entries: bytes, kind: int = 0) -> bytes:
    """The server_name extension."""
    names = b"".join(bytes([kind]) + vector(2, entry) for entry in entries)
    return struct.pack("!H", 0) + vector(2, vector(2, names))


def hello(*extensions: bytes, after: bytes = b"") -> bytes:
    body = b"\x03\x03" + bytes(32) + vector(1, b"") + vector(2, b"\x13\x01") + vector(1, b"\0")
    body += vector(2, b"".join(extensions)) + after
    return b"\x01" + vector(3, body)


@pytest.mark.parametrize("minimum", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_what_a_client_sends_is_understood(minimum: ssl.TLSVersion) -> None:
    assert server_name(client_hello("allowed.example", minimum=minimum)) == "allowed.example"
    assert server_name(client_hello("UPPER.Example", minimum=minimum)) == "upper.example"


def test_a_client_without_a_name_is_refused() -> None:
    for data in (client_hello(None), client_hello("1.2.3.4"), records(hello())):
        with pytest.raises(BadHello):
            server_name(data)


def test_what_follows_does_not_matter() -> None:
    assert server_name(REAL + b"\x17\x03\x03\x00\x04data") == "allowed.example"


@given(st.integers(0, len(REAL) - 1))
def test_half_of_it_is_not_enough(end: int) -> None:
    assert server_name(REAL[:end]) is None


@given(st.lists(st.integers(1, 200), max_size=3))
def test_it_may_come_in_several_records(sizes: list[int]) -> None:
    data = records(REAL[5:], *sizes)
    assert server_name(data) == "allowed.example"
    for end in range(len(data)):
        assert server_name(data[:end]) is None


def test_it_may_not_come_in_many() -> None:
    with pytest.raises(BadHello, match="records"):
        server_name(records(REAL[5:], 1, 1, 1, 1))


@pytest.mark.parametrize(
    "message",
    [
        hello(named(b"allowed.example"), named(b"other.example")),
        hello(named(b"allowed.example", b"other.example")),
        hello(named()),
        hello(named(b"allowed.example", kind=1)),
        hello(named(b"")),
        hello(named(b"allowed.example\0.other.example")),
        hello(named(b"allowed.example/")),
        hello(named(b"\xffallowed.example")),
        hello(named("bücher.example".encode())),
        hello(named(b"1.2.3.4")),
        hello(named(b"allowed.example") + b"\0"),
        hello(named(b"allowed.example"), after=b"\0"),
        hello(named(b"allowed.example"))[:-1] + b"ee",
        b"\x02" + hello(named(b"allowed.example"))[1:],
        hello(struct.pack("!HH", 0, 5) + vector(2, b"\0\0\0")),
        hello(struct.pack("!HH", 0, 500) + b"short"),
        b"\x01" + vector(3, b"\x03\x03" + bytes(32) + b"\xff"),
        b"\x01\xff\xff\xff",
        hello(struct.pack("!H", 21) + vector(2, bytes(MAX_HELLO)), named(b"allowed.example")),
    ],
)
def test_what_another_reader_could_read_otherwise_is_refused(message: bytes) -> None:
    with pytest.raises(BadHello):
        server_name(records(message, 16000))


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\nHost: allowed.example\r\n\r\n",
        b"\x80\x2e\x01\x03\x01",
        b"\x15\x03\x01\0\2\2\x28",
        b"\x16\x02\0\0\1\1",
        b"\x16\x03\1\0\0",
        b"\x16\x03\1\x40\1" + bytes(10),
        b"\x16\x03\1\0\4\1\0\0\0",
        records(REAL[5:], 10)[:15] + b"\x17\x03\x03\0\1x",
        records(REAL[5:]) [:3] + (len(REAL) - 4).to_bytes(2) + REAL[5:] + b"x",
    ],
)  # fmt: skip
def test_other_protocols_are_refused_at_once(data: bytes) -> None:
    with pytest.raises(BadHello):
        server_name(data)


def test_waiting_has_an_end() -> None:
    endless = b"\x16\x03\x01\x40\x00\x01\x00\x3f\xfc"
    assert server_name(endless) is None
    with pytest.raises(BadHello):
        server_name(endless + bytes(MAX_HELLO))


@given(st.binary(max_size=200))
def test_nothing_breaks_it(data: bytes) -> None:
    survives(data)


@given(st.lists(st.tuples(st.integers(0, len(REAL) - 1), st.integers(0, 255)), max_size=4), st.data())
def test_no_change_to_a_real_one_breaks_it(changes: list[tuple[int, int]], data: st.DataObject) -> None:
    changed = bytearray(REAL)
    for at, value in changes:
        changed[at] = value
    at, removed = data.draw(st.integers(0, len(REAL))), data.draw(st.integers(0, 4))
    changed[at : at + removed] = data.draw(st.binary(max_size=4))
    survives(bytes(changed))


def survives(data: bytes) -> None:
    try:
        name = server_name(data)
    except BadHello:
        return
    assert name is None or name.encode() in data.lower()
