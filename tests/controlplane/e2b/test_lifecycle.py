"""Connects, pauses, timeouts, forks, networks and metrics through E2B's API."""

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest

from support.e2b import E2b
from support.simulated import Gate, World, eventually
from wrenn_server.hostagent.sandbox.lifecycle import Command
from wrenn_server.hostagent.simulated import SimulatedAgent
from wrenn_server.model.errors import Unavailable
from wrenn_server.model.sandbox import Reason


async def info(e2b: E2b, sandbox: dict[str, Any]) -> dict[str, Any]:
    return (await e2b.get(f"/sandboxes/{sandbox['sandboxID']}")).json()


async def left(e2b: E2b, sandbox: dict[str, Any]) -> float:
    return (datetime.fromisoformat((await info(e2b, sandbox))["endAt"]) - datetime.now(UTC)).total_seconds()


# Connect


@pytest.mark.parametrize("version", ["", "/v2"])
async def test_connect_to_one_that_runs_only_lengthens(e2b: E2b, host: SimulatedAgent, version: str) -> None:
    made = await e2b.new(timeout=100)
    path = f"{version}/sandboxes/{made['sandboxID']}/connect"
    longer = await e2b.post(path, {"timeout": 500})
    assert longer.status_code == 200
    assert longer.json() == made
    assert 490 < await left(e2b, made) <= 500
    assert (await e2b.post(path, {"timeout": 5})).status_code == 200
    assert await left(e2b, made) > 480
    assert (await e2b.post(path)).status_code == 200


@pytest.mark.parametrize("version", ["", "/v2"])
async def test_connect_to_a_paused_one_resumes_it(e2b: E2b, host: SimulatedAgent, version: str) -> None:
    made = await e2b.new(timeout=1000)
    await e2b.post(f"/sandboxes/{made['sandboxID']}/pause")
    path = f"{version}/sandboxes/{made['sandboxID']}/connect"
    resumed = await e2b.post(path, {"timeout": 50})
    assert resumed.status_code == 201
    assert resumed.json() == made
    assert (await info(e2b, made))["state"] == "running"
    assert 30 < await left(e2b, made) <= 50
    assert (await e2b.post(path)).status_code == 200


async def test_connect_without_memory_boots(e2b: E2b, host: SimulatedAgent) -> None:
    made = await e2b.new()
    await e2b.post(f"/sandboxes/{made['sandboxID']}/pause")
    await e2b.post(f"/v2/sandboxes/{made['sandboxID']}/connect", {"memory": False})
    (resume,) = [body for body in host.host.bodies if type(body).__name__ == "Resume"]
    assert getattr(resume, "memory") is False  # noqa: B009 - of whichever body it is


async def test_connect_to_one_that_is_being_killed(e2b: E2b, host: SimulatedAgent) -> None:
    made = await e2b.new()
    host.host.before = gate = Gate(Command.KILL)
    kill = asyncio.create_task(e2b.delete(f"/sandboxes/{made['sandboxID']}"))
    await gate.reached.wait()
    assert (await e2b.post(f"/v2/sandboxes/{made['sandboxID']}/connect")).status_code == 409
    assert (await e2b.get(f"/sandboxes/{made['sandboxID']}")).status_code == 404
    gate.open.set()
    assert (await kill).status_code == 204


@pytest.mark.parametrize("timeout", [0, -1, 10**9, "60"])
async def test_connect_with_a_timeout_that_is_none(e2b: E2b, host: SimulatedAgent, timeout: Any) -> None:
    made = await e2b.new()
    answer = await e2b.post(f"/v2/sandboxes/{made['sandboxID']}/connect", {"timeout": timeout})
    assert answer.status_code == 400


# Pause, resume


async def test_pause(e2b: E2b, host: SimulatedAgent) -> None:
    made = await e2b.new()
    path = f"/sandboxes/{made['sandboxID']}"
    assert (await e2b.post(f"{path}/pause", {})).status_code == 204
    (listed,) = (await e2b.get("/v2/sandboxes")).json()
    assert listed["state"] == "paused"
    found = await info(e2b, made)
    assert (found["state"], found["pauseMode"]) == ("paused", "full")
    assert (await e2b.post(f"{path}/pause")).status_code == 409
    assert (await e2b.delete(path)).status_code == 204


