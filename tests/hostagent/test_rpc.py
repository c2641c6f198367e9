"""Who may call, what is refused and how, and that each route reaches the registry."""

import asyncio
import time
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import jwt
import msgspec
import pytest
from hostagent.calls import Caller, Signer, calling
from hostagent.world import ID, OTHER, World, start

from wrenn_server.hostagent import tunnel
from wrenn_server.model.errors import WrennError
from wrenn_server.wire import http1


@pytest.fixture
async def call(world: World, tmp_path: Path) -> AsyncGenerator[Caller]:
    async with calling(world, tmp_path / "run") as caller:
        yield caller


def start_body(**changes: Any) -> dict[str, Any]:
    return msgspec.to_builtins(start()) | changes


async def test_the_life_of_a_sandbox_call_by_call(call: Caller) -> None:
    path = f"/v1/sandboxes/{ID}"
    status, report = await call("PUT", path, start_body())
    assert (status, report["state"], report["generation"]) == (200, "running", 1)
    assert await call("GET", path) == (200, report)
    assert (await call("GET", "/v1/sandboxes"))[1] == {"sandboxes": [report]}
    _, report = await call("POST", f"{path}/timeout", {"generation": 1, "ttl_sec": 50, "on_timeout": "pause"})
    assert report["expires_at"] is not None
    targets = [{"id": OTHER, "generation": 1, "access_token": "t"}]
    _, forks = await call("POST", f"{path}/fork", {"generation": 1, "targets": targets})
    assert forks["results"][0]["report"]["state"] == "running"
    assert (await call("POST", f"{path}/pause", {"generation": 1}))[1]["state"] == "paused"
    _, report = await call("POST", f"{path}/resume", {"generation": 2, "access_token": "t2"})
    assert (report["state"], report["generation"]) == ("running", 2)
    assert (await call("DELETE", f"{path}?generation=2")) == (204, None)
    assert (await call("DELETE", f"{path}?generation=2")) == (204, None)
    assert (await call("POST", "/v1/drain", {"mode": "kill"})) == (200, {"sandboxes": []})
    shape = {"vcpus": 1, "memory_mb": 128, "disk_mb": 512}
    assert (await call("POST", "/v1/templates/minimal/prepare", shape))[1]["boot_seconds"] == 0.0
    assert (await call("GET", "/v1/health"))[1]["vmm"] == "fake"


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("GET", f"/v1/sandboxes/{ID}", None, 404, "sandbox_not_found"),
        ("GET", "/v1/sandboxes/..%2F..%2Fetc", None, 404, "not_found"),
        ("PUT", "/v1/sandboxes/sb1", start_body(), 404, "sandbox_not_found"),
        ("PUT", f"/v1/sandboxes/{ID}", b"{", 400, "invalid_request"),
        ("PUT", f"/v1/sandboxes/{ID}", b'{"a": "\xff"}', 400, "invalid_request"),
        ("PUT", f"/v1/sandboxes/{ID}", start_body(extra=1), 400, "invalid_request"),
        ("PUT", f"/v1/sandboxes/{ID}", start_body(vcpus="2"), 400, "invalid_request"),
        ("PUT", f"/v1/sandboxes/{ID}", start_body(template="none"), 404, "template_not_found"),
        ("PUT", f"/v1/sandboxes/{ID}", b" " * 5_000_000, 413, "too_large"),
        ("DELETE", f"/v1/sandboxes/{ID}", None, 400, "invalid_request"),
        ("DELETE", f"/v1/sandboxes/{ID}?generation=-1", None, 400, "invalid_request"),
        ("POST", "/v1/templates/..%2Fx/prepare", {}, 404, "not_found"),
        ("POST", "/v1/templates/-rf/prepare", {}, 404, "template_not_found"),
        ("POST", "/v1/drain", {"mode": "explode"}, 400, "invalid_request"),
        ("GET", "/v1/nothing", None, 404, "not_found"),
        ("PATCH", f"/v1/sandboxes/{ID}", None, 400, "invalid_request"),
    ],
)
async def test_what_cannot_be_done_is_a_problem_with_a_code(
    call: Caller, method: str, path: str, body: object, status: int, code: str
) -> None:
    answered, problem = await call(method, path, body)
    assert (answered, problem["error"]["code"]) == (status, code)
    assert problem["error"]["request_id"]


OTHER_KEY = Signer()


@pytest.mark.parametrize(
    ("authorization"),
    [
        None,
        "Bearer ",
        "Basic abc",
        "Bearer abc.def.ghi",
        "Bearer " + OTHER_KEY.token(),
        "Bearer " + jwt.encode({"aud": "host_" + "a" * 20, "exp": time.time() + 60}, "", algorithm="none"),
    ],
)
async def test_strangers_are_refused(call: Caller, authorization: str | None) -> None:
    headers = [("Authorization", authorization)] if authorization else []
    for method, path in [("GET", "/v1/sandboxes"), ("PUT", f"/v1/sandboxes/{ID}"), ("POST", "/v1/drain")]:
        status, problem = await call(method, path, headers=headers)
        assert (status, problem["error"]["code"]) == (401, "unauthorized")
    with pytest.raises(WrennError) as refusal:
        await http1.connect_tunnel(call.address, f"{ID}:80", headers=headers)
    assert refusal.value.status == 401


