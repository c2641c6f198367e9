"""Snapshots from end to end, with simulated hosts: made, named, started from, deleted, and what a crash leaves."""

import asyncio
from pathlib import Path
from typing import Any

import httpx2
import pytest
from controlplane.test_crash import arranged, port, program

from support.simulated import Gate, World, eventually
from wrenn_server.controlplane import bootstrap
from wrenn_server.controlplane.services import templates
from wrenn_server.db.pool import Database
from wrenn_server.hostagent.sandbox.lifecycle import Command
from wrenn_server.hostagent.simulated import SimulatedAgent
from wrenn_server.model.errors import Internal, InvalidRequest, NotFound, WrennError
from wrenn_server.model.ids import new_snapshot_id

__all__ = ["port"]


async def snapshot(world: World, sandbox: dict[str, Any], **wanted: Any) -> dict[str, Any]:
    response = await world.api.post(f"/v1/sandboxes/{sandbox['id']}/snapshots", wanted)
    assert response.status_code == 201, response.text
    return response.json()


async def listed(world: World, query: str = "") -> list[str]:
    return [s["id"] for s in (await world.api.get(f"/v1/snapshots{query}")).json()]


async def rows(world: World) -> list[str]:
    return [r["state"] for r in await world.cp.db.fetch("SELECT state FROM snapshots ORDER BY created_at")]


async def test_a_running_sandbox_is_saved_and_goes_on(world: World, host: SimulatedAgent) -> None:
    sandbox = await world.new_sandbox(vcpus=2, memory_mb=256, disk_mb=1024)
    made = await snapshot(world, sandbox)
    assert (made["sandbox_id"], made["names"], made["memory"]) == (sandbox["id"], [], True)
    assert (made["vcpus"], made["memory_mb"], made["disk_mb"]) == (2, 256, 1024)
    assert (made["template"], made["host_id"]) == ("minimal", host.host_id)
    assert made["size_bytes"] == host.host.snapshots[made["id"]].report.size_bytes
    assert await world.state(sandbox["id"]) == "running"
    assert await listed(world) == [made["id"]]


async def test_a_sandbox_from_a_snapshot_has_its_shape_and_starts_where_it_is(
    world: World, host: SimulatedAgent
) -> None:
    source = await world.new_sandbox(vcpus=2, memory_mb=256, disk_mb=1024)
    made = await snapshot(world, source, memory=False)
    async with world.host():
        for _ in range(3):
            started = await world.new_sandbox(template=made["id"], vcpus=1, memory_mb=512)
            assert (started["vcpus"], started["memory_mb"], started["disk_mb"]) == (2, 256, 1024)
            assert (started["host_id"], started["template"]) == (host.host_id, made["id"])
            assert host.host.held[started["id"]].snapshot == made["id"]


async def test_the_source_may_go(world: World, host: SimulatedAgent) -> None:
    source = await world.new_sandbox()
    made = await snapshot(world, source)
    await world.api.delete(f"/v1/sandboxes/{source['id']}")
    assert (await world.new_sandbox(template=made["id"]))["status"] == "running"


async def test_names_and_tags_lead_to_snapshots(world: World, host: SimulatedAgent) -> None:
    source = await world.new_sandbox()
    first = await snapshot(world, source, name="My-Snap")
    assert first["names"] == ["my-snap:default"]
    beta = await snapshot(world, source, name="my-snap:beta")
    team = world.admin.team_id
    (template_id,) = {
        t["id"] for t in (await world.api.get("/v1/templates")).json() if t["name"] == "my-snap"
    }

    async def leads(text: str) -> str | None:
        started = await world.new_sandbox(template=text)
        return host.host.held[started["id"]].snapshot

    for text in ("my-snap", "My-Snap", "my-snap:default", f"{team}/my-snap", template_id, first["id"]):
        assert await leads(text) == first["id"], text
    for text in ("my-snap:beta", f"{team}/my-snap:beta", f"{template_id}:beta"):
        assert await leads(text) == beta["id"], text
    newer = await snapshot(world, source, name="my-snap")
    assert await leads("my-snap") == newer["id"]
    assert await listed(world, "?name=my-snap") == [newer["id"], beta["id"]]
    assert await listed(world, "?name=my-snap:beta") == [beta["id"]]
    assert await listed(world, f"?name={team}/my-snap:beta") == [beta["id"]]
    assert await listed(world, "?name=other") == []
    assert await listed(world, "?name=other/my-snap") == []


