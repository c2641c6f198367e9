"""`/v1/sandboxes` from end to end, with a simulated host."""

import asyncio
import time
from datetime import UTC, datetime

import pytest
from controlplane.test_crash import age_leases
from msgspec.structs import replace

from support.simulated import Gate, World, eventually
from wrenn_server.controlplane import bootstrap
from wrenn_server.db import hosts as db_hosts
from wrenn_server.hostagent.sandbox.lifecycle import Command
from wrenn_server.hostagent.simulated import SPECS, SimulatedAgent
from wrenn_server.model.errors import Internal, Unavailable
from wrenn_server.model.ids import new_sandbox_id
from wrenn_server.model.sandbox import Reason, State


async def held(world: World, agent: SimulatedAgent) -> tuple[int, int]:
    """Sandboxes and MiB of memory that the control plane counts on the host."""
    row = await db_hosts.get(world.cp.db, agent.host_id)
    assert row is not None
    return row.sandboxes, row.memory_mb_reserved


async def test_create_with_defaults(world: World, host: SimulatedAgent) -> None:
    response = await world.api.post("/v1/sandboxes")
    assert response.status_code == 201
    made = response.json()
    shape = {key: made[key] for key in ("status", "template", "vcpus", "memory_mb", "disk_mb", "timeout_sec")}
    assert shape == {
        "status": "running", "template": "minimal", "vcpus": 1, "memory_mb": 512, "disk_mb": 5120, "timeout_sec": 0,
    }  # fmt: skip
    assert made["host_id"] == host.host_id
    assert host.host.held[made["id"]].access_token == made["envd_access_token"]
    assert made["created_at"].endswith("Z")
    assert "expires_at" not in made
    assert await held(world, host) == (1, 512)


async def test_create_with_everything(world: World, host: SimulatedAgent) -> None:
    before = datetime.now(UTC)
    made = await world.new_sandbox(
        template="minimal", vcpus=2, memory_mb=1024, disk_mb=2048, timeout_sec=600, on_timeout="pause",
        metadata={"owner": "ü"}, envs={"A": "b"},
    )  # fmt: skip
    assert (made["vcpus"], made["memory_mb"], made["disk_mb"]) == (2, 1024, 2048)
    assert made["metadata"] == {"owner": "ü"}
    left = (datetime.fromisoformat(made["expires_at"]) - before).total_seconds()
    assert 595 < left < 610
    got = (await world.api.get(f"/v1/sandboxes/{made['id']}")).json()
    assert got == made


async def test_get_list_and_the_access_token(world: World, host: SimulatedAgent) -> None:
    made = [await world.new_sandbox(metadata={"n": str(n)}) for n in range(3)]
    listed = (await world.api.get("/v1/sandboxes")).json()
    assert [sandbox["id"] for sandbox in listed] == [sandbox["id"] for sandbox in reversed(made)]
    assert all("envd_access_token" not in sandbox for sandbox in listed)
    found = (await world.api.get("/v1/sandboxes?metadata=n=1")).json()
    assert [sandbox["id"] for sandbox in found] == [made[1]["id"]]


async def test_pages(world: World, host: SimulatedAgent) -> None:
    made = {(await world.new_sandbox())["id"] for _ in range(5)}
    seen: list[str] = []
    sizes: list[int] = []
    cursor: str | None = ""
    while cursor is not None:
        page = await world.api.get("/v1/sandboxes?limit=2" + (f"&cursor={cursor}" if cursor else ""))
        seen += [sandbox["id"] for sandbox in page.json()]
        sizes.append(len(page.json()))
        cursor = page.headers.get("x-next-cursor")
    assert sizes == [2, 2, 1]
    assert set(seen) == made


async def test_ended_sandboxes_are_listed_when_asked_for(world: World, host: SimulatedAgent) -> None:
    sandbox = await world.new_sandbox()
    await world.api.delete(f"/v1/sandboxes/{sandbox['id']}")
    assert (await world.api.get("/v1/sandboxes")).json() == []
    killed = (await world.api.get("/v1/sandboxes?status=killed,failed")).json()
    assert [(s["id"], s["reason"]) for s in killed] == [(sandbox["id"], "user")]


