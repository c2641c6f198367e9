"""`/v1/capsules` over HTTP: what is translated, and into what."""

import re
import time
from pathlib import Path
from typing import Any

import httpx2
import pytest

from support.capsules import Capsules, check_capsule, check_error
from support.simulated import World
from wrenn_server.controlplane import bootstrap
from wrenn_server.controlplane.api.shape_events import CAPSULE_STATUS
from wrenn_server.controlplane.capsules import errors, shape
from wrenn_server.controlplane.capsules.app import is_ours, litestar
from wrenn_server.hostagent.simulated import SimulatedAgent
from wrenn_server.model.errors import BY_STATUS, Conflict, NotFound
from wrenn_server.model.ids import new_sandbox_id, new_snapshot_id
from wrenn_server.model.pool import Capacity, PoolExhausted
from wrenn_server.model.sandbox import State
from wrenn_server.wire.agent import Sample

ROUTES = sorted(
    (method, route.path_format)
    for route in litestar().routes
    for method in getattr(route, "methods", ())
    if method != "OPTIONS"
)


def concrete(path: str, id: str) -> str:
    return re.sub(r"\{[^}]+\}", id, path)


def query(method: str, path: str) -> str:
    """What makes a request the facade's."""
    return "?type=snapshot" if (method, path) == ("GET", "/v1/snapshots") else ""


async def test_every_route_refuses_strangers(world: World) -> None:
    assert len(ROUTES) > 20
    bad: list[dict[str, str]] = [
        {}, {"X-API-Key": ""}, {"X-API-Key": "wrn_" + "0" * 40}, {"Authorization": "Bearer a.b.c"},
        {"Cookie": "wrenn_session=x"},
    ]  # fmt: skip
    async with httpx2.AsyncClient(base_url=world.url, trust_env=False) as http:
        for headers in bad:
            for method, path in ROUTES:
                name = "some" if path.startswith("/v1/snapshots") else new_sandbox_id()
                answer = await http.request(
                    method, concrete(path, name) + query(method, path), headers=headers
                )
                assert answer.status_code == 401, f"{method} {path}: {answer.status_code} to {headers}"
                check_error(answer)


async def test_scopes_and_keys_of_one_sandbox(world: World, capsules: Capsules, host: SimulatedAgent) -> None:
    mine, other = await capsules.new(), await capsules.new()
    key: dict[str, Any] = (await world.user.post("/v1/api-keys", {"scopes": ["read"]})).json()
    reader = capsules.with_headers(X_API_Key=key["key"])
    key = (await world.api.post(f"/v1/sandboxes/{mine['id']}/api-keys", {})).json()
    inside = capsules.with_headers(X_API_Key=key["key"])
    for method, path in ROUTES:
        url = concrete(path, "some" if path.startswith("/v1/snapshots") else new_sandbox_id())
        url += query(method, path)
        looks = method == "GET" or path.endswith(("/files/read", "/files/list", "/files/stream/read"))
        assert ((await reader.request(method, url)).status_code == 403) != looks, f"{method} {path}"
        assert (await inside.request(method, url)).status_code == 403, f"{method} {path}"
    assert (await inside.get(f"/v1/capsules/{mine['id']}")).status_code == 200
    assert (await inside.get(f"/v1/capsules/{other['id']}")).status_code == 403
    assert (await inside.post(f"/v1/capsules/{mine['id']}/ping")).status_code == 204


async def test_another_teams_capsules_are_not_there(
    world: World, capsules: Capsules, host: SimulatedAgent
) -> None:
    other = await bootstrap.bootstrap(world.cp.db, "other@example.com", "another password")
    stranger = capsules.with_headers(X_API_Key=other.api_key)
    id = (await capsules.new())["id"]
    for method, path in ROUTES:
        if "{sandbox_id}" in path:
            answer = await stranger.request(method, concrete(path, id), json={"path": "/x", "cmd": "x"})
            assert answer.status_code in (400, 404), f"{method} {path}: {answer.text}"
    answer = await stranger.post("/v1/snapshots", {"sandbox_id": id})
    assert answer.status_code == 404
    assert (await stranger.get("/v1/capsules")).json() == []