@pytest.mark.parametrize(
    "claims", [{"aud": "host_" + "b" * 20}, {"aud": None}, {"exp": 1}, {"exp": None}], ids=str
)
async def test_tokens_for_others_or_of_the_past_are_refused(call: Caller, claims: dict[str, Any]) -> None:
    headers = [("Authorization", f"Bearer {call.signer.token(**claims)}")]
    assert (await call("GET", "/v1/sandboxes", headers=headers))[0] == 401


async def test_metrics_count_sandboxes_and_calls(call: Caller) -> None:
    await call("PUT", f"/v1/sandboxes/{ID}", start_body())
    status, text = await call("GET", "/metrics", headers=[])
    assert status == 200
    assert 'wrenn_agent_sandboxes{state="running"} 1.0' in text
    assert ID not in text


# Tunnels.


async def test_a_tunnel_reaches_the_guest(call: Caller, world: World) -> None:
    await call("PUT", f"/v1/sandboxes/{ID}", start_body())
    stream = await http1.connect_tunnel(call.address, f"{ID}:49983", headers=call.headers)
    async with http1.Connection(stream) as guest:
        assert (await guest.request("GET", "/health")).status == 204


@pytest.mark.parametrize(
    ("target", "status", "code"),
    [
        (f"{OTHER}:80", 404, "sandbox_not_found"),
        ("localhost:22", 404, "sandbox_not_found"),
        (f"{ID}:0", 400, "invalid_request"),
        (f"{ID}:65536", 400, "invalid_request"),
    ],
)
async def test_tunnels_lead_into_sandboxes_alone(call: Caller, target: str, status: int, code: str) -> None:
    await call("PUT", f"/v1/sandboxes/{ID}", start_body())
    with pytest.raises(WrennError) as refusal:
        await http1.connect_tunnel(call.address, target, headers=call.headers)
    assert (refusal.value.status, refusal.value.code) == (status, code)


async def test_a_port_on_which_nobody_listens_is_told(call: Caller) -> None:
    await call("PUT", f"/v1/sandboxes/{ID}", start_body())
    with pytest.raises(WrennError) as refusal:
        await http1.connect_tunnel(call.address, f"{ID}:8080", headers=call.headers)
    assert refusal.value.code == "port_not_open"


SWITCHING = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n"


@pytest.mark.parametrize("first", [b"", b"the server speaks first"])
async def test_a_port_of_the_guests_loopback_is_reached_through_envd(
    call: Caller, world: World, first: bytes
) -> None:
    await call("PUT", f"/v1/sandboxes/{ID}", start_body())
    world.vm().envd.loopback = SWITCHING + first
    async with await http1.connect_tunnel(call.address, f"{ID}:8080", headers=call.headers) as stream:
        stream.write(b"ping")
        received = b""
        while len(received) < len(first) + 4:
            received += await stream.read()
        assert received == first + b"ping"


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", "port_not_open"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "port_not_open"),
        (b"", "guest_unreachable"),
        (b"nonsense\r\n\r\n", "guest_unreachable"),
        (b"HTTP/1.1 101 Switching Protocols\r\nX: " + b"x" * 100_000, "guest_unreachable"),
    ],
    ids=["unknown to envd", "no tunnel", "silence", "nonsense", "endless"],
)
async def test_an_envd_that_gives_no_tunnel_is_told_and_waited_for_no_longer_than_must_be(
    call: Caller, world: World, monkeypatch: pytest.MonkeyPatch, answer: bytes, code: str
) -> None:
    monkeypatch.setattr(tunnel, "CONNECT_TIMEOUT", 0.3)
    await call("PUT", f"/v1/sandboxes/{ID}", start_body())
    world.vm().envd.loopback = answer
    async with asyncio.timeout(5):
        with pytest.raises(WrennError) as refusal:
            await http1.connect_tunnel(call.address, f"{ID}:8080", headers=call.headers)
    assert refusal.value.code == code


async def test_a_port_that_is_just_opening_is_waited_for(call: Caller, world: World) -> None:
    await call("PUT", f"/v1/sandboxes/{ID}", start_body())
    opening = asyncio.get_running_loop().call_later(0.3, lambda: setattr(world, "open_port", 8080))
    async with await http1.connect_tunnel(call.address, f"{ID}:8080", headers=call.headers):
        assert opening.when() <= asyncio.get_running_loop().time()


async def test_a_paused_sandbox_has_no_ports(call: Caller) -> None:
    await call("PUT", f"/v1/sandboxes/{ID}", start_body())
    await call("POST", f"/v1/sandboxes/{ID}/pause", {"generation": 1})
    with pytest.raises(WrennError) as refusal:
        await http1.connect_tunnel(call.address, f"{ID}:8080", headers=call.headers)
    assert refusal.value.code == "sandbox_not_found"