async def test_delete_frees_everything_and_a_second_one_is_404(world: World, host: SimulatedAgent) -> None:
    sandbox = await world.new_sandbox()
    first = await world.api.delete(f"/v1/sandboxes/{sandbox['id']}")
    second = await world.api.delete(f"/v1/sandboxes/{sandbox['id']}")
    assert (first.status_code, second.status_code) == (204, 404)
    assert host.host.held == {}
    assert await held(world, host) == (0, 0)
    assert await world.state(sandbox["id"]) == "killed"


async def test_pause_and_resume(world: World, host: SimulatedAgent) -> None:
    sandbox = await world.new_sandbox(timeout_sec=100)
    paused = await world.api.post(f"/v1/sandboxes/{sandbox['id']}/pause")
    assert (paused.status_code, paused.json()["status"]) == (200, "paused")
    assert "expires_at" not in paused.json()
    assert await held(world, host) == (1, 0)
    resumed = await world.api.post(f"/v1/sandboxes/{sandbox['id']}/resume", {"timeout_sec": 50})
    assert resumed.status_code == 200
    body = resumed.json()
    assert (body["status"], body["generation"], body["timeout_sec"]) == ("running", 2, 50)
    assert "expires_at" in body
    assert body["envd_access_token"] == sandbox["envd_access_token"]
    assert await held(world, host) == (1, 512)


@pytest.mark.parametrize("verb", ["pause", "resume", "fork"])
async def test_wrong_states_are_told(world: World, host: SimulatedAgent, verb: str) -> None:
    sandbox = await world.new_sandbox()
    path = f"/v1/sandboxes/{sandbox['id']}"
    if verb != "resume":
        await world.api.post(f"{path}/pause")
    answer = await world.api.post(f"{path}/{verb}")
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "invalid_state")


async def test_fork(world: World, host: SimulatedAgent) -> None:
    source = await world.new_sandbox(vcpus=2, metadata={"a": "b"})
    answer = await world.api.post(f"/v1/sandboxes/{source['id']}/fork", {"count": 3})
    assert answer.status_code == 201
    forks = [result["sandbox"] for result in answer.json()]
    assert {fork["status"] for fork in forks} == {"running"}
    assert {fork["vcpus"] for fork in forks} == {2}
    assert {fork["metadata"]["a"] for fork in forks} == {"b"}
    assert len({fork["id"] for fork in forks} | {source["id"]}) == 4
    assert len({fork["envd_access_token"] for fork in forks} | {source["envd_access_token"]}) == 4
    assert await world.state(source["id"]) == "running"
    assert (await held(world, host))[0] == 4


async def test_some_forks_fail(world: World, host: SimulatedAgent) -> None:
    source = await world.new_sandbox()
    failed: list[str] = []

    async def fail_first(command: Command, sandbox_id: str) -> None:
        if command is Command.START and not failed:
            failed.append(sandbox_id)
            raise Internal("no more memory", code="fork_failed")

    host.host.before = fail_first
    results = (await world.api.post(f"/v1/sandboxes/{source['id']}/fork", {"count": 3})).json()
    assert [result["error"]["code"] for result in results if "error" in result] == ["fork_failed"]
    assert sum("sandbox" in result for result in results) == 2
    gone = (await world.api.get(f"/v1/sandboxes/{failed[0]}")).json()
    assert (gone["status"], gone["reason"]) == ("failed", "start_failed")
    assert (await held(world, host))[0] == 3


async def test_timeout(world: World, host: SimulatedAgent) -> None:
    sandbox = await world.new_sandbox()
    path = f"/v1/sandboxes/{sandbox['id']}/timeout"
    answer = await world.api.post(path, {"timeout_sec": 1000})
    assert answer.status_code == 200
    expires = host.host.held[sandbox["id"]].report.expires_at
    assert expires is not None
    assert 990 < expires - time.time() < 1001
    assert datetime.fromisoformat(answer.json()["expires_at"]).timestamp() == pytest.approx(expires, abs=0.01)
    never = await world.api.post(path, {"timeout_sec": 0})
    assert "expires_at" not in never.json()
    assert host.host.held[sandbox["id"]].report.expires_at is None