async def test_one_that_is_being_paused_counts_as_paused(e2b: E2b, host: SimulatedAgent) -> None:
    made = await e2b.new()
    host.host.before = gate = Gate(Command.PAUSE)
    pause = asyncio.create_task(e2b.post(f"/sandboxes/{made['sandboxID']}/pause"))
    await gate.reached.wait()
    assert (await info(e2b, made))["state"] == "paused"
    assert "pauseMode" not in await info(e2b, made)
    gate.open.set()
    assert (await pause).status_code == 204


async def test_pause_without_memory(e2b: E2b, host: SimulatedAgent) -> None:
    made = await e2b.new()
    await e2b.post(f"/sandboxes/{made['sandboxID']}/pause", {"memory": False})
    assert (await info(e2b, made))["pauseMode"] == "filesystem"


async def test_pause_of_a_guest_that_does_not_answer(e2b: E2b, host: SimulatedAgent) -> None:
    """This host's sandboxes have no envd."""
    made = await e2b.new()
    path = f"/sandboxes/{made['sandboxID']}/pause"
    answer = await e2b.post(path, {"requireHealthyGuest": True})
    assert (answer.status_code, answer.json()["error_code"]) == (503, "guest_unresponsive")
    assert (await info(e2b, made))["state"] == "running"
    assert (await e2b.post(path, {"requireHealthyGuest": False})).status_code == 204


async def test_pause_of_a_guest_that_answers(e2b: E2b, host_with_envd: SimulatedAgent) -> None:
    made = await e2b.new()
    path = f"/sandboxes/{made['sandboxID']}/pause"
    assert (await e2b.post(path, {"requireHealthyGuest": True})).status_code == 204


async def test_resume(e2b: E2b, host: SimulatedAgent) -> None:
    made = await e2b.new(timeout=1000)
    path = f"/sandboxes/{made['sandboxID']}"
    assert (await e2b.post(f"{path}/resume")).status_code == 409
    await e2b.post(f"{path}/pause")
    resumed = await e2b.post(f"{path}/resume", {"timeout": 60, "autoPause": False})
    assert resumed.status_code == 201
    assert resumed.json() == made
    assert 40 < await left(e2b, made) <= 60


# Timeouts


async def test_set_timeout(e2b: E2b, host: SimulatedAgent) -> None:
    made = await e2b.new(timeout=1000)
    path = f"/sandboxes/{made['sandboxID']}/timeout"
    assert (await e2b.post(path, {"timeout": 10})).status_code == 204
    assert 0 < await left(e2b, made) <= 10
    assert (await e2b.post(path, {"timeout": 500})).status_code == 204
    assert 490 < await left(e2b, made) <= 500
    for bad in (-1, 10**9, 10**30, "5", None, 1.5):
        assert (await e2b.post(path, {"timeout": bad})).status_code == 400
    assert (await e2b.post(path, {})).status_code == 400
    assert (await e2b.post(path)).status_code == 400


async def test_a_timeout_of_nothing_is_now(e2b: E2b, host: SimulatedAgent) -> None:
    killed, paused = await e2b.new(), await e2b.new(autoPause=True)
    for made in (killed, paused):
        assert (await e2b.post(f"/sandboxes/{made['sandboxID']}/timeout", {"timeout": 0})).status_code == 204
    assert (await e2b.get(f"/sandboxes/{killed['sandboxID']}")).status_code == 404
    assert (await info(e2b, paused))["state"] == "paused"


async def test_auto_pause_may_keep_the_disk_alone(e2b: E2b, host: SimulatedAgent) -> None:
    made = await e2b.new(autoPause=True, autoPauseMemory=False)
    await e2b.post(f"/sandboxes/{made['sandboxID']}/timeout", {"timeout": 0})
    found = await info(e2b, made)
    assert (found["state"], found["pauseMode"]) == ("paused", "filesystem")
    assert found["lifecycle"] == {"autoResume": False, "onTimeout": "pause"}


