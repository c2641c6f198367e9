"""Which sandbox a request means, what never gets to one, and what a sandbox may see."""

import base64
import json

import pytest

from wrenn_server.edge import route
from wrenn_server.edge.head import admitted, delivered, outgoing
from wrenn_server.edge.target import Peer
from wrenn_server.model.ids import SandboxId
from wrenn_server.wire.head import BadHead, Framing, Head, ResponseHead, parse_request, parse_response

ID = "sb" + "0abc" * 5
PEER = Peer("192.0.2.7")


def request(host: str, target: str = "/", method: str = "GET", **headers: str) -> Head:
    lines = [(name.replace("_", "-"), value) for name, value in headers.items()]
    return Head.of(method, target, [("Host", host), *lines])


@pytest.mark.parametrize(
    "host",
    [
        f"3000-{ID}.wrenn.dev",
        f"3000-{ID}.localhost:8000",
        f"3000-{ID}",
        f"3000-{ID.upper()}.Wrenn.Dev",
        f"3000-{ID}.a.b:1",
    ],
)
def test_host_names_a_sandbox(host: str) -> None:
    assert route.route(request(host)) == route.ToSandbox(SandboxId(ID), 3000, host)


@pytest.mark.parametrize(
    "host", ["localhost:8000", "127.0.0.1:8000", "[::1]:8000", "sandbox.wrenn.dev", "wrenn.dev", ""]
)
def test_headers_name_a_sandbox(host: str) -> None:
    head = request(host, E2b_Sandbox_Id=ID, E2b_Sandbox_Port="8080")
    assert route.route(head) == route.ToSandbox(SandboxId(ID), 8080, host)


def test_the_host_name_wins_over_headers() -> None:
    other = "sb" + "z" * 20
    decision = route.route(request(f"3000-{ID}.wrenn.dev", E2b_Sandbox_Id=other, E2b_Sandbox_Port="49983"))
    assert isinstance(decision, route.ToSandbox)
    assert (decision.id, decision.port) == (ID, 3000)


@pytest.mark.parametrize(
    "host", ["localhost:8000", "api.wrenn.dev", "10.0.0.1", "3000.wrenn.dev", "my-app.wrenn.dev"]
)
def test_the_rest_is_the_api(host: str) -> None:
    assert route.route(request(host, "/v1/sandboxes")) == route.ToApi()


@pytest.mark.parametrize(
    ("head", "status", "body"),
    [
        (request("x", E2b_Sandbox_Id=ID), 400, {"message": "missing header E2b-Sandbox-Port", "code": 400}),
        (request("x", E2b_Sandbox_Port="1"), 400, {"message": "missing header E2b-Sandbox-Id", "code": 400}),
        (
            request("3000-i1234.wrenn.dev"),
            502,
            {"sandboxId": "i1234", "message": "The sandbox was not found", "code": 502},
        ),
        (
            request("x", E2b_Sandbox_Id="../../etc", E2b_Sandbox_Port="1"),
            502,
            {"sandboxId": "../../etc", "message": "The sandbox was not found", "code": 502},
        ),
    ],
)
def test_refusals(head: Head, status: int, body: object) -> None:
    decision = route.route(head)
    assert isinstance(decision, route.Refuse)
    assert decision.answer.status == status
    assert json.loads(decision.answer.body) == body


@pytest.mark.parametrize("port", ["0", "00080", "65536", "99999999", "-1", "8080, 8080", "80 ", "８０"])
def test_ports_that_are_none(port: str) -> None:
    decision = route.route(request("x", E2b_Sandbox_Id=ID, E2b_Sandbox_Port=port))
    assert isinstance(decision, route.Refuse)
    assert decision.answer.status == 400


def test_connect_is_no_way_into_a_sandbox() -> None:
    for head in (request("a:1", "a:1", "CONNECT"), request(f"22-{ID}.x", f"22-{ID}.x:22", "CONNECT")):
        decision = route.route(head)
        assert isinstance(decision, route.Refuse)
        assert decision.answer.status == 405