async def test_nobody_sees_another_teams_sandboxes(world: World, host: SimulatedAgent) -> None:
    sandbox = await world.new_sandbox()
    other = await bootstrap.bootstrap(world.cp.db, "other@example.com", "another password")
    stranger = world.api.with_key(other.api_key)
    path = f"/v1/sandboxes/{sandbox['id']}"
    assert (await stranger.get("/v1/sandboxes")).json() == []
    for answer in (
        await stranger.get(path),
        await stranger.delete(path),
        await stranger.post(f"{path}/pause"),
        await stranger.post(f"{path}/fork"),
        await stranger.post(f"{path}/timeout", {"timeout_sec": 1}),
        await stranger.post(f"{path}/exec", {"cmd": "true"}),
        await stranger.post(f"{path}/files/read", {"path": "/etc/passwd"}),
    ):
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "sandbox_not_found")
    assert await world.state(sandbox["id"]) == "running"


async def test_no_template(world: World, host: SimulatedAgent) -> None:
    answer = await world.api.post("/v1/sandboxes", {"template": "nonesuch"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "template_not_found")


async def test_no_host(world: World) -> None:
    answer = await world.api.post("/v1/sandboxes", {})
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "no_hosts_available")
    problem = answer.json()["error"]
    assert problem["retryable"] is True
    assert (problem["message"], "add a host" in problem["hint"]) == ("no host is online", True)


async def test_no_host_has_the_template_yet(world: World) -> None:
    async with world.host(templates=["another"]):
        answer = await world.api.post("/v1/sandboxes", {})
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "no_hosts_available")
    assert answer.json()["error"]["message"] == "no host has template minimal yet"


async def test_no_room(world: World) -> None:
    small = replace(SPECS, memory_mb=300)
    async with world.host(specs=small) as agent:
        await world.new_sandbox()
        answer = await world.api.post("/v1/sandboxes", {})
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "no_hosts_available")
        assert "ask for less memory" in answer.json()["error"]["hint"]
        assert (await held(world, agent))[0] == 1


async def test_sandboxes_are_spread(world: World) -> None:
    small = replace(SPECS, memory_mb=4096)
    async with (
        world.host(specs=small) as one,
        world.host(specs=small) as two,
        world.host(specs=small) as three,
    ):
        for _ in range(9):
            await world.new_sandbox()
        assert [len(agent.host.held) for agent in (one, two, three)] == [3, 3, 3]


async def test_a_host_that_refuses_is_passed_over(world: World) -> None:
    async with world.host() as one, world.host() as two:

        async def refuse(command: Command, sandbox_id: str) -> None:
            if command is Command.START:
                raise Unavailable("no slot is free", code="no_slot")

        one.host.before = refuse
        for _ in range(4):
            await world.new_sandbox()
        assert (len(one.host.held), len(two.host.held)) == (0, 4)
        assert (await held(world, one)) == (0, 0)


async def test_a_dead_host_is_passed_over(world: World) -> None:
    async with world.host() as two:
        async with world.host():
            pass
        for _ in range(4):
            assert (await world.new_sandbox())["host_id"] == two.host_id


async def test_a_failed_start_leaves_its_reason_and_nothing_else(world: World, host: SimulatedAgent) -> None:
    async def fail(command: Command, sandbox_id: str) -> None:
        if command is Command.START:
            raise Internal("the kernel did not boot", code="boot_failed")

    host.host.before = fail
    answer = await world.api.post("/v1/sandboxes", {})
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "agent_error")
    assert "the kernel did not boot" in answer.json()["error"]["message"]
    failed = (await world.api.get("/v1/sandboxes?status=failed")).json()
    assert [(s["reason"], s["message"]) for s in failed] == [("start_failed", "the kernel did not boot")]
    assert await held(world, host) == (0, 0)


async def test_a_failed_pause_leaves_it_running(world: World, host: SimulatedAgent) -> None:
    sandbox = await world.new_sandbox()

    async def fail(command: Command, sandbox_id: str) -> None:
        if command is Command.PAUSE:
            raise Internal("no space left", code="snapshot_failed")

    host.host.before = fail
    answer = await world.api.post(f"/v1/sandboxes/{sandbox['id']}/pause")
    assert answer.status_code == 500
    assert await world.state(sandbox["id"]) == "running"