async def test_a_life(world: World, capsules: Capsules, host: SimulatedAgent) -> None:
    made = await capsules.new(template="minimal-ubuntu", vcpus=2, memory_mb=1024, metadata={"a": "b"})
    path = f"/v1/capsules/{made['id']}"
    assert (made["status"], made["template"], made["vcpus"], made["memory_mb"]) == (
        "running",
        "minimal",
        2,
        1024,
    )
    assert made["metadata"]["a"] == "b"
    assert made["disk_size_mb"] > 0
    assert [one["id"] for one in (await capsules.get("/v1/capsules")).json()] == [made["id"]]
    paused = await capsules.post(f"{path}/pause")
    assert (paused.status_code, check_capsule(paused.json())["status"]) == (202, "paused")
    assert (await capsules.post(f"{path}/ping")).json()["error"]["code"] == "invalid_state"
    assert (await capsules.post(f"{path}/exec", {"cmd": "true"})).json()["error"]["code"] == "invalid_state"
    resumed = await capsules.post(f"{path}/resume")
    assert (resumed.status_code, check_capsule(resumed.json())["status"]) == (202, "running")
    assert (await capsules.post(f"{path}/ping")).status_code == 204
    ended = await capsules.delete(path)
    assert (ended.status_code, check_capsule(ended.json())["status"]) == (202, "stopped")
    assert check_capsule((await capsules.get(path)).json())["status"] == "stopped"
    assert (await capsules.get("/v1/capsules")).json() == []
    assert (await capsules.delete(path)).json()["error"]["code"] == "not_found"


@pytest.mark.parametrize(("asked", "kept"), [(0, 0), (1, 60), (59, 60), (60, 60), (3600, 3600)])
async def test_the_timeout_is_one_of_inactivity(
    world: World, capsules: Capsules, host: SimulatedAgent, asked: int, kept: int
) -> None:
    made = await capsules.new(timeout_sec=asked)
    assert made["timeout_sec"] == kept
    native = (await world.api.get(f"/v1/sandboxes/{made['id']}")).json()
    assert native["on_timeout"] == "pause"
    assert set(native["activity"]) == {"api", "traffic", "terminal"}
    assert ("expires_at" in native) == bool(kept)


async def test_a_ping_puts_off_the_end(world: World, capsules: Capsules, host: SimulatedAgent) -> None:
    id = (await capsules.new(timeout_sec=600))["id"]
    before = (await world.api.get(f"/v1/sandboxes/{id}")).json()["expires_at"]
    assert (await capsules.post(f"/v1/capsules/{id}/ping")).status_code == 204
    assert (await world.api.get(f"/v1/sandboxes/{id}")).json()["expires_at"] > before


@pytest.mark.parametrize(
    "wrong",
    [{"timeout_sec": -1}, {"timeout_sec": "60"}, {"vcpus": 0}, {"memory_mb": 1}, {"template": "a b"}, {"template": 1},
     {"metadata": {"envd_version": "1"}}, {"metadata": {"a": 1}}, {"metadata": {"": "x"}}, {"metadata": {"a": "x" * 65}},
     {"metadata": {f"k{n}": "" for n in range(21)}}, [], "x"],
)  # fmt: skip
async def test_creates_that_make_no_sense(capsules: Capsules, host: SimulatedAgent, wrong: Any) -> None:
    answer = await capsules.post("/v1/capsules", wrong)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_request")