async def test_refresh_only_lengthens(e2b: E2b, host: SimulatedAgent) -> None:
    made = await e2b.new(timeout=100)
    path = f"/sandboxes/{made['sandboxID']}/refreshes"
    assert (await e2b.post(path, {"duration": 200})).status_code == 204
    assert 190 < await left(e2b, made) <= 200
    assert (await e2b.post(path, {"duration": 5})).status_code == 204
    assert (await e2b.post(path)).status_code == 204
    assert await left(e2b, made) > 180
    assert (await e2b.post(path, {"duration": -1})).status_code == 400


async def test_one_whose_time_is_over_is_gone(e2b: E2b, host: SimulatedAgent) -> None:
    made = await e2b.new()
    host.host.ends(made["sandboxID"], Reason.TIMEOUT)
    await host.beat()

    async def gone() -> bool:
        return (await e2b.get(f"/sandboxes/{made['sandboxID']}")).status_code == 404

    await eventually(gone)
    assert (await e2b.post(f"/v2/sandboxes/{made['sandboxID']}/connect")).status_code == 404


async def test_one_whose_time_is_over_is_gone_before_its_host_tells(
    world: World, e2b: E2b, host: SimulatedAgent
) -> None:
    over, paused, other = [await e2b.new(autoPause=pauses) for pauses in (False, True, False)]
    for made in (over, paused):
        await world.cp.db.execute(
            "UPDATE sandboxes SET expires_at = now() - interval '1 second' WHERE id = $1", made["sandboxID"]
        )
    assert (await e2b.get(f"/sandboxes/{over['sandboxID']}")).status_code == 404
    assert (await e2b.delete(f"/sandboxes/{over['sandboxID']}")).status_code == 404
    for path in ("/v2/sandboxes", "/sandboxes"):
        listed = [sandbox["sandboxID"] for sandbox in (await e2b.get(path)).json()]
        assert sorted(listed) == sorted([paused["sandboxID"], other["sandboxID"]])


# Forks


async def test_fork(e2b: E2b, host: SimulatedAgent) -> None:
    made = await e2b.new(metadata={"a": "b"}, network={"allowPublicTraffic": False})
    results = await e2b.post(f"/sandboxes/{made['sandboxID']}/fork", {"count": 3, "timeout": 100})
    assert results.status_code == 201
    forks = [result["sandbox"] for result in results.json()]
    assert len({fork["sandboxID"] for fork in [*forks, made]}) == 4
    for fork in forks:
        assert 80 < await left(e2b, fork) <= 100
        assert fork["trafficAccessToken"] != made["trafficAccessToken"]
        assert (await info(e2b, fork))["metadata"] == {"a": "b"}
    assert (await info(e2b, made))["state"] == "running"
    (one,) = (await e2b.post(f"/sandboxes/{made['sandboxID']}/fork")).json()
    assert 5 < await left(e2b, one["sandbox"]) <= 15


async def test_forks_fail_one_by_one(e2b: E2b, host: SimulatedAgent) -> None:
    made = await e2b.new()
    failed: list[str] = []

    async def one_fails(command: Command, sandbox_id: str) -> None:
        if command is Command.START and not failed:
            failed.append(sandbox_id)
            raise Unavailable("no slot is left", code="no_slot")

    host.host.before = one_fails
    results = (await e2b.post(f"/sandboxes/{made['sandboxID']}/fork", {"count": 2})).json()
    assert [sorted(result) for result in results] == [["error"], ["sandbox"]]
    error = results[0]["error"]
    assert isinstance(error["code"], int)
    assert error["code"] >= 500
    assert "no slot is left" in error["message"]


@pytest.mark.parametrize(
    "body", [{"count": 0}, {"count": 21}, {"count": -1}, {"count": "1"}, {"timeout": 0}, []]
)
async def test_forks_that_cannot_be(e2b: E2b, host: SimulatedAgent, body: Any) -> None:
    made = await e2b.new()
    assert (await e2b.post(f"/sandboxes/{made['sandboxID']}/fork", body)).status_code == 400
    assert len(host.host.held) == 1


async def test_a_paused_one_cannot_be_forked(e2b: E2b, host: SimulatedAgent) -> None:
    made = await e2b.new()
    await e2b.post(f"/sandboxes/{made['sandboxID']}/pause")
    assert (await e2b.post(f"/sandboxes/{made['sandboxID']}/fork")).status_code == 409