async def test_a_failed_resume_leaves_it_paused_and_the_next_succeeds(
    world: World, host: SimulatedAgent
) -> None:
    sandbox = await world.new_sandbox()
    await world.api.post(f"/v1/sandboxes/{sandbox['id']}/pause")

    async def fail(command: Command, sandbox_id: str) -> None:
        if command is Command.RESUME:
            raise Internal("bad snapshot", code="resume_failed")

    host.host.before = fail
    answer = await world.api.post(f"/v1/sandboxes/{sandbox['id']}/resume")
    assert answer.status_code == 500
    assert await world.state(sandbox["id"]) == "paused"
    assert await held(world, host) == (1, 0)
    host.host.before = Gate()
    again = await world.api.post(f"/v1/sandboxes/{sandbox['id']}/resume")
    assert (again.status_code, again.json()["generation"]) == (200, 3)


async def test_a_pause_whose_answer_is_lost_is_found_out(world: World, host: SimulatedAgent) -> None:
    sandbox = await world.new_sandbox()

    async def lose(command: Command, sandbox_id: str) -> None:
        if command is Command.PAUSE:
            raise Internal("the answer got lost")

    host.host.after = lose
    assert (await world.api.post(f"/v1/sandboxes/{sandbox['id']}/pause")).status_code == 500
    assert await world.state(sandbox["id"]) == "paused"


async def test_two_pauses_at_once(world: World, host: SimulatedAgent) -> None:
    sandbox = await world.new_sandbox()
    host.host.before = gate = Gate(Command.PAUSE)
    path = f"/v1/sandboxes/{sandbox['id']}/pause"
    first = asyncio.create_task(world.api.post(path))
    await gate.reached.wait()
    second = await world.api.post(path)
    gate.open.set()
    assert (second.status_code, second.json()["error"]["code"]) == (409, "invalid_state")
    assert (await first).status_code == 200
    assert sum(command is Command.PAUSE for command, _, _ in host.host.calls) == 1


async def test_delete_during_create(world: World, host: SimulatedAgent) -> None:
    host.host.before = gate = Gate(Command.START)
    create = asyncio.create_task(world.api.post("/v1/sandboxes", {}))
    await gate.reached.wait()
    starting = (await world.api.get("/v1/sandboxes")).json()
    assert [s["status"] for s in starting] == ["starting"]
    assert (await world.api.delete(f"/v1/sandboxes/{starting[0]['id']}")).status_code == 204
    gate.open.set()
    answer = await create
    assert answer.status_code in (409, 500)
    assert await world.state(starting[0]["id"]) == "killed"

    async def empty() -> bool:
        return not host.host.held

    await eventually(empty)
    assert await held(world, host) == (0, 0)


async def test_delete_after_the_start_and_before_its_answer(world: World, host: SimulatedAgent) -> None:
    host.host.after = gate = Gate(Command.START)
    create = asyncio.create_task(world.api.post("/v1/sandboxes", {}))
    await gate.reached.wait()
    sandbox_id = (await world.api.get("/v1/sandboxes")).json()[0]["id"]
    assert (await world.api.delete(f"/v1/sandboxes/{sandbox_id}")).status_code == 204
    gate.open.set()
    assert (await create).status_code == 409
    assert await world.state(sandbox_id) == "killed"
    assert host.host.held == {}


async def test_a_client_that_leaves_does_not_strand_its_create(world: World, host: SimulatedAgent) -> None:
    host.host.before = gate = Gate(Command.START)
    create = asyncio.create_task(world.api.post("/v1/sandboxes", {}))
    await gate.reached.wait()
    create.cancel()
    await asyncio.wait([create])
    gate.open.set()

    async def runs() -> bool:
        return [s["status"] for s in (await world.api.get("/v1/sandboxes")).json()] == ["running"]

    await eventually(runs)


async def test_twenty_at_once(world: World, host: SimulatedAgent) -> None:
    made = await asyncio.gather(*(world.new_sandbox() for _ in range(20)))
    assert len({sandbox["id"] for sandbox in made}) == 20
    assert await held(world, host) == (20, 20 * 512)


