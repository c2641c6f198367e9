"""Which host an HTTP request is for, and that there is only one answer."""

import contextlib

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from wrenn_server.hostagent.network.egress import web
from wrenn_server.wire.head import BadHead, parse_response


def head(*lines: str) -> bytes:
    return "".join(f"{line}\r\n" for line in (*lines, "")).encode("latin-1")


@pytest.mark.parametrize(
    ("lines", "host"),
    [
        (["GET / HTTP/1.1", "Host: allowed.example"], "allowed.example"),
        (["GET / HTTP/1.0", "host: Allowed.Example."], "allowed.example"),
        (["POST /x?y HTTP/1.1", "Host: allowed.example:80", "Content-Length: 3"], "allowed.example"),
        (["GET http://allowed.example/x HTTP/1.1", "Host: allowed.example"], "allowed.example"),
        (["GET HTTP://ALLOWED.example:80 HTTP/1.1", "Host: allowed.example"], "allowed.example"),
        (["OPTIONS * HTTP/1.1", "Host: allowed.example"], "allowed.example"),
    ],
)
def test_the_host(lines: list[str], host: str) -> None:
    assert web.parse(head(*lines))[0] == host


@pytest.mark.parametrize(
    "lines",
    [
        ["GET / HTTP/1.1"],
        ["GET / HTTP/1.1", "Host:"],
        ["GET / HTTP/1.1", "Host: 1.2.3.4"],
        ["GET / HTTP/1.1", "Host: [::1]"],
        ["GET / HTTP/1.1", "Host: user@allowed.example"],
        ["GET / HTTP/1.1", "Host: allowed.example:443"],
        ["GET / HTTP/1.1", "Host: allowed.example:80:80"],
        ["GET / HTTP/1.1", "Host: allowed.example/other.example"],
        ["GET / HTTP/1.1", "Host: allowed.example\tother.example"],
        ["GET / HTTP/1.1", "Host: b\xfccher.example"],
        ["GET / HTTP/1.1", "Host: allowed.example", "host: allowed.example"],
        ["GET other.example HTTP/1.1", "Host: allowed.example"],
        ["GET ftp://allowed.example/ HTTP/1.1", "Host: allowed.example"],
        ["GET http:///x HTTP/1.1", "Host: allowed.example"],
        ["GET http://other.example#@allowed.example/ HTTP/1.1", "Host: allowed.example"],
        ["GET http://other.example?.allowed.example/ HTTP/1.1", "Host: allowed.example"],
        ["GET http://other.example\\@allowed.example/ HTTP/1.1", "Host: allowed.example"],
        ["CONNECT allowed.example:80 HTTP/1.1", "Host: allowed.example"],
        ["GET / HTTP/2.0", "Host: allowed.example"],
        ["GET / HTTP/1.1", "Host: allowed.example", "Content-Length: 1", "Content-Length: 2"],
    ],
)
def test_requests_that_could_be_for_another(lines: list[str]) -> None:
    with pytest.raises(BadHead):
        web.parse(head(*lines))


pieces = st.sampled_from(
    ["GET", " ", "/", "http://", "HTTP/1.1", "\r\n", "\n", "\r", "Host", ":", "host: ", "allowed.example", "other.example",
     ",", "@", "#", "\t", "\0", "Content-Length: 1", "Transfer-Encoding: chunked", "CONNECT", "X-Host: other.example"]
)  # fmt: skip


@given(st.lists(pieces | st.text(max_size=3), max_size=30).map("".join))
@example("GET / HTTP/1.1\r\nHost: allowed.example\r\n\r\n")
def test_whatever_is_accepted_names_one_host_once(text: str) -> None:
    data = text.encode("utf-8", "surrogateescape")
    with contextlib.suppress(BadHead):
        host, _, _ = web.parse(data)
        lines = [line.lower() for line in data.split(b"\r\n") if line.lower().startswith(b"host")]
        hosts = [line.partition(b":")[2].strip(b" \t") for line in lines if line.startswith(b"host:")]
        assert len(hosts) == 1
        assert hosts[0].removesuffix(b":80").rstrip(b".") == host.encode()
        assert not data.upper().startswith(b"CONNECT ")


def test_a_refusal_is_a_whole_answer() -> None:
    answer, body = web.refusal("no é").split(b"\r\n\r\n")
    assert parse_response(answer + b"\r\n\r\n").status == 403
    assert body == b"no ?\n"
