"""The chunked coding: however it is cut into pieces, the same payload or the same refusal."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wrenn_server.wire.body import LAST_CHUNK, BadBody, Dechunker, chunk


def decode(data: bytes, cuts: list[int]) -> tuple[bytes, bytes]:
    dechunker = Dechunker()
    payload = bytearray()
    at = 0
    for cut in [*sorted(cut for cut in cuts if cut < len(data)), len(data)]:
        if dechunker.done:
            break
        payload += dechunker.feed(data[at:cut])
        at = cut
    assert dechunker.done
    return bytes(payload), dechunker.rest + data[at:]


def one_by_one(data: bytes) -> None:
    dechunker = Dechunker()
    for byte in data:
        dechunker.feed(bytes([byte]))


_CUTS = st.lists(st.integers(0, 400))


@given(st.lists(st.binary(min_size=1, max_size=50), max_size=8), _CUTS, st.binary(max_size=20))
def test_any_pieces_give_the_payload(chunks: list[bytes], cuts: list[int], after: bytes) -> None:
    data = b"".join(chunk(piece) for piece in chunks) + LAST_CHUNK + after
    assert decode(data, cuts) == (b"".join(chunks), after)


@given(_CUTS)
def test_extensions_and_trailers_are_dropped(cuts: list[int]) -> None:
    data = b'3;a=b;c="d"\r\nabc\r\n00A \t;x\r\n0123456789\r\n0\r\nX-Sum: 1\r\nY:\r\n\r\nGET /'
    assert decode(data, cuts) == (b"abc0123456789", b"GET /")


BAD = {
    "no size": b"\r\nabc\r\n0\r\n\r\n",
    "signed": b"+3\r\nabc\r\n0\r\n\r\n",
    "0x": b"0x3\r\nabc\r\n0\r\n\r\n",
    "blank first": b" 3\r\nabc\r\n0\r\n\r\n",
    "blank after": b"3 \r\nabc\r\n0\r\n\r\n",
    "bare LF after the size": b"3\nabc\r\n0\r\n\r\n",
    "bare LF in an extension": b"3;a\nb\r\nabc\r\n0\r\n\r\n",
    "bare CR in an extension": b"3;a\rb\r\nabc\r\n0\r\n\r\n",
    "data too long": b"3\r\nabcd\r\n0\r\n\r\n",
    "bare LF after data": b"3\r\nabc\n0\r\n\r\n",
    "bare CR after data": b"3\r\nabc\rx0\r\n\r\n",
    "size beyond 60 bits": b"1000000000000000\r\n",
    "long extension": b"3;" + b"a" * 300 + b"\r\nabc\r\n0\r\n\r\n",
    "endless extension": b"3;" + b"a" * 300,
    "endless size": b"0" * 300,
    "trailer without colon": b"0\r\nX\r\n\r\n",
    "folded trailer": b"0\r\nX: a\r\n b\r\n\r\n",
    "too many trailers": b"0\r\n" + b"X: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n" * 400 + b"\r\n",
}


@pytest.mark.parametrize("data", BAD.values(), ids=BAD.keys())
def test_what_is_no_chunk_is_refused(data: bytes) -> None:
    with pytest.raises(BadBody):
        Dechunker().feed(data)
    with pytest.raises(BadBody):
        one_by_one(data)


@given(
    st.one_of(
        st.binary(), st.lists(st.sampled_from([b"3", b"\r\n", b"abc", b"0", b";", b"\n", b"a"])).map(b"".join)
    )
)
def test_any_bytes_give_a_payload_or_bad_body(data: bytes) -> None:
    dechunker = Dechunker()
    try:
        payload = dechunker.feed(data)
    except BadBody:
        return
    assert len(payload) + len(dechunker.rest) <= len(data)
