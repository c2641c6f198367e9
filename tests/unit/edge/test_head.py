"""The grammar of heads: what is refused, what survives, and that nothing else than BadHead ever comes out."""

import contextlib

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from wrenn_server.wire.head import (
    CHUNKED,
    MAX_HEAD,
    MAX_HEADERS,
    NO_BODY,
    UNTIL_CLOSE,
    BadHead,
    Framing,
    Head,
    ResponseHead,
    parse_request,
    parse_response,
    request_framing,
    response_framing,
    wants_close,
    wants_upgrade,
)

SMUGGLING = {
    "CL and TE": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
    "TE and CL": b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n",
    "two different CL": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
    "two equal CL": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n",
    "a list as CL": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5, 5\r\n\r\n",
    "signed CL": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +5\r\n\r\n",
    "negative CL": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
    "hexadecimal CL": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x5\r\n\r\n",
    "CL with blanks": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1 2\r\n\r\n",
    "empty CL": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\n",
    "other digits as CL": "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: ²\r\n\r\n".encode("latin-1"),
    "CL beyond any size": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999\r\n\r\n",
    "CL with an underscore": b"POST / HTTP/1.1\r\nHost: a\r\nContent_Length: 5\r\n\r\n",
    "TE with an underscore": b"POST / HTTP/1.1\r\nHost: a\r\nTransfer_Encoding: chunked\r\n\r\n",
    "unknown TE": b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n",
    "TE not chunked last": b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, identity\r\n\r\n",
    "TE twice": b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n\r\n",
    "TE chunked twice": b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, chunked\r\n\r\n",
    "TE with a vertical tab": b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \x0bchunked\r\n\r\n",
    "TE quoted": b'POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: "chunked"\r\n\r\n',
    "TE in HTTP/1.0": b"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
    "blank before the colon": b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked\r\n\r\n",
    "tab before the colon": b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding\t: chunked\r\n\r\n",
    "folded line": b"POST / HTTP/1.1\r\nHost: a\r\nX: b\r\n Transfer-Encoding: chunked\r\n\r\n",
    "folded with tab": b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\r\n\tchunked\r\n\r\n",
    "folded first line": b"GET / HTTP/1.1\r\n Host: a\r\n\r\n",
    "bare LF": b"GET / HTTP/1.1\nHost: a\r\n\r\n",
    "bare LF between headers": b"GET / HTTP/1.1\r\nHost: a\nX: y\r\n\r\n",
    "bare CR in a value": b"GET / HTTP/1.1\r\nHost: a\rX: y\r\n\r\n",
    "CR CR LF": b"GET / HTTP/1.1\r\nHost: a\r\r\n\r\n",
    "NUL in a value": b"GET / HTTP/1.1\r\nHost: a\0b\r\n\r\n",
    "NUL in a name": b"GET / HTTP/1.1\r\nHo\0st: a\r\n\r\n",
    "DEL in a value": b"GET / HTTP/1.1\r\nHost: a\x7f\r\n\r\n",
    "no colon": b"GET / HTTP/1.1\r\nHost\r\n\r\n",
    "empty name": b"GET / HTTP/1.1\r\n: a\r\n\r\n",
    "name with umlaut": "GET / HTTP/1.1\r\nHöst: a\r\n\r\n".encode("latin-1"),
    "CONNECT with a body": b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n",
    "two blanks in the request line": b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n",
    "blank in the target": b"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n",
    "tab in the request line": b"GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n",
    "leading blank": b" GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    "leading blank line": b"\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
    "HTTP/0.9": b"GET /\r\n\r\n",
    "lower-case version": b"GET / http/1.1\r\nHost: a\r\n\r\n",
    "two heads at once": b"GET / HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
    "body beside the head": b"GET / HTTP/1.1\r\nHost: a\r\n\r\nx",
    "nothing": b"",
    "only a blank line": b"\r\n\r\n",
    "TLS hello": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
}


@pytest.mark.parametrize("data", SMUGGLING.values(), ids=SMUGGLING.keys())
def test_ambiguous_heads_are_refused(data: bytes) -> None:
    with pytest.raises(BadHead) as caught:
        request_framing(parse_request(data))
    assert caught.value.status == 400


@pytest.mark.parametrize("version", ["HTTP/2.0", "HTTP/3.0", "HTTP/1.2", "HTTP/0.9"])
def test_other_versions(version: str) -> None:
    with pytest.raises(BadHead) as caught:
        parse_request(f"PRI * {version}\r\n\r\n".encode())
    assert caught.value.status == 505


def test_number_of_headers_is_bounded() -> None:
    lines = b"".join(b"X-%d: y\r\n" % i for i in range(MAX_HEADERS))
    assert len(parse_request(b"GET / HTTP/1.1\r\n" + lines + b"\r\n").headers) == MAX_HEADERS
    with pytest.raises(BadHead) as caught:
        parse_request(b"GET / HTTP/1.1\r\nOne: more\r\n" + lines + b"\r\n")
    assert caught.value.status == 431