async def test_a_template_that_is_not_there(capsules: Capsules, host: SimulatedAgent) -> None:
    answer = await capsules.post("/v1/capsules", {"template": "none"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")


async def test_no_host(capsules: Capsules) -> None:
    answer = await capsules.post("/v1/capsules", {})
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "host_unavailable")


async def test_a_create_that_comes_again(capsules: Capsules, host: SimulatedAgent) -> None:
    first, second = [
        (await capsules.post("/v1/capsules", {}, headers={"Idempotency-Key": "k"})).json() for _ in range(2)
    ]
    assert first["id"] == second["id"]
    assert len((await capsules.get("/v1/capsules")).json()) == 1


async def test_metrics(capsules: Capsules, host: SimulatedAgent) -> None:
    id = (await capsules.new())["id"]
    numbers = {"cpu_count": 1, "mem_used": 5, "mem_total": 9, "mem_cache": 1, "disk_total": 9 << 20}
    old, new = (
        Sample(sandbox_id=id, at=time.time() - ago, cpu_used_pct=12.5, disk_used=3 << 20, **numbers)
        for ago in (3000, 5)
    )
    await host.send([old, new])
    answer = (await capsules.get(f"/v1/capsules/{id}/metrics")).json()
    assert (answer["sandbox_id"], answer["range"]) == (id, "10m")
    assert answer["points"] == [
        {"timestamp_unix": int(new.at), "cpu_pct": 12.5, "mem_bytes": 5, "disk_bytes": 3 << 20}
    ]
    assert len((await capsules.get(f"/v1/capsules/{id}/metrics?range=1h")).json()["points"]) == 2
    assert (await capsules.get(f"/v1/capsules/{id}/metrics?range=1y")).status_code == 400
    assert (await capsules.get(f"/v1/capsules/{id}")).json()["disk_used_mb"] == 3


async def test_files(capsules: Capsules, host_with_envd: SimulatedAgent, tmp_path: Path) -> None:
    path = f"/v1/capsules/{(await capsules.new())['id']}/files"
    form = {"data": {"path": f"{tmp_path}/a/b"}, "files": {"file": ("upload", b"text")}}
    assert (await capsules.post(f"{path}/write", **form)).status_code == 204
    assert (await capsules.post(f"{path}/stream/write", **form)).status_code == 204
    (tmp_path / "link").symlink_to("nowhere")
    assert (await capsules.post(f"{path}/read", {"path": f"{tmp_path}/a/b"})).content == b"text"
    assert (await capsules.post(f"{path}/stream/read", {"path": f"{tmp_path}/a/b"})).content == b"text"
    listed = (await capsules.post(f"{path}/list", {"path": str(tmp_path)})).json()["entries"]
    assert {(one["name"], one["type"]) for one in listed} == {("a", "directory"), ("link", "symlink")}
    assert all(abs(one["modified_at"] - time.time()) < 600 for one in listed)
    made = await capsules.post(f"{path}/mkdir", {"path": f"{tmp_path}/c/d"})
    assert (made.status_code, made.json()["entry"]["name"]) == (200, "d")
    again = await capsules.post(f"{path}/mkdir", {"path": f"{tmp_path}/c/d"})
    assert (again.status_code, again.json()["error"]["code"]) == (409, "conflict")
    for name in ("a", "link", "c"):
        assert (await capsules.post(f"{path}/remove", {"path": f"{tmp_path}/{name}"})).status_code == 204
    assert not list(tmp_path.iterdir())
    for what in ("read", "stream/read", "list", "remove"):
        answer = await capsules.post(f"{path}/{what}", {"path": f"{tmp_path}/gone"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found"), what


async def test_snapshots(world: World, capsules: Capsules, host: SimulatedAgent) -> None:
    id = (await capsules.new())["id"]
    taken = await capsules.post("/v1/snapshots", {"sandbox_id": id, "name": "mine"})
    assert taken.status_code == 202
    assert check_capsule(taken.json())["id"] == id
    assert (taken.json()["name"], taken.json()["type"]) == ("mine", "snapshot")
    again = await capsules.post("/v1/snapshots", {"sandbox_id": id, "name": "mine"})
    assert (again.status_code, again.json()["error"]["code"]) == (409, "conflict")
    for name in ("minimal", "Minimal-Ubuntu", "minimal:default"):
        answer = await capsules.post("/v1/snapshots", {"sandbox_id": id, "name": name})
        assert answer.status_code == 409, name
    assert (await capsules.new(template="mine"))["template"] == "mine"
    unnamed = (await capsules.post("/v1/snapshots", {"sandbox_id": id})).json()["name"]
    both = (await world.api.get("/v1/snapshots")).json()
    assert [one["name"] for one in both] == [unnamed, "mine"]
    assert both == [{**one, "type": "snapshot", "platform": False, "protected": False} for one in both]
    of_type = (await capsules.get("/v1/snapshots?type=snapshot")).json()
    assert [one["name"] for one in of_type] == [unnamed, "mine"]
    base = (await capsules.get("/v1/snapshots?type=base")).json()
    assert "minimal" in [one["name"] for one in base]
    assert all(one["platform"] and one["protected"] for one in base)
    assert (await capsules.get("/v1/snapshots?type=other")).status_code == 400
    await capsules.delete(f"/v1/capsules/{id}")
    assert (await capsules.delete("/v1/snapshots/minimal")).status_code == 403
    assert (await capsules.delete("/v1/snapshots/none")).json()["error"]["code"] == "not_found"
    assert (await capsules.delete("/v1/snapshots/mine")).status_code == 409, "one lives on it"
    for one in (await capsules.get("/v1/capsules")).json():
        await capsules.delete(f"/v1/capsules/{one['id']}")
    assert (await capsules.delete("/v1/snapshots/mine")).status_code == 204
    assert (await capsules.delete(f"/v1/snapshots/{unnamed}")).status_code == 204
    assert (await world.api.get("/v1/snapshots")).json() == []


async def test_a_name_that_is_taken_meanwhile(world: World, capsules: Capsules, host: SimulatedAgent) -> None:
    id = (await capsules.new())["id"]

    async def nothing(command: object, sandbox_id: str) -> None:
        pass

    async def take(command: object, sandbox_id: str) -> None:
        host.host.before = nothing
        answer = await world.api.post(f"/v1/sandboxes/{id}/snapshots", {"name": "mine"})
        assert answer.status_code == 201

    host.host.before = take
    answer = await capsules.post("/v1/snapshots", {"sandbox_id": id, "name": "mine"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "conflict")
    assert len((await world.api.get("/v1/snapshots")).json()) == 1


async def test_overwrite(world: World, capsules: Capsules, host: SimulatedAgent) -> None:
    id = (await capsules.new())["id"]
    for _ in range(2):
        wanted = {"sandbox_id": id, "name": "mine"}
        assert (await capsules.post("/v1/snapshots?overwrite=true", wanted)).status_code == 202
    assert [one["names"] for one in (await world.api.get("/v1/snapshots")).json()] == [["mine:default"], []]


def test_what_is_the_facades() -> None:
    id = new_snapshot_id()
    ours = [
        ("POST", "/v1/capsules", b""), ("GET", "/v1/capsules/x/pty", b""), ("PATCH", "/v1/capsules/", b""),
        ("POST", "/v1/snapshots", b""), ("GET", "/v1/snapshots", b"type=base"), ("GET", "/v1/snapshots", b"a=b&type="),
        ("DELETE", "/v1/snapshots/name", b""),
    ]  # fmt: skip
    native = [
        ("GET", "/v1/capsulesx", b""), ("GET", "/v1/snapshots", b""), ("GET", "/v1/snapshots", b"types=base"),
        ("DELETE", f"/v1/snapshots/{id}", b""), ("DELETE", "/v1/snapshots/", b""), ("GET", "/v1/snapshots/x", b""),
        ("DELETE", "/v1/sandboxes/x", b""), ("GET", "//v1/capsules", b""),
    ]  # fmt: skip
    assert [one for one in ours if not is_ours(*one)] == []
    assert [one for one in native if is_ours(*one)] == []


def test_every_state_has_a_status() -> None:
    assert set(CAPSULE_STATUS) == set(State)


def test_codes() -> None:
    for status, cls in BY_STATUS.items():
        found = errors.translated(cls("what", code="something_special", hint="do", retryable=True))
        assert (found.status, found.message, found.hint, found.retryable) == (status, "what", "do", True)
        assert found.code == errors.CODES.get(status, "something_special")
    full = errors.translated(PoolExhausted(Capacity(1, 0, 0)))
    assert (full.status, full.code) == (409, "pool_exhausted")
    assert errors.translated(Conflict("x")).code == "invalid_state"
    assert errors.translated(NotFound("x", code="sandbox_not_found")).code == "not_found"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("1970-01-01T00:00:01Z", 1), ("2026-01-02T03:04:05.123456789Z", 1767323045), ("1969-12-31T23:59:59Z", -1),
     ("0001-01-01T00:00:00Z", -62135596800), ("", 0), ("yesterday", 0), ("2026-01-02T03:04:05", 0),
     ("9999-12-31T23:59:59-23:59", 253402387139)],
)  # fmt: skip
def test_times_that_a_guest_tells(text: str, seconds: int) -> None:
    assert shape.unix_seconds(text) == seconds