CONTROL = ["init", "freeze", "unfreeze", "collapse", "fsfreeze", "fsthaw", "upgrade"]
SPELLINGS = [
    "/{}", "//{}", "/./{}", "/../{}", "/x/../{}", "/{}/", "/{}?x=1", "/%2f{}", "/%2F{}", "%2f{}", "/{};a=b", "/{}#",
    "/health/../{}", "/files/../{}", "/files/..%2f{}", "/health%2f..%2f{}", "/\\{}", "/health;/../{}", "/{}%00", "/{}%20",
    "http://x/{}", "http://x//{}", "HTTP://X/{}", "/health\\..\\{}", "/health//{}", "/?/../{}", "*", "/",
]  # fmt: skip


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_control_routes_of_envd_do_not_exist(spelling: str) -> None:
    for word in CONTROL:
        for form in (word, word.upper(), word.title(), "%" + f"{ord(word[0]):02x}" + word[1:]):
            head = request("x", spelling.format(form), "POST", E2b_Sandbox_Id=ID, E2b_Sandbox_Port="49983")
            try:
                head = admitted(head, PEER, trusted=False)
            except BadHead:
                continue
            decision = route.route(head)
            assert isinstance(decision, route.Refuse), head.target
            assert decision.answer.status == 404


@pytest.mark.parametrize(
    "target",
    [
        "/health", "/metrics", "/envs", "/files", "/files?path=/init&signature=v1_a%2Bb", "/files/compose",
        "/process.Process/Start", "/filesystem.Filesystem/ListDir",
    ],
)  # fmt: skip
def test_the_open_routes_of_envd(target: str) -> None:
    assert isinstance(route.route(request(f"49983-{ID}.x", target)), route.ToSandbox)


def test_init_of_another_port_is_the_users_own() -> None:
    assert isinstance(route.route(request(f"8080-{ID}.x", "/init", "POST")), route.ToSandbox)


def jwt(claims: object) -> str:
    def part(value: object) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")

    return f"{part({'alg': 'EdDSA'})}.{part(claims)}.c2ln"


@pytest.mark.parametrize(
    ("authorization", "ours"),
    [
        ("Bearer wrn_" + "a" * 40, True),
        ("bearer   e2b_" + "0" * 40, True),
        ("Token wrn_" + "a" * 40, True),
        ("wrn_" + "a" * 40, True),
        (f"Bearer {jwt({'iss': 'wrenn', 'sub': 'usr_1'})}", True),
        (f"Bearer {jwt({'iss': 'example.com'})}", False),
        (f"Bearer {jwt(['iss', 'wrenn'])}", False),
        (f"Bearer {jwt({'iss': ['wrenn']})}", False),
        ("Bearer a.b.c", False),
        ("Bearer a.####.c", False),
        ("Basic dXNlcjo=", False),
        ("Bearer sk-something", False),
    ],
)
def test_platform_credentials(authorization: str, ours: bool) -> None:
    assert route.is_platform_credential(authorization) is ours
    head = route.for_sandbox(request("x", Authorization=authorization))
    assert head.get("authorization") == (None if ours else authorization)


def test_what_a_sandbox_does_not_see() -> None:
    head = parse_request(
        b"GET / HTTP/1.1\r\nHost: x\r\nX-API-Key: wrn_1\r\nx-host-token: t\r\nX-Access-Token: envd\r\n"
        b"E2b-Sandbox-Id: s\r\nCookie: a=1; wrenn_session=2; b=3;wrenn_x\r\nCookie: __Host-wrenn_s=1\r\n"
        b"Authorization: Basic dXNlcjo=\r\nAuthorization: Bearer wrn_2\r\n\r\n"
    )
    assert route.for_sandbox(head).headers == (
        ("Host", "x"),
        ("X-Access-Token", "envd"),
        ("E2b-Sandbox-Id", "s"),
        ("Cookie", "a=1; b=3"),
        ("Authorization", "Basic dXNlcjo="),
    )