def test_a_hostile_head_of_full_length_is_parsed_in_linear_time() -> None:
    for filler in (b"a", b"a:", b":", b" ", b"\t", b"\r\n", b"a: b\r\n", b"\xff", b"%"):
        data = b"GET / HTTP/1.1\r\n" + filler * (MAX_HEAD // len(filler))
        with pytest.raises(BadHead):
            parse_request(data)  # pytest's timeout would end a quadratic one


def test_what_a_head_gives() -> None:
    head = parse_request(
        b"POST /a%2Fb?c=\xc3\xa4 HTTP/1.1\r\nHOST:  x:1 \t\r\nX-A: 1\r\nx-a: 2\r\nEmpty:\r\ncontent-length: 007\r\n\r\n"
    )
    assert (head.method, head.target, head.path, head.minor) == ("POST", "/a%2Fb?c=%C3%A4", "/a%2Fb", 1)
    assert head.headers == (
        ("HOST", "x:1"),
        ("X-A", "1"),
        ("x-a", "2"),
        ("Empty", ""),
        ("content-length", "007"),
    )
    assert head.get("x-a") == "1, 2"
    assert request_framing(head) == Framing("length", 7)


@pytest.mark.parametrize(
    ("lines", "framing"),
    [
        (b"", NO_BODY),
        (b"Content-Length: 0\r\n", NO_BODY),
        (b"Content-Length: 12\r\n", Framing("length", 12)),
        (b"Transfer-Encoding: chunked\r\n", CHUNKED),
        (b"transfer-encoding: Chunked\r\n", CHUNKED),
    ],
)
def test_framing_of_requests(lines: bytes, framing: Framing) -> None:
    assert request_framing(parse_request(b"POST / HTTP/1.1\r\nHost: a\r\n" + lines + b"\r\n")) == framing


@pytest.mark.parametrize(
    ("method", "status", "lines", "framing"),
    [
        ("GET", 200, b"Content-Length: 3\r\n", Framing("length", 3)),
        ("GET", 200, b"Transfer-Encoding: chunked\r\n", CHUNKED),
        ("GET", 200, b"", UNTIL_CLOSE),
        ("HEAD", 200, b"Content-Length: 3\r\n", NO_BODY),
        ("HEAD", 200, b"Transfer-Encoding: chunked\r\n", NO_BODY),
        ("GET", 204, b"", NO_BODY),
        ("GET", 304, b"Content-Length: 3\r\n", NO_BODY),
        ("GET", 100, b"", NO_BODY),
    ],
)
def test_framing_of_responses(method: str, status: int, lines: bytes, framing: Framing) -> None:
    head = parse_response(b"HTTP/1.1 %d X\r\n%b\r\n" % (status, lines))
    assert response_framing(method, head) == framing


@pytest.mark.parametrize(
    "lines",
    [
        b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n",
        b"Content-Length: 3\r\nContent-Length: 4\r\n",
        b"Transfer-Encoding: gzip\r\n",
    ],
)
def test_ambiguous_responses_are_refused(lines: bytes) -> None:
    for method in ("GET", "HEAD"):
        with pytest.raises(BadHead):
            response_framing(method, parse_response(b"HTTP/1.1 200 OK\r\n" + lines + b"\r\n"))


def test_reason_is_optional() -> None:
    assert parse_response(b"HTTP/1.1 204\r\n\r\n").status == 204
    assert parse_response(b"HTTP/1.0 404 Not Found\r\n\r\n").reason == "Not Found"
    with pytest.raises(BadHead):
        parse_response(b"HTTP/1.1 099 X\r\n\r\n")


def test_upgrade_and_close_need_connection() -> None:
    def head(lines: bytes) -> Head:
        return parse_request(b"GET / HTTP/1.1\r\n" + lines + b"\r\n")

    assert wants_upgrade(head(b"Connection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\n")) == "websocket"
    assert wants_upgrade(head(b"Upgrade: websocket\r\n")) is None
    assert wants_upgrade(head(b"Connection: upgrade\r\n")) is None
    assert wants_close(head(b"Connection: foo, CLOSE\r\n"))
    assert not wants_close(head(b"Connection: keep-alive\r\n"))
    assert wants_close(parse_request(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"))


_NAMES = st.text("abcXYZ0189-_!#$%&'*+.^`|~", min_size=1, max_size=20)
_VALUES = st.text(
    st.characters(min_codepoint=0x20, max_codepoint=0xFF, blacklist_characters="\x7f"), max_size=40
).map(lambda text: text.strip(" \t"))
_HEADERS = st.lists(st.tuples(_NAMES, _VALUES), max_size=20)
_TARGETS = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1)


@given(st.sampled_from(["GET", "POST", "x!"]), _TARGETS, _HEADERS, st.sampled_from([0, 1]))
def test_a_serialised_request_parses_equal(
    method: str, target: str, headers: list[tuple[str, str]], minor: int
) -> None:
    head = Head.of(method, target, headers, minor)
    assert parse_request(head.encode()) == head


@given(st.integers(100, 999), _HEADERS, _VALUES, st.sampled_from([0, 1]))
def test_a_serialised_response_parses_equal(
    status: int, headers: list[tuple[str, str]], reason: str, minor: int
) -> None:
    head = ResponseHead.of(status, headers, reason, minor)
    assert parse_response(head.encode()) == head


_PIECES = [
    b"GET / HTTP/1.1", b"POST", b"HTTP/1.1 200 OK", b"Host: a", b"Content-Length: 3", b"Transfer-Encoding: chunked",
    b"Connection: upgrade", b"\r\n", b"\r\n\r\n", b"\n", b"\r", b" ", b"\t", b":", b"\0", b"\xff", b"1", b",", b"/",
]  # fmt: skip


@given(st.one_of(st.binary(), st.lists(st.sampled_from(_PIECES), max_size=30).map(b"".join)))
@example(b"GET / HTTP/1.1\r\n\r\n")
def test_any_bytes_give_a_head_or_bad_head(data: bytes) -> None:
    with contextlib.suppress(BadHead):
        head = parse_request(data)
        request_framing(head)
        assert data.endswith(b"\r\n\r\n")
        assert data.count(b"\n") == data.count(b"\r") == data.count(b"\r\n") == len(head.headers) + 2
        assert parse_request(head.encode()) == head
    with contextlib.suppress(BadHead):
        response_framing("GET", parse_response(data))
