"""A create that comes again with its key is carried out once: at once, on two control planes, and after a crash."""

import asyncio
from pathlib import Path
from typing import Any

import httpx2
import pytest
from controlplane.test_crash import age_leases, arranged, port, program

from support.api import Client
from support.simulated import Gate, World, control_plane, eventually
from wrenn_server.controlplane import bootstrap
from wrenn_server.controlplane.services import idempotency
from wrenn_server.controlplane.services.idempotency import Claim, Effect, Work
from wrenn_server.db.pool import Database
from wrenn_server.hostagent.sandbox.lifecycle import Command
from wrenn_server.hostagent.simulated import SimulatedAgent
from wrenn_server.model.errors import Internal

__all__ = ["port"]

KEY = {"Idempotency-Key": "one-2_3"}


async def create(api: Client, body: Any = None, key: str = KEY["Idempotency-Key"]) -> httpx2.Response:
    return await api.post("/v1/sandboxes", body or {}, headers={"Idempotency-Key": key})


async def silence(db: Database) -> None:
    """As if the owners of all keys had not been heard of for 15 s."""
    await db.execute("UPDATE idempotency_keys SET seen_at = now() - interval '16 s'")


async def test_the_same_answer_again(world: World, host: SimulatedAgent) -> None:
    first = await create(world.api)
    again = await create(world.api)
    assert first.status_code == again.status_code == 201
    assert first.json() == again.json()
    await world.api.delete(f"/v1/sandboxes/{first.json()['id']}")
    assert (await create(world.api)).json() == first.json(), "also when it has ended since"
    assert (await create(world.api, key="other")).json()["id"] != first.json()["id"]
    assert len(host.host.held) == 1


async def test_another_request_with_the_key_is_refused(world: World, host: SimulatedAgent) -> None:
    await create(world.api)
    for body in ({"vcpus": 2}, {"metadata": {"a": "b"}}):
        refused = await create(world.api, body)
        assert (refused.status_code, refused.json()["error"]["code"]) == (409, "idempotency_key_reused")
    assert len(host.host.held) == 1


async def test_another_teams_key_is_another(world: World, host: SimulatedAgent) -> None:
    other = await bootstrap.bootstrap(world.cp.db, "other@example.com", "another password")
    first = await create(world.api)
    second = await create(world.api.with_key(other.api_key))
    assert first.json()["id"] != second.json()["id"]


@pytest.mark.parametrize("key", ["", "a b", "x" * 256, "a/b", "a,b"])
async def test_what_is_no_key(world: World, host: SimulatedAgent, key: str) -> None:
    answer = await world.api.request("POST", "/v1/sandboxes", json={}, headers={"Idempotency-Key": key})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_idempotency_key")
    assert host.host.held == {}


async def test_at_once_and_on_two_control_planes(
    world: World, host: SimulatedAgent, database_url: str
) -> None:
    host.host.before = gate = Gate(Command.START)
    async with control_plane(database_url) as other:
        api = Client(other.api._http).with_key(other.admin.api_key)
        calls = [asyncio.create_task(create(client)) for client in (other.api, api, other.api)]
        await gate.reached.wait()
        calls.append(asyncio.create_task(create(world.api.with_key(other.admin.api_key))))
        gate.open.set()
        answers = [await call for call in calls]
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert len(host.host.held) == 1


async def test_a_failure_is_not_kept(world: World, host: SimulatedAgent) -> None:
    async def fails(command: Command, _: str) -> None:
        raise Internal("no")

    host.host.before, before = fails, host.host.before
    assert (await create(world.api)).status_code == 500
    host.host.before = before
    made = await create(world.api)
    assert made.status_code == 201
    assert (await create(world.api)).json() == made.json()
    assert (await create(world.api, {"template": "none"}, "k")).status_code == 404
    assert (await create(world.api, {}, "k")).status_code == 201, "a key that came to nothing is free again"