@pytest.mark.parametrize("state", [s for s in State if s not in (State.KILLED, State.KILLING)])
async def test_delete_is_legal_in_every_state(world: World, host: SimulatedAgent, state: State) -> None:
    sandbox = await world.new_sandbox()
    await world.cp.db.execute("UPDATE sandboxes SET state = $2 WHERE id = $1", sandbox["id"], state.value)
    world.cp.routes.forget(sandbox["id"])
    assert (await world.api.delete(f"/v1/sandboxes/{sandbox['id']}")).status_code == 204
    assert await world.state(sandbox["id"]) == "killed"
    assert host.host.held == {}


async def test_delete_while_the_host_is_away_is_done_when_it_is_back(world: World) -> None:
    async with world.host() as agent:
        sandbox = await world.new_sandbox()
        await world.cp.db.execute("UPDATE hosts SET status = 'unreachable'")
        assert (await world.api.delete(f"/v1/sandboxes/{sandbox['id']}")).status_code == 204
        assert await world.state(sandbox["id"]) == "killing"
        assert (await world.api.delete(f"/v1/sandboxes/{sandbox['id']}")).status_code == 204
        await agent.beat()
        await age_leases(world.cp.db)
        world.cp.wake.set()

        async def killed() -> bool:
            return await world.state(sandbox["id"]) == "killed"

        await eventually(killed)
        assert agent.host.held == {}


async def test_pause_and_resume_while_the_host_is_away(world: World, host: SimulatedAgent) -> None:
    sandbox = await world.new_sandbox()
    await world.cp.db.execute("UPDATE hosts SET status = 'unreachable'")
    answer = await world.api.post(f"/v1/sandboxes/{sandbox['id']}/pause")
    assert answer.status_code in (409, 503)
    assert host.host.held[sandbox["id"]].report.state is State.RUNNING


async def test_an_id_of_the_right_shape_that_nobody_has(world: World) -> None:
    answer = await world.api.get(f"/v1/sandboxes/{new_sandbox_id()}")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "sandbox_not_found")


async def test_reason_of_an_end_by_itself(world: World, host: SimulatedAgent) -> None:
    sandbox = await world.new_sandbox()
    host.host.ends(sandbox["id"], Reason.OOM_KILLED, console="Out of memory: Killed process 1")
    await host.beat()
    failed = (await world.api.get(f"/v1/sandboxes/{sandbox['id']}")).json()
    assert (failed["status"], failed["reason"]) == ("failed", "oom_killed")
    assert failed["console"] == "Out of memory: Killed process 1"
    assert host.host.held == {}, "the host may forget it now"
    assert await held(world, host) == (0, 0)


async def test_a_kill_that_the_host_fails_is_tried_again(world: World, host: SimulatedAgent) -> None:
    sandbox = await world.new_sandbox()
    failed: list[str] = []

    async def fail_once(command: Command, sandbox_id: str) -> None:
        if command is Command.KILL and not failed:
            failed.append(sandbox_id)
            raise Internal("the process does not die", code="kill_failed")

    host.host.before = fail_once
    assert (await world.api.delete(f"/v1/sandboxes/{sandbox['id']}")).status_code == 204
    assert await world.state(sandbox["id"]) == "killing"
    await world.cp.db.execute("UPDATE sandboxes SET check_after = now()")
    world.cp.wake.set()

    async def killed() -> bool:
        return await world.state(sandbox["id"]) == "killed"

    await eventually(killed)
    assert host.host.held == {}


async def test_a_heartbeat_that_is_faster_than_the_answer_to_a_create(
    world: World, host: SimulatedAgent
) -> None:
    host.host.after = gate = Gate(Command.START)
    create = asyncio.create_task(world.api.post("/v1/sandboxes", {}))
    await gate.reached.wait()
    await world.cp.db.execute("UPDATE sandboxes SET state = 'running', check_after = NULL")
    gate.open.set()
    answer = await create
    assert (answer.status_code, answer.json()["status"]) == (201, "running")
    assert list(host.host.held) == [answer.json()["id"]]
