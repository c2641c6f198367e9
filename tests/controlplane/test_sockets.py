"""WebSockets: who may open one, and how they end."""

import asyncio
import contextlib
import json
import os
import signal
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from support.simulated import control_plane, eventually
from support.sockets import SHELL, Place, message, place, rest, run, send
from wrenn_server.controlplane.api import sockets
from wrenn_server.controlplane.keys import Keys
from wrenn_server.controlplane.services import events, users
from wrenn_server.db.pool import DatabaseUnavailable
from wrenn_server.hostagent.simulated import SimulatedAgent
from wrenn_server.model.errors import Unauthorized
from wrenn_server.model.ids import new_sandbox_id

__all__ = ["place"]

PATHS = ("exec/stream", "processes/1/stream", "pty")


@pytest.mark.parametrize("path", PATHS)
async def test_credentials_in_the_request(place: Place, path: str) -> None:
    assert await place.refusal(path, {"X-API-Key": "wrn_" + "0" * 40}) == (401, "invalid_api_key")
    assert (await place.refusal(path, {"Authorization": "Bearer a.b.c"}))[0] == 401
    assert (await place.refusal(path, {"Authorization": "Basic eDp5"}))[0] == 401
    assert (await place.refusal(path, {"Cookie": "wrenn_session=x"}))[0] == 401
    for right in (
        {"Authorization": f"Bearer {place.world.admin.api_key}"},
        place.world.user.headers,
    ):
        async with place.open(path, headers=right) as socket:
            await send(socket, type="nonsense")
            assert "authentication" not in (await message(socket))["data"]


@pytest.mark.parametrize("path", PATHS)
async def test_scopes_and_keys_of_one_sandbox(place: Place, path: str) -> None:
    reader = (await place.world.user.post("/v1/api-keys", {"scopes": ["read"]})).json()["key"]
    inside = (await place.world.api.post(f"/v1/sandboxes/{place.id}/api-keys", {})).json()["key"]
    elsewhere = Place(place.world, (await place.world.new_sandbox())["id"])
    if path.startswith("processes"):
        async with place.open(path, headers={"X-API-Key": reader}) as socket:
            assert (await message(socket))["type"] == "error", "there is no such program"
    else:
        assert await place.refusal(path, {"X-API-Key": reader}) == (403, "scope_required")
    assert await elsewhere.refusal(path, {"X-API-Key": inside}) == (403, "scope_required")
    async with place.open(path, headers={"X-API-Key": inside}) as socket:
        await send(socket, type="nonsense")
        assert "authentication" not in (await message(socket))["data"]


@pytest.mark.parametrize("path", PATHS)
async def test_credentials_in_the_first_message(place: Place, path: str) -> None:
    token = place.world.user.headers["Authorization"].removeprefix("Bearer ")
    for right in (token, place.world.admin.api_key):
        async with place.open(path, headers={}) as socket:
            await send(socket, type="auth", token=right)
            await send(socket, type="nonsense")
            assert "authentication" not in (await message(socket))["data"]
    for wrong in ('{"type":"auth","token":"x"}', '{"type":"auth"}', json.dumps(SHELL), "x", b"x"):
        async with place.open(path, headers={}) as socket:
            await socket.send(wrong)
            [told] = await rest(socket)
        assert told["type"] == "error"
        assert told["data"].startswith("authentication failed")
        assert socket.close_code == 1008
    assert await place.pids() == []


async def test_nothing_comes_from_a_stranger(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sockets, "AUTH_SEC", 0.1)
    async with place.open("pty", headers={}) as socket:
        [told] = await rest(socket)
    assert told["data"].startswith("authentication failed")