async def test_keys_are_forgotten_after_a_day(world: World, host: SimulatedAgent) -> None:
    first = await create(world.api)
    await world.cp.db.execute("UPDATE idempotency_keys SET created_at = now() - interval '25 hours'")
    second = await create(world.api, {"vcpus": 2})
    assert (second.status_code, second.json()["id"] != first.json()["id"]) == (201, True)
    await world.cp.db.execute("UPDATE idempotency_keys SET created_at = now() - interval '25 hours'")
    await idempotency.expire(world.cp)
    assert await world.cp.db.fetchval("SELECT count(*) FROM idempotency_keys") == 0


async def test_a_client_that_goes_away_and_comes_again(world: World, host: SimulatedAgent) -> None:
    host.host.before = gate = Gate(Command.START)
    first = asyncio.create_task(create(world.api))
    await gate.reached.wait()
    first.cancel()
    again = asyncio.create_task(create(world.api))
    gate.open.set()
    assert (await again).status_code == 201
    assert list(host.host.held) == [(await again).json()["id"]]


# Whoever carried it out has died


@pytest.mark.parametrize("when", ["before", "after"])
async def test_killed_in_the_middle_of_a_create(
    database_url: str, tmp_path: Path, port: int, when: str
) -> None:
    async with arranged(database_url, tmp_path, port) as (process, api, agent, db):
        gate = Gate(Command.START)
        setattr(agent.host, when, gate)

        async def cut() -> None:
            with pytest.raises(httpx2.TransportError):
                await create(api)

        call = asyncio.create_task(cut())
        await gate.reached.wait()
        process.kill()
        await process.wait()
        await call
        await age_leases(db)
        await silence(db)
        async with program(database_url, tmp_path, port):
            again = asyncio.create_task(create(api))
            gate.open.set()
            answer = await again
            assert answer.status_code == 201
            assert list(agent.host.held) == [answer.json()["id"]]
            assert (await create(api)).json()["id"] == answer.json()["id"]


async def test_a_start_that_never_arrived_is_carried_out_anew(world: World, host: SimulatedAgent) -> None:
    """The row is there, and then its owner died before the host heard of it."""
    made = await create(world.api)
    dead = made.json()["id"]
    await world.cp.db.execute("UPDATE idempotency_keys SET answer = NULL")
    await world.cp.db.execute("UPDATE sandboxes SET state = 'failed', started_at = NULL WHERE id = $1", dead)
    waiting = asyncio.create_task(create(world.api))
    await asyncio.sleep(0.5)
    assert not waiting.done(), "its owner may be trying another host"
    await silence(world.cp.db)
    assert (await waiting).json()["id"] != dead
    assert (await create(world.api)).json() == (await waiting).json()


async def test_one_who_was_replaced_makes_nothing(world: World) -> None:
    """It hung before it had written anything, for so long that another one took over."""
    asked = idempotency.request(world.admin.team_id, "k", "POST /x", b"")
    assert asked is not None
    hangs, go_on = asyncio.Event(), asyncio.Event()
    carried_out: list[str] = []

    def work(name: str, wait: bool) -> Work[str]:
        async def carry_out(claim: Claim | None) -> str:
            assert claim is not None
            if wait and not carried_out:
                hangs.set()
                await go_on.wait()
            async with world.cp.db.transaction() as tx:
                await claim.bind(tx, name)
                carried_out.append(name)
            return name

        async def recover(_: str) -> str | Effect:
            return Effect.PENDING

        return Work(str, carry_out, recover)

    slow = asyncio.create_task(idempotency.once(world.cp, asked, work("slow", True)))
    await hangs.wait()
    await silence(world.cp.db)
    assert await idempotency.once(world.cp, asked, work("quick", False)) == "quick"
    go_on.set()
    assert await slow == "quick"
    assert carried_out == ["quick"]


async def test_an_owner_whose_database_went_away_is_waited_for(world: World, host: SimulatedAgent) -> None:
    """The sandbox was made, only the answer could not be kept."""
    made = (await create(world.api)).json()
    await world.cp.db.execute("UPDATE idempotency_keys SET answer = NULL")
    assert (await create(world.api)).json()["id"] == made["id"]
    assert await world.cp.db.fetchval("SELECT count(*) FROM idempotency_keys WHERE answer IS NOT NULL") == 1

    async def one() -> bool:
        return len(host.host.held) == 1

    await eventually(one)
