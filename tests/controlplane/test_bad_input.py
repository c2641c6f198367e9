"""Whatever comes gets a clear 4xx with a code, and leaves nothing behind."""

import json
from typing import Any

import pytest

from support.simulated import World
from wrenn_server.hostagent.simulated import SimulatedAgent

JSON = {"Content-Type": "application/json"}
NUL = json.dumps("a\0b")

BODIES: list[tuple[str, str, bytes]] = [
    ("not json", "/v1/sandboxes", b"{"),
    ("trailing", "/v1/sandboxes", b"{}{}"),
    ("bad utf-8", "/v1/sandboxes", b'{"template": "\xff\xfe"}'),
    ("bad utf-8 in a key", "/v1/sandboxes", b'{"metadata": {"\xc3\x28": "x"}}'),
    ("lone surrogate", "/v1/sandboxes", b'{"metadata": {"a": "\\ud800"}}'),
    ("a list", "/v1/sandboxes", b"[]"),
    ("a number", "/v1/sandboxes", b"1"),
    ("deep", "/v1/sandboxes", b"[" * 100_000),
    ("deep metadata", "/v1/sandboxes", b'{"metadata": ' + b'{"a":' * 50_000 + b"1" + b"}" * 50_001),
    ("unknown field", "/v1/sandboxes", b'{"memory": 512}'),
    ("text for a number", "/v1/sandboxes", b'{"vcpus": "1"}'),
    ("true for a number", "/v1/sandboxes", b'{"vcpus": true}'),
    ("a fraction", "/v1/sandboxes", b'{"vcpus": 1.5}'),
    ("not finite", "/v1/sandboxes", b'{"vcpus": NaN}'),
    ("null", "/v1/sandboxes", b'{"vcpus": null}'),
    ("no vcpus", "/v1/sandboxes", b'{"vcpus": 0}'),
    ("negative vcpus", "/v1/sandboxes", b'{"vcpus": -1}'),
    ("many vcpus", "/v1/sandboxes", b'{"vcpus": 33}'),
    ("huge number", "/v1/sandboxes", b'{"vcpus": 1' + b"0" * 400 + b"}"),
    ("little memory", "/v1/sandboxes", b'{"memory_mb": 127}'),
    ("much memory", "/v1/sandboxes", b'{"memory_mb": 65537}'),
    ("little disk", "/v1/sandboxes", b'{"disk_mb": 511}'),
    ("much disk", "/v1/sandboxes", b'{"disk_mb": 102401}'),
    ("negative timeout", "/v1/sandboxes", b'{"timeout_sec": -1}'),
    ("endless timeout", "/v1/sandboxes", b'{"timeout_sec": 99999999}'),
    ("on_timeout", "/v1/sandboxes", b'{"on_timeout": "stop"}'),
    ("template with a slash", "/v1/sandboxes", b'{"template": "../../etc/passwd"}'),
    ("empty template", "/v1/sandboxes", b'{"template": ""}'),
    ("long template", "/v1/sandboxes", b'{"template": "' + b"a" * 257 + b'"}'),
    ("template with a newline", "/v1/sandboxes", b'{"template": "minimal\\n"}'),
    ("NUL in template", "/v1/sandboxes", f'{{"template": {NUL}}}'.encode()),
    ("NUL in metadata", "/v1/sandboxes", f'{{"metadata": {{"a": {NUL}}}}}'.encode()),
    ("NUL in a key", "/v1/sandboxes", f'{{"metadata": {{{NUL}: "a"}}}}'.encode()),
    ("NUL in envs", "/v1/sandboxes", f'{{"envs": {{"A": {NUL}}}}}'.encode()),
    ("number in metadata", "/v1/sandboxes", b'{"metadata": {"a": 1}}'),
    ("empty key in metadata", "/v1/sandboxes", b'{"metadata": {"": "a"}}'),
    ("long value in metadata", "/v1/sandboxes", json.dumps({"metadata": {"a": "x" * 5000}}).encode()),
    ("much metadata", "/v1/sandboxes", json.dumps({"metadata": {str(n): "" for n in range(65)}}).encode()),
    ("equals sign in envs", "/v1/sandboxes", b'{"envs": {"A=B": "c"}}'),
    ("nobody's name in envs", "/v1/sandboxes", b'{"envs": {"": "c"}}'),
    ("exec without a body", "/v1/sandboxes/{id}/exec", b""),
    ("exec without cmd", "/v1/sandboxes/{id}/exec", b"{}"),
    ("exec of nothing", "/v1/sandboxes/{id}/exec", b'{"cmd": ""}'),
    ("exec NUL", "/v1/sandboxes/{id}/exec", f'{{"cmd": {NUL}}}'.encode()),
    ("exec NUL in args", "/v1/sandboxes/{id}/exec", f'{{"cmd": "a", "args": [{NUL}]}}'.encode()),
    ("exec args no list", "/v1/sandboxes/{id}/exec", b'{"cmd": "a", "args": "b"}'),
    ("exec at once", "/v1/sandboxes/{id}/exec", b'{"cmd": "a", "timeout_sec": 0}'),
    ("exec into the past", "/v1/sandboxes/{id}/exec", b'{"cmd": "a", "timeout_sec": -5}'),
    ("exec too long", "/v1/sandboxes/{id}/exec", b'{"cmd": "a", "timeout_sec": 3601}'),
    ("read without path", "/v1/sandboxes/{id}/files/read", b"{}"),
    ("read of nothing", "/v1/sandboxes/{id}/files/read", b'{"path": ""}'),
    ("read NUL", "/v1/sandboxes/{id}/files/read", f'{{"path": {NUL}}}'.encode()),
    ("list upwards", "/v1/sandboxes/{id}/files/list", b'{"path": "/", "depth": -1}'),
    ("fork nothing", "/v1/sandboxes/{id}/fork", b'{"count": 0}'),
    ("fork too many", "/v1/sandboxes/{id}/fork", b'{"count": 101}'),
    ("fork backwards", "/v1/sandboxes/{id}/fork", b'{"count": -1}'),
    ("fork timeout", "/v1/sandboxes/{id}/fork", b'{"timeout_sec": -1}'),
    ("resume timeout", "/v1/sandboxes/{id}/resume", b'{"timeout_sec": -1}'),
    ("timeout missing", "/v1/sandboxes/{id}/timeout", b"{}"),
    ("timeout negative", "/v1/sandboxes/{id}/timeout", b'{"timeout_sec": -1}'),
    ("timeout null", "/v1/sandboxes/{id}/timeout", b'{"timeout_sec": null}'),
    ("login nobody", "/v1/auth/login", b"{}"),
    ("login NUL", "/v1/auth/login", f'{{"email": {NUL}, "password": "x"}}'.encode()),
    ("login long", "/v1/auth/login", json.dumps({"email": "a" * 300, "password": "x"}).encode()),
    ("register nothing", "/v1/hosts/register", b"{}"),
]