async def test_other_sites_cannot_use_a_browsers_session(place: Place) -> None:
    login = await place.world.api.anonymous().post(
        "/v1/auth/login",
        {
            "email": place.world.admin.admin_email,
            "password": place.world.admin.admin_password,
            "cookie": True,
        },
    )
    cookie = {"Cookie": f"wrenn_session={login.cookies['wrenn_session']}"}
    for origin in ("http://evil.example", "null", f"http://{place.world.address}.evil.example", ""):
        assert await place.refusal("pty", {**cookie, "Origin": origin}) == (403, "csrf"), origin
    for site in ({}, {"Origin": place.world.url}, {"Origin": place.world.cp.config.public_url}):
        async with place.open("pty", headers={**cookie, **site}) as socket:
            await send(socket, type="start", cmd="/bin/true")
            assert (await message(socket))["type"] == "started"
    key = {"X-API-Key": place.world.admin.api_key, "Origin": "http://evil.example"}
    async with place.open("pty", headers={**cookie, **key}) as socket:
        await send(socket, type="start", cmd="/bin/true")
        assert (await message(socket))["type"] == "started", "who has the key needs no browser's help"


@pytest.mark.parametrize("how", ["request", "message"])
async def test_who_loses_access_is_cut_off(place: Place, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    monkeypatch.setattr(sockets, "ACCESS_SEC", 0.1)
    assert events.ACCESS_SEC <= 5
    made = (await place.world.user.post("/v1/api-keys", {"scopes": ["read", "write"]})).json()
    async with place.open(
        "exec/stream", headers={"X-API-Key": made["key"]} if how == "request" else {}
    ) as socket:
        if how == "message":
            await send(socket, type="auth", token=made["key"])
        await run(socket, "sleep 300")
        assert (await message(socket))["type"] == "start"
        await place.world.user.delete(f"/v1/api-keys/{made['id']}")
        [told] = await rest(socket)
    assert told["data"].startswith("authentication failed")

    async def gone() -> bool:
        return await place.pids() == []

    await eventually(gone)


@pytest.mark.parametrize("how", ["request", "message"])
async def test_a_users_token_may_run_out(place: Place, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    """The session counts: who logs out is cut off."""
    monkeypatch.setattr(sockets, "ACCESS_SEC", 0.1)
    login = await place.world.api.anonymous().post(
        "/v1/auth/login",
        {"email": place.world.admin.admin_email, "password": place.world.admin.admin_password},
    )
    token = login.json()["token"]
    headers = {"Authorization": f"Bearer {token}"} if how == "request" else {}
    looked = asyncio.Event()
    still = users.still

    async def noted(*given: Any) -> Any:
        found = await still(*given)
        looked.set()
        return found

    def ended(*given: Any) -> Any:
        raise Unauthorized("the token has run out")

    async with place.open("pty", headers=headers) as socket:
        if how == "message":
            await send(socket, type="auth", token=token)
        await send(socket, type="start", cmd="/bin/cat")
        assert (await message(socket))["type"] == "started"
        with monkeypatch.context() as patched:
            patched.setattr(Keys, "read_user_token", ended)
            patched.setattr(users, "still", noted)
            async with asyncio.timeout(30):
                await looked.wait()
        await place.world.api.with_token(token).post("/v1/auth/logout")
        assert (await rest(socket))[-1]["data"].startswith("authentication failed")


async def test_the_database_is_away_for_a_moment(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sockets, "ACCESS_SEC", 0.1)
    looked = asyncio.Event()

    async def away(*_: Any) -> Any:
        looked.set()
        raise DatabaseUnavailable("the database is away")

    async with place.open("exec/stream") as socket:
        await run(socket, "sleep 300")
        assert (await message(socket))["type"] == "start"
        with monkeypatch.context() as patched:
            patched.setattr(users, "by_api_key", away)
            async with asyncio.timeout(30):
                await looked.wait()
        await send(socket, type="stop")
        assert await rest(socket) == [{"type": "exit", "exit_code": -1}]


async def test_what_can_change_something_is_on_record(place: Place) -> None:
    for path in PATHS:
        async with place.open(path) as socket:
            await send(socket, type="nonsense")
            await rest(socket)
    await place.refusal("pty", {"X-API-Key": "wrn_" + "0" * 40})
    async with place.open("pty", headers={}) as socket:
        await send(socket, type="auth", token="x")
        await rest(socket)
    log = (await place.world.user.get("/v1/audit-logs")).json()
    noted = [(one["operation"], one["status"]) for one in log if one["status"] == 101]
    assert sorted(noted) == [("openTerminal", 101), ("streamExec", 101)]
    refused = (await place.world.user.get("/v1/admin/audit-logs?operation=openTerminal")).json()
    assert [one["status"] for one in refused] == [401, 401]


async def test_the_control_plane_stops(database_url: str, envd_binary: Any) -> None:
    """It does not wait for sockets, and says why they end."""
    async with control_plane(database_url) as world, world.host(envd_binary=envd_binary):
        place = Place(world, (await world.new_sandbox())["id"])
        async with place.open("pty") as socket:
            await send(socket, type="start", cmd="/bin/cat")
            assert (await message(socket))["type"] == "started"
            world.cp.feed.close()
            told = (await rest(socket))[-1]
    assert told["data"].startswith("the control plane stops")


async def test_a_message_that_is_too_long(place: Place) -> None:
    async with place.open("exec/stream") as socket:
        with contextlib.suppress(ConnectionClosed):
            await socket.send("x" * (2 << 20))
        assert await rest(socket) == []
        # Why, it may not see: it was still sending.
        assert socket.close_code in (1009, 1006)


async def test_nothing_is_asked_for(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sockets.Client.first, "__kwdefaults__", {"within": 0.1})
    async with place.open("exec/stream") as socket:
        [told] = await rest(socket)
    assert "nothing came" in told["data"]


async def test_sandboxes_that_do_not_run(place: Place) -> None:
    await place.world.api.post(f"/v1/sandboxes/{place.id}/pause")
    for path in ("exec/stream", "processes/1/stream", "pty"):
        async with place.open(path) as socket:
            await socket.send(json.dumps(SHELL))
            told = (await rest(socket))[-1]
        assert told["type"] == "error"
        assert "paused" in told["data"]
        assert told.get("fatal", True)
    for id in (new_sandbox_id(), "x"):
        async with Place(place.world, id).open("processes/1/stream") as socket:
            assert "does not exist" in (await message(socket))["data"]


async def test_a_sandbox_that_is_killed_ends_what_is_open(place: Place) -> None:
    async with place.open("pty") as terminal, place.open("exec/stream") as program:
        await send(terminal, type="start", cmd="/bin/cat")
        await run(program, "sleep 300")
        assert (await message(terminal))["type"] == "started"
        assert (await message(program))["type"] == "start"
        await place.world.api.delete(f"/v1/sandboxes/{place.id}")
        for socket in (terminal, program):
            assert (await rest(socket))[-1]["type"] in ("error", "exit")


async def test_envd_dies(place: Place, host_with_envd: SimulatedAgent) -> None:
    async with place.open("exec/stream") as program:
        await run(program, "sleep 300")
        pid = (await message(program))["pid"]
        parent = int(_status(pid)["PPid"])
        os.kill(parent, signal.SIGKILL)
        assert (await rest(program))[-1]["type"] == "error"


def _status(pid: int) -> dict[str, str]:
    with open(f"/proc/{pid}/status") as file:
        return dict(line.rstrip().split(":\t", 1) for line in file if ":\t" in line)


@pytest.mark.parametrize("path", ["nothing", "exec", "pty/x", "../../../x"])
async def test_paths_without_a_socket(place: Place, path: str) -> None:
    with pytest.raises(InvalidStatus) as refused:
        async with place.open(path):
            pass
    assert 400 <= refused.value.response.status_code < 500


async def test_a_request_that_is_no_websocket(place: Place) -> None:
    for noun in ("sandboxes", "capsules"):
        answer = await place.world.api.raw(
            "GET", f"/v1/{noun}/{place.id}/pty", headers=place.world.api.headers
        )
        assert answer.status_code in (404, 405, 426)
        assert answer.json()["error"]["code"]