async def test_names_that_lead_nowhere(world: World, host: SimulatedAgent) -> None:
    await snapshot(world, await world.new_sandbox(), name="mine:v1")
    for text in ("mine", "mine:v2", "minimal:v1", "other/mine:v1", f"{world.admin.team_id}/minimal", "a/b/c"):
        answer = await world.api.post("/v1/sandboxes", {"template": text})
        assert answer.status_code in (400, 404), text
        assert answer.json()["error"]["code"] in ("template_not_found", "invalid_template")
    assert len(host.host.held) == 1


@pytest.mark.parametrize(
    "name", ["", "a b", "ü", "a:b:c", "a:", ":a", "x" * 129, "team/a", new_snapshot_id()]
)
async def test_names_that_no_snapshot_can_have(world: World, host: SimulatedAgent, name: str) -> None:
    sandbox = await world.new_sandbox()
    answer = await world.api.request(
        "POST", f"/v1/sandboxes/{sandbox['id']}/snapshots", json={"name": name}, wrong=True
    )
    assert answer.status_code == 400, answer.text
    assert await rows(world) == []


async def test_a_teams_own_name_comes_before_the_platforms(world: World, host: SimulatedAgent) -> None:
    made = await snapshot(world, await world.new_sandbox(), name="base")
    started = await world.new_sandbox(template="base")
    assert host.host.held[started["id"]].snapshot == made["id"]
    await world.api.delete(f"/v1/sandboxes/{started['id']}")
    await world.api.delete(f"/v1/snapshots/{made['id']}")
    started = await world.new_sandbox(template="base")
    assert host.host.held[started["id"]].snapshot is None


async def test_pages(world: World, host: SimulatedAgent) -> None:
    one, other = await world.new_sandbox(), await world.new_sandbox()
    made = [await snapshot(world, source) for source in (one, other, one, other, one)]
    newest_first = [s["id"] for s in reversed(made)]
    seen: list[str] = []
    cursor: str | None = ""
    while cursor is not None:
        page = await world.api.get("/v1/snapshots?limit=2" + (f"&cursor={cursor}" if cursor else ""))
        seen += [s["id"] for s in page.json()]
        cursor = page.headers.get("x-next-cursor")
    assert seen == newest_first
    assert await listed(world, f"?sandbox_id={other['id']}") == [made[3]["id"], made[1]["id"]]


async def test_delete(world: World, host: SimulatedAgent) -> None:
    made = await snapshot(world, await world.new_sandbox(), name="mine")
    assert (await world.api.delete(f"/v1/snapshots/{made['id']}")).status_code == 204
    assert host.host.snapshots == {}
    assert await rows(world) == []
    assert "mine" not in [t["name"] for t in (await world.api.get("/v1/templates")).json()]
    again = await world.api.delete(f"/v1/snapshots/{made['id']}")
    assert (again.status_code, again.json()["error"]["code"]) == (404, "snapshot_not_found")
    for other in (new_snapshot_id(), "x"):
        assert (await world.api.delete(f"/v1/snapshots/{other}")).status_code == 404
    assert (await world.api.post("/v1/sandboxes", {"template": made["id"]})).status_code == 404


async def test_what_something_lives_on_cannot_go(world: World, host: SimulatedAgent) -> None:
    made = await snapshot(world, await world.new_sandbox())
    started = await world.new_sandbox(template=made["id"])
    (fork,) = (await world.api.post(f"/v1/sandboxes/{started['id']}/fork")).json()
    path = f"/v1/snapshots/{made['id']}"
    for user in (started["id"], fork["sandbox"]["id"]):
        refused = await world.api.delete(path)
        assert (refused.status_code, refused.json()["error"]["code"]) == (409, "snapshot_in_use")
        assert user in refused.json()["error"]["message"]
        await world.api.post(f"/v1/sandboxes/{user}/pause")
        assert (await world.api.delete(path)).status_code == 409
        await world.api.delete(f"/v1/sandboxes/{user}")
    assert (await world.api.delete(path)).status_code == 204


async def test_of_a_start_and_a_delete_at_once_only_one_happens(world: World, host: SimulatedAgent) -> None:
    source = await world.new_sandbox()
    for _ in range(8):
        made = await snapshot(world, source)
        started, deleted = await asyncio.gather(
            world.api.post("/v1/sandboxes", {"template": made["id"]}),
            world.api.delete(f"/v1/snapshots/{made['id']}"),
        )
        assert (started.status_code, deleted.status_code) in ((201, 409), (404, 204))
        assert (made["id"] in host.host.snapshots) == (started.status_code == 201)