def test_a_sandbox_cannot_plant_our_cookies() -> None:
    head = ResponseHead.of(
        200, [("Set-Cookie", "wrenn_session=x; Domain=wrenn.dev"), ("Set-Cookie", "a=b"), ("X", "y")]
    )
    assert route.from_sandbox(head).headers == (("Set-Cookie", "a=b"), ("X", "y"))


def test_admission_replaces_what_a_client_claims() -> None:
    head = request(
        "api", X_Forwarded_For="1.1.1.1", X_Real_IP="1.1.1.1", Forwarded="for=1.1.1.1", X_Request_Id="mine"
    )
    seen = admitted(head, Peer("192.0.2.7", tls=True), trusted=False)
    assert seen.get("x-forwarded-for") == "192.0.2.7"
    assert seen.get("x-forwarded-proto") == "https"
    assert seen.get("x-forwarded-host") == "api"
    assert seen.get("x-real-ip") is None
    assert seen.get("forwarded") is None
    assert (seen.get("x-request-id") or "").startswith("req_")


def test_admission_keeps_what_a_trusted_peer_claims() -> None:
    head = request("api", X_Forwarded_For="1.1.1.1", X_Forwarded_Proto="https", X_Request_Id="req_1")
    seen = admitted(head, PEER, trusted=True)
    assert seen.get("x-forwarded-for") == "1.1.1.1"
    assert seen.get("x-forwarded-proto") == "https"
    assert seen.get("x-request-id") == "req_1"
    bad = admitted(request("api", X_Request_Id="a b"), PEER, trusted=True)
    assert (bad.get("x-request-id") or "").startswith("req_")


@pytest.mark.parametrize(
    ("data", "target"),
    [
        (b"GET http://a/x?y HTTP/1.1\r\nHost: a\r\n\r\n", "/x?y"),
        (b"GET http://A HTTP/1.1\r\nHost: a\r\n\r\n", "/"),
        (b"GET http://a?q HTTP/1.1\r\nHost: a\r\n\r\n", "/?q"),
        (b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", "*"),
        (b"GET / HTTP/1.0\r\n\r\n", "/"),
        (b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n", "a:1"),
    ],
)
def test_targets(data: bytes, target: str) -> None:
    assert admitted(parse_request(data), PEER, trusted=False).target == target


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: u@a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: \xff\r\n\r\n",
        b"GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET http://u@a/ HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET a HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET * HTTP/1.1\r\nHost: a\r\n\r\n",
        b"CONNECT / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"CONNECT a HTTP/1.1\r\nHost: a\r\n\r\n",
    ],
)
def test_heads_without_one_meaning(data: bytes) -> None:
    with pytest.raises(BadHead):
        admitted(parse_request(data), PEER, trusted=False)


def test_hop_by_hop_headers_end_here() -> None:
    head = parse_request(
        b"GET / HTTP/1.1\r\nHost: a\r\nConnection: X-Secret, close, Host, Content-Length\r\nX-Secret: 1\r\nKeep-Alive: 5\r\n"
        b"TE: trailers\r\nTrailer: x\r\nUpgrade: h2c\r\nHTTP2-Settings: x\r\nProxy-Authorization: y\r\nContent-Length: 1\r\n"
        b"X-Kept: 2\r\n\r\n"
    )
    sent = parse_request(outgoing(head, Framing("length", 1), upgrade=None, reusable=True))
    assert sent.headers == (("Host", "a"), ("Content-Length", "1"), ("X-Kept", "2"))
    response = ResponseHead.of(
        200, [("Connection", "x-a"), ("X-A", "1"), ("Transfer-Encoding", "chunked"), ("B", "2")]
    )
    assert parse_response(delivered(response, chunked=False, close=False)).headers == (("B", "2"),)