# Network


async def test_update_network(e2b: E2b, host: SimulatedAgent) -> None:
    made = await e2b.new(network={"denyOut": ["8.8.8.8"]}, allow_internet_access=False)
    path = f"/sandboxes/{made['sandboxID']}/network"
    held = host.host.held[made["sandboxID"]]
    assert (await e2b.put(path, {"denyOut": ["1.2.3.0/24"], "allowOut": ["1.2.3.4"]})).status_code == 204
    found = await info(e2b, made)
    assert found["network"]["denyOut"] == held.network.deny_out
    assert held.network.deny_out == ["1.2.3.0/24"]
    assert found["allowInternetAccess"] is True, "what is left out is as if it had never been"
    assert (await e2b.put(path, {"allow_internet_access": False})).status_code == 204
    assert host.host.held[made["sandboxID"]].network.internet is False
    assert (await e2b.put(path, {})).status_code == 204
    assert (await info(e2b, made))["network"] == {"allowPublicTraffic": True, "allowOut": [], "denyOut": []}


@pytest.mark.parametrize(
    ("body", "status"),
    [({"denyOut": ["example.com"]}, 400), ({"allowOut": ["example.com"]}, 400), ({"allowOut": 1}, 400), ([], 400),
     ({"egressProxy": {"address": "x:1"}}, 501), ({"rules": {"example.com": [{}]}}, 501)],
)  # fmt: skip
async def test_networks_that_cannot_be(e2b: E2b, host: SimulatedAgent, body: Any, status: int) -> None:
    made = await e2b.new(network={"denyOut": ["8.8.8.8"]})
    before = (await info(e2b, made))["network"]
    answer = await e2b.put(f"/sandboxes/{made['sandboxID']}/network", body)
    assert answer.status_code == status, answer.text
    assert (await info(e2b, made))["network"] == before


# Metrics


async def test_metrics(world: World, e2b: E2b, host: SimulatedAgent) -> None:
    made = await e2b.new()
    path = f"/sandboxes/{made['sandboxID']}/metrics"
    assert (await e2b.get(path)).json() == []
    now = int(datetime.now(UTC).timestamp())
    for at in (now - 20, now - 10, now):
        await world.cp.db.execute(
            """INSERT INTO samples (sandbox_id, at, cpu_count, cpu_used_pct, mem_used, mem_total, mem_cache, disk_used,
                                    disk_total) VALUES ($1, to_timestamp($2), 2, 12.5, 1, 2, 3, 4, 5)""",
            made["sandboxID"],
            float(at),
        )
    metrics = (await e2b.get(path)).json()
    assert [metric["timestampUnix"] for metric in metrics] == [now - 20, now - 10, now]
    assert metrics[0] == {
        "timestamp": datetime.fromtimestamp(now - 20, UTC).isoformat().replace("+00:00", "Z"),
        "timestampUnix": now - 20, "cpuCount": 2, "cpuUsedPct": 12.5, "memUsed": 1, "memTotal": 2, "memCache": 3,
        "diskUsed": 4, "diskTotal": 5,
    }  # fmt: skip
    some = (await e2b.get(path, params={"start": now - 15, "end": now - 5})).json()
    assert [metric["timestampUnix"] for metric in some] == [now - 10]
    assert (await e2b.get(path, params={"start": now - 1000, "end": now - 500})).json() == []
    latest = (
        await e2b.get("/sandboxes/metrics", params={"sandbox_ids": f"{made['sandboxID']},sbother"})
    ).json()
    assert list(latest["sandboxes"]) == [made["sandboxID"]]
    assert latest["sandboxes"][made["sandboxID"]]["timestampUnix"] == now
    for query in ("start=x", "end=-x", "start=" + "9" * 30, "start=20&end=10"):
        assert (await e2b.get(f"{path}?{query}")).status_code == 400
    assert (await e2b.get("/sandboxes/metrics")).status_code == 400
    assert (await e2b.get("/sandboxes/sb00000000000000000000/metrics")).status_code == 404