IDS = [
    "x",
    "sb",
    "sb" + "A" * 20,
    "sb" + "a" * 19,
    "sb" + "a" * 21,
    "sb" + "z" * 400,
    "host_" + "a" * 20,
    "%00",
    "sb%00" + "a" * 19,
    "..%2f..%2fetc",
    "%ff%fe",
    "sb" + "é" * 20,
    "*",
    "sb" + "a" * 19 + "%0a",
    "-1",
    "'; DROP TABLE sandboxes; --",
]

QUERIES = [
    "status=nonsense",
    "status=",
    "status=running,",
    "limit=0",
    "limit=-1",
    "limit=1001",
    "limit=x",
    "limit=",
    "cursor=x",
    "cursor=AAAA",
    "cursor=%00",
    "cursor=" + "A" * 5000,
    "metadata=novalue",
    "metadata=%00=x",
    "metadata==x",
]


async def clean(world: World, host: SimulatedAgent) -> None:
    assert await world.cp.db.fetchval("SELECT count(*) FROM sandboxes") == 1
    assert len(host.host.held) == 1


@pytest.mark.parametrize("state", ["running", "paused"])
async def test_bodies(world: World, host: SimulatedAgent, state: str) -> None:
    sandbox = await world.new_sandbox()
    if state == "paused":
        await world.api.post(f"/v1/sandboxes/{sandbox['id']}/pause")
    for name, path, body in BODIES:
        answer = await world.api.request(
            "POST", path.replace("{id}", sandbox["id"]), content=body, headers=JSON, wrong=True
        )
        assert (name, answer.status_code) == (name, 400), answer.text
        assert answer.json()["error"]["code"] == "invalid_request"
    await clean(world, host)
    assert await world.state(sandbox["id"]) == state