async def test_only_what_runs_can_be_saved(world: World, host: SimulatedAgent) -> None:
    sandbox = await world.new_sandbox()
    path = f"/v1/sandboxes/{sandbox['id']}"
    await world.api.post(f"{path}/pause")
    assert (await world.api.post(f"{path}/snapshots")).status_code == 409
    await world.api.delete(path)
    assert (await world.api.post(f"{path}/snapshots")).status_code == 409
    assert await rows(world) == []


async def test_a_host_that_fails_leaves_nothing(world: World, host: SimulatedAgent) -> None:
    sandbox = await world.new_sandbox()

    async def fails(command: Command, _: str) -> None:
        if command is Command.SNAPSHOT:
            raise Internal("the disk is on fire")

    host.host.after = fails
    answer = await world.api.post(f"/v1/sandboxes/{sandbox['id']}/snapshots", {"name": "mine"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "agent_error")
    await eventually(lambda: nothing_left(world, host))
    assert await world.state(sandbox["id"]) == "running"
    assert (await world.api.post("/v1/sandboxes", {"template": "mine"})).status_code == 404


async def nothing_left(world: World, host: SimulatedAgent) -> bool:
    return host.host.snapshots == {} and await rows(world) == []


async def test_a_host_that_is_away(world: World, host: SimulatedAgent) -> None:
    made = await snapshot(world, await world.new_sandbox(), name="mine")
    async with world.host():
        await world.cp.db.execute("UPDATE hosts SET status = 'unreachable' WHERE id = $1", host.host_id)
        answer = await world.api.post("/v1/sandboxes", {"template": "mine"})
        assert answer.status_code == 503
        assert made["id"] in answer.json()["error"]["message"]
        assert (await world.api.delete(f"/v1/snapshots/{made['id']}")).status_code == 204
        assert await listed(world) == []
        assert await rows(world) == ["deleting"]
        await world.cp.db.execute("UPDATE hosts SET status = 'online' WHERE id = $1", host.host_id)
        await world.cp.db.execute("UPDATE snapshots SET check_after = now()")
        await eventually(lambda: nothing_left(world, host))


async def test_a_host_that_is_full_or_gone(world: World, host: SimulatedAgent) -> None:
    made = await snapshot(world, await world.new_sandbox(memory_mb=65536))
    async with world.host():
        await world.cp.db.execute("UPDATE hosts SET memory_mb = 65536 WHERE id = $1", host.host_id)
        await world.new_sandbox(template=made["id"])
        full = await world.api.post("/v1/sandboxes", {"template": made["id"]})
        assert (full.status_code, full.json()["error"]["code"]) == (503, "no_hosts_available")
        assert made["id"] in full.json()["error"]["message"]
        await world.user.delete(f"/v1/hosts/{host.host_id}?force=true")
        gone = await world.api.post("/v1/sandboxes", {"template": made["id"]})
        assert gone.status_code == 503
        assert "retryable" not in gone.json()["error"]
        assert (await world.api.delete(f"/v1/snapshots/{made['id']}")).status_code == 204
        assert await rows(world) == []


async def test_another_teams_snapshots_are_not_there(world: World, host: SimulatedAgent) -> None:
    sandbox = await world.new_sandbox()
    made = await snapshot(world, sandbox, name="mine")
    other = await bootstrap.bootstrap(world.cp.db, "other@example.com", "another password")
    stranger = world.api.with_key(other.api_key)
    assert (await stranger.get("/v1/snapshots")).json() == []
    assert (await stranger.post(f"/v1/sandboxes/{sandbox['id']}/snapshots", {})).status_code == 404
    assert (await stranger.delete(f"/v1/snapshots/{made['id']}")).status_code == 404
    for text in (made["id"], "mine", f"{world.admin.team_id}/mine"):
        assert (await stranger.post("/v1/sandboxes", {"template": text})).status_code == 404


# Tags


async def test_tags(world: World, host: SimulatedAgent) -> None:
    team, source = world.admin.team_id, await world.new_sandbox()
    one = await snapshot(world, source, name="mine:one")
    two = await snapshot(world, source, name="mine:two")
    tagged = await templates.assign_tags(world.cp, team, "mine:one", ["x", "mine:y", f"{team}/mine:Z", "x"])
    assert (tagged.tags, tagged.snapshot_id) == (["x", "y", "z"], one["id"])
    await templates.assign_tags(world.cp, team, "mine:two", ["x"])
    found = {tag.tag: tag.snapshot_id for tag in await templates.tags(world.cp, team, "mine")}
    assert found == {"one": one["id"], "two": two["id"], "x": two["id"], "y": one["id"], "z": one["id"]}
    await templates.remove_tags(world.cp, team, "mine", ["x", "nothing"])
    assert "x" not in {tag.tag for tag in await templates.tags(world.cp, team, "mine")}
    await world.api.delete(f"/v1/snapshots/{one['id']}")
    assert [tag.tag for tag in await templates.tags(world.cp, team, "mine")] == ["two"]


@pytest.mark.parametrize(
    ("target", "tags"),
    [(":x", ["a"]), ("mine:", ["a"]), ("mine", []), ("mine", ["mine:"]), ("mine", [":a"]), ("mine", ["other:a"]),
     ("mine", ["a b"]), ("mine", ["0b7c3a9e-0000-4000-8000-000000000000"]), ("mine:none", ["a"]), ("none", ["a"]),
     ("base", ["a"]), ("mine", ["t"] * 101)],
)  # fmt: skip
async def test_tags_that_cannot_be(world: World, host: SimulatedAgent, target: str, tags: list[str]) -> None:
    await snapshot(world, await world.new_sandbox(), name="mine")
    with pytest.raises(WrennError) as refused:
        await templates.assign_tags(world.cp, world.admin.team_id, target, tags)
    assert 400 <= refused.value.status < 500
    assert [t.tag for t in await templates.tags(world.cp, world.admin.team_id, "mine")] == ["default"]


async def test_the_default_tag_stays(world: World, host: SimulatedAgent) -> None:
    await snapshot(world, await world.new_sandbox(), name="mine")
    with pytest.raises(InvalidRequest):
        await templates.remove_tags(world.cp, world.admin.team_id, "mine", ["default"])
    with pytest.raises(NotFound):
        await templates.remove_tags(world.cp, world.admin.team_id, "none", ["a"])


# Crashes


async def age(db: Database) -> None:
    await db.execute("UPDATE snapshots SET check_after = now() WHERE check_after IS NOT NULL")


@pytest.mark.parametrize("when", ["before", "after"])
async def test_killed_in_the_middle_of_a_snapshot(
    database_url: str, tmp_path: Path, port: int, when: str
) -> None:
    async with arranged(database_url, tmp_path, port) as (process, api, agent, db):
        sandbox = (await api.post("/v1/sandboxes", {})).json()
        gate = Gate(Command.SNAPSHOT)
        setattr(agent.host, when, gate)

        async def cut() -> None:
            with pytest.raises(httpx2.TransportError):
                await api.post(f"/v1/sandboxes/{sandbox['id']}/snapshots", {"name": "mine"})

        call = asyncio.create_task(cut())
        await gate.reached.wait()
        process.kill()
        await process.wait()
        await call
        await age(db)
        async with program(database_url, tmp_path, port):

            async def undone() -> bool:
                return await db.fetchval("SELECT count(*) FROM snapshots") == 0

            await eventually(undone)
            gate.open.set()
            assert (await api.get("/v1/snapshots")).json() == []
            assert (await api.get(f"/v1/sandboxes/{sandbox['id']}")).json()["status"] == "running"
            assert (await api.post("/v1/sandboxes", {"template": "mine"})).status_code == 404
            assert agent.host.snapshots == {}, "the deletion wins over what was still waiting"


async def test_a_lost_lease_gives_the_snapshot_up(world: World, host: SimulatedAgent) -> None:
    """As if this control plane had hung for longer than its lease, and another one had looked."""
    sandbox = await world.new_sandbox()
    host.host.after = gate = Gate(Command.SNAPSHOT)
    call = asyncio.create_task(world.api.post(f"/v1/sandboxes/{sandbox['id']}/snapshots", {"name": "mine"}))
    await gate.reached.wait()
    await world.cp.db.execute("DELETE FROM snapshots")
    gate.open.set()
    assert (await call).status_code == 503
    assert "mine" not in [t["name"] for t in (await world.api.get("/v1/templates")).json()]