async def test_a_body_that_is_too_long(world: World, host: SimulatedAgent) -> None:
    await world.new_sandbox()
    ten = b'{"metadata": {"a": "' + b"x" * 10_000_000 + b'"}}'
    for path in ("/v1/sandboxes", "/v1/auth/login", "/v1/hosts/register"):
        answer = await world.api.request("POST", path, content=ten, headers=JSON, wrong=True)
        assert (answer.status_code, answer.json()["error"]["code"]) == (413, "too_large")

    async def pieces() -> Any:
        for _ in range(100):
            yield b" " * 100_000

    answer = await world.api.request("POST", "/v1/sandboxes", content=pieces(), headers=JSON, wrong=True)
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "too_large")
    await clean(world, host)


async def test_a_backslash_before_u0000_is_no_nul(world: World, host: SimulatedAgent) -> None:
    text = "\\u0000"
    sandbox = await world.new_sandbox(metadata={"a": text})
    assert sandbox["metadata"] == {"a": text}


async def test_ids_of_the_wrong_shape_are_not_found(world: World, host: SimulatedAgent) -> None:
    await world.new_sandbox()
    for text in IDS:
        for method, path in (
            ("GET", "/v1/sandboxes/{}"),
            ("DELETE", "/v1/sandboxes/{}"),
            ("POST", "/v1/sandboxes/{}/pause"),
            ("POST", "/v1/sandboxes/{}/fork"),
        ):
            answer = await world.api.request(method, path.format(text))
            assert (text, answer.status_code) == (text, 404)
            assert answer.json()["error"]["code"] in ("sandbox_not_found", "not_found")
        answer = await world.api.post(f"/v1/sandboxes/{text}/exec", {"cmd": "true"})
        assert answer.status_code == 404
        assert (await world.user.get(f"/v1/hosts/{text}")).status_code == 404
        assert (await world.user.delete(f"/v1/api-keys/{text}")).status_code == 404
    await clean(world, host)


async def test_queries(world: World) -> None:
    for query in QUERIES:
        answer = await world.api.get(f"/v1/sandboxes?{query}")
        assert (query, answer.status_code) == (query, 400), answer.text
        assert answer.json()["error"]["code"] == "invalid_request"


async def test_unknown_paths_and_methods(world: World) -> None:
    raw = world.api
    for method, path, status, code in (
        ("GET", "/v1/nothing", 404, "not_found"),
        ("GET", "/", 404, "not_found"),
        ("GET", "/schema", 404, "not_found"),
        ("PUT", "/v1/sandboxes", 405, "method_not_allowed"),
        ("DELETE", "/v1/sandboxes", 405, "method_not_allowed"),
        ("GET", "/v1/auth/login", 405, "method_not_allowed"),
    ):
        answer = await raw.request(method, path)
        assert (path, answer.status_code, answer.json()["error"]["code"]) == (path, status, code)


async def test_messages_name_the_field(world: World) -> None:
    answer = await world.api.post("/v1/sandboxes", {"memory_mb": 1}, wrong=True)
    assert "memory_mb" in answer.json()["error"]["message"]
    assert ">= 128" in answer.json()["error"]["message"]


async def test_a_query_that_is_not_ascii_is_no_mistake_of_ours(world: World) -> None:
    answer = await world.api.get("/v1/snapshots?name=%C3%AD&other=%FF")
    assert answer.status_code < 500, answer.text
