"""The state machine as a whole: random histories of two control planes over one database and two simulated hosts with one
object store. Operations race, hosts refuse, lose answers, fall silent and come back, leases run out.

`WRENN_TEST_HISTORIES` is how many are tried; a failure prints the steps that led to it.
"""

import asyncio
import dataclasses
import os
import random
from collections import defaultdict
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack
from typing import Any, TypeVar

import httpx2
import pytest
from hypothesis import HealthCheck, Phase, note, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from msgspec.structs import replace

from support.programs import age_leases, age_moves
from support.simulated import World, control_plane, eventually
from wrenn_server.controlplane.reconcile import drains, hosts, sandboxes, snapshots
from wrenn_server.db import pools
from wrenn_server.hostagent.sandbox.lifecycle import Command
from wrenn_server.hostagent.simulated import SPECS, SimulatedAgent
from wrenn_server.hostagent.simulated_held import Held, SimulatedStore
from wrenn_server.hostagent.simulated_host import SimulatedHost
from wrenn_server.model.errors import Internal, Unavailable
from wrenn_server.model.pool import Capacity
from wrenn_server.model.sandbox import Reason, State, may
from wrenn_server.wire import agent as wire

HISTORIES = int(os.environ.get("WRENN_TEST_HISTORIES", "25"))
STEPS = 12
SHARED = replace(SPECS, machine="simulated", store="store")
POOL = {"vcpus": 6, "memory_mb": 6 * 512, "disk_mb": 12 * 5120}

T = TypeVar("T")
Ask = Callable[[World], Awaitable[httpx2.Response]]


class Stage:
    """Two control planes and two hosts, which outlive the histories, and the sandboxes of the present one."""

    def __init__(self, planes: list[World], agents: list[SimulatedAgent], objects: SimulatedStore) -> None:
        self.planes, self.agents, self.objects = planes, agents, objects
        self.db = planes[0].cp.db
        self.ids: list[str] = []
        self.work: dict[str, int] = {}
        """The newest that was written in each sandbox: nothing but a restore may lose it."""
        self.trouble: dict[str, float] = {}
        """How likely a command of a host is refused before, or its answer lost after, it is carried out."""
        self.random = random.Random(0)
        self.told: list[str] = []
        for agent in agents:
            agent.host.before, agent.host.after = self._before, self._after

    async def _before(self, command: Command, sandbox_id: str) -> None:
        await self._dawdle()
        if self.random.random() < self.trouble.get("refused", 0):
            raise Unavailable(f"the host has no mind to {command}")

    async def _after(self, command: Command, sandbox_id: str) -> None:
        await self._dawdle()
        if self.random.random() < self.trouble.get("unanswered", 0):
            raise Internal(f"the host has forgotten what became of {command}")

    async def _dawdle(self) -> None:
        """So that what races comes in many orders."""
        for _ in range(self.random.choice((0, 0, 1, 5, 20))):
            await asyncio.sleep(0)

    async def create(self, plane: World, on_timeout: str) -> None:
        answer = await plane.api.post("/v1/sandboxes", {"timeout_sec": 600, "on_timeout": on_timeout})
        self.judge(answer)
        if answer.status_code == 201:
            self.ids.append(answer.json()["id"])

    async def ask(self, plane: World, id: str, verb: str, body: Any = None) -> None:
        if verb == "restore":
            self.work.pop(id, None)
        answer = await plane.api.post(f"/v1/sandboxes/{id}/{verb}", body)
        self.judge(answer)
        if verb == "fork" and answer.status_code < 300:
            self.ids += [one["sandbox"]["id"] for one in answer.json() if "sandbox" in one]

    async def kill(self, plane: World, id: str) -> None:
        answer = await plane.api.delete(f"/v1/sandboxes/{id}")
        assert answer.status_code in (204, 404), answer.text
        state = await self.db.fetchval("SELECT state FROM sandboxes WHERE id = $1", id)
        assert state in ("killing", "killed"), f"deleted, and {state}"

    async def roll_back(self, plane: World, id: str) -> None:
        if found := await self.snapshots(plane, f"?sandbox_id={id}"):
            await self.ask(plane, id, "rollback", {"snapshot": found[0]})

    async def drop_snapshot(self, plane: World, id: str) -> None:
        for found in await self.snapshots(plane, f"?sandbox_id={id}"):
            self.judge(await plane.api.delete(f"/v1/snapshots/{found}"))

    async def snapshots(self, plane: World, query: str = "") -> list[str]:
        answer = await plane.api.get(f"/v1/snapshots{query}")
        assert answer.status_code == 200, answer.text
        return [row["id"] for row in answer.json()]

    async def write(self, plane: World, id: str) -> None:
        """Something happens in it."""
        row = await self.db.fetchrow("SELECT host_id, state FROM sandboxes WHERE id = $1", id)
        held = self.held(id).get(row["host_id"]) if row else None
        if row and row["state"] == "running" and held and held.report.state is State.RUNNING:
            self.work[id] = int(held.envs.get("work", 0)) + 1
            held.envs = {**held.envs, "work": str(self.work[id])}

    async def ends(self, plane: World, id: str) -> None:
        """Its time is over, by its host's clock."""
        for agent in self.agents:
            if id in agent.host.held and agent.host.held[id].report.state is State.RUNNING:
                agent.host.expires(id)

    async def crash(self, plane: World, id: str) -> None:
        """Its VM dies."""
        for agent in self.agents:
            if id in agent.host.held and agent.host.held[id].report.state is State.RUNNING:
                agent.host.ends(id, Reason.VMM_CRASHED)

    async def store(self, plane: World, id: str) -> None:
        for agent in self.agents:
            held = agent.host.held.get(id)
            if held is not None and held.report.saved_generation is not None:
                await agent.host.store(id, wire.Store(generation=held.report.saved_generation))

    async def lose(self, plane: World, number: int) -> None:
        """A host falls silent."""
        await self.db.execute(
            "UPDATE hosts SET last_heartbeat_at = now() - interval '1 hour' WHERE id = $1",
            self.agents[number % 2].host_id,
        )
        await hosts.converge(plane.cp)

    async def beat(self, plane: World, number: int) -> None:
        await self.agents[number % 2].beat()

    async def reconcile(self, plane: World) -> None:
        """All leases run out, whoever is still at it."""
        await age_leases(self.db)
        await age_moves(self.db)
        for once in (sandboxes.converge, snapshots.converge, drains.converge):
            await once(plane.cp)

    def judge(self, answer: httpx2.Response) -> None:
        """Refusals are legal, surprises are not."""
        self.told.append(f"  # {answer.request.method} {answer.request.url.path}: {answer.status_code}")
        if answer.status_code >= 500 and answer.status_code != 503:
            assert self.trouble, answer.text
            assert answer.json()["error"]["code"] == "agent_error", answer.text

    def held(self, id: str) -> dict[str, Held]:
        """By host."""
        return {agent.host_id: agent.host.held[id] for agent in self.agents if id in agent.host.held}

    async def rest(self) -> None:
        """Everybody is back and nothing is in the way: what was left half done comes to an end."""
        self.trouble = {}
        await eventually(self._at_rest)
        rows = await self.db.fetch("SELECT * FROM sandboxes WHERE id IN (SELECT id FROM history)")
        for row in rows:
            held = self.held(row["id"])
            if row["state"] in ("failed", "killed"):
                assert not held, f"{row['id']} is {row['state']}, and held"
                continue
            running = [id for id, one in held.items() if one.report.state is State.RUNNING]
            assert running == ([row["host_id"]] if row["state"] == "running" else []), row["id"]
            kept = held.get(row["host_id"]) or self.objects.sandboxes.get(
                (row["id"], row["saved_generation"])
            )
            assert kept is not None, f"nobody has {row['id']}"
            if row["id"] in self.work:
                assert int(kept.envs["work"]) == self.work[row["id"]], f"{row['id']} lost what it did"

    async def _at_rest(self) -> bool:
        for agent in self.agents:
            await agent.beat()
        await self.reconcile(self.planes[0])
        left = await self.db.fetchval(
            """SELECT count(*) FROM sandboxes
                WHERE state NOT IN ('running', 'paused', 'failed', 'killed') OR check_after IS NOT NULL
                   OR state = 'paused' AND reason IN ('drain', 'rollback')"""
        )
        making = await self.db.fetchval("SELECT count(*) FROM snapshots WHERE state <> 'ready'")
        alive = {
            r["id"]: r
            for r in await self.db.fetch("SELECT * FROM sandboxes WHERE state NOT IN ('failed', 'killed')")
        }
        for agent in self.agents:
            for id, held in agent.host.held.items():
                row = alive.get(id)
                if row is None or (row["state"] != held.report.state and row["host_id"] == agent.host_id):
                    return False
                if row["host_id"] != agent.host_id and held.report.state is State.RUNNING:
                    return False
        return not left and not making

    async def accounts(self) -> None:
        """What is promised of hosts and pool is what the sandboxes take."""
        assert not await self.db.fetch(
            """SELECT h.id FROM hosts h LEFT JOIN LATERAL (
                   SELECT coalesce(sum(t.cpus), 0) AS cpus, coalesce(sum(t.memory), 0) AS memory,
                          coalesce(sum(t.disk), 0) AS disk, coalesce(sum(t.count), 0) AS count
                     FROM sandboxes s, sandbox_takes(s.state, s.vcpus, s.memory_mb, s.disk_mb) t
                    WHERE s.host_id = h.id) taken ON true
                WHERE (h.cpus_reserved, h.memory_mb_reserved, h.disk_mb_reserved, h.sandboxes)
                      IS DISTINCT FROM (taken.cpus, taken.memory, taken.disk, taken.count)"""
        )
        assert await self.drawn() == await pools.drawn(self.db, self.planes[0].admin.team_id)

    async def drawn(self) -> Capacity:
        pool = await pools.get(self.db, self.planes[0].admin.team_id)
        assert pool is not None
        return pool.drawn

    async def history(self) -> None:
        """Every change was legal, and no generation was ever given back."""
        seen: dict[str, int] = defaultdict(int)
        for row in await self.db.fetch("SELECT * FROM history ORDER BY position"):
            assert row["generation"] >= seen[row["id"]], (
                f"{row['id']} went back to generation {row['generation']}"
            )
            seen[row["id"]] = row["generation"]
            if row["before"] is not None and row["before"] != row["after"]:
                assert may(State(row["before"]), State(row["after"])), (
                    f"{row['id']}: {row['before']} to {row['after']}"
                )

    async def clear(self) -> None:
        """Everything can be deleted, and then nothing is left."""
        await self.rest()
        await self.accounts()
        # Also those whose making was answered with an error, and that run all the same
        for (id,) in await self.db.fetch("SELECT id FROM sandboxes WHERE state NOT IN ('failed', 'killed')"):
            await self.kill(self.planes[0], id)
        for id in await self.snapshots(self.planes[0]):
            answer = await self.planes[0].api.delete(f"/v1/snapshots/{id}")
            assert answer.status_code == 204, answer.text
        await self.rest()
        await self.accounts()
        await self.history()
        assert await self.drawn() == Capacity()
        assert not any(agent.host.held for agent in self.agents)
        await eventually(self._no_snapshots)
        await self.db.execute("TRUNCATE history")
        self.ids, self.work = [], {}

    async def _no_snapshots(self) -> bool:
        return not any(agent.host.snapshots for agent in self.agents)


HISTORY = """
CREATE TABLE history (position bigserial, id text, before text, after text, generation int);
CREATE FUNCTION history_note() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO history (id, before, after, generation)
    VALUES (NEW.id, CASE TG_OP WHEN 'UPDATE' THEN OLD.state END, NEW.state, NEW.generation);
    RETURN NULL;
END $$;
CREATE TRIGGER history AFTER INSERT OR UPDATE OF state, generation ON sandboxes FOR EACH ROW EXECUTE FUNCTION history_note();
"""

OF_A_SANDBOX: dict[str, Callable[[Stage, World, str], Coroutine[Any, Any, None]]] = {
    "pause": lambda stage, plane, id: stage.ask(plane, id, "pause"),
    "resume": lambda stage, plane, id: stage.ask(plane, id, "resume"),
    "restore": lambda stage, plane, id: stage.ask(plane, id, "restore"),
    "fork": lambda stage, plane, id: stage.ask(plane, id, "fork", {"count": 2}),
    "snapshot": lambda stage, plane, id: stage.ask(plane, id, "snapshots", {}),
    "timeout": lambda stage, plane, id: stage.ask(plane, id, "timeout", {"timeout_sec": 900}),
    "rollback": Stage.roll_back,
    "delete its snapshots": Stage.drop_snapshot,
    "kill": Stage.kill,
    "write": Stage.write,
    "its time is over": Stage.ends,
    "its VM dies": Stage.crash,
    "store": Stage.store,
}
OF_A_HOST: dict[str, Callable[[Stage, World, int], Coroutine[Any, Any, None]]] = {
    "silence": Stage.lose,
    "heartbeat": Stage.beat,
}
NUMBERS = st.integers(0, 3)
ACTS = st.tuples(
    st.sampled_from([*OF_A_SANDBOX, *OF_A_HOST, "leases run out", "create", "create that pauses"]),
    NUMBERS,
    st.integers(0, 1),
)
Act = tuple[str, int, int]


def histories(stage: Stage, loop: asyncio.AbstractEventLoop) -> type[RuleBasedStateMachine]:
    """Runs in a thread of its own; all else happens in the loop."""

    def wait(work: Coroutine[Any, Any, T]) -> T:
        try:
            return asyncio.run_coroutine_threadsafe(work, loop).result(60)
        finally:
            for line in stage.told:
                note(line)
            stage.told.clear()

    async def act(what: str, number: int, at: int) -> None:
        plane = stage.planes[at]
        if what in OF_A_HOST:
            await OF_A_HOST[what](stage, plane, number)
        elif what == "leases run out":
            await stage.reconcile(plane)
        elif what in OF_A_SANDBOX and stage.ids:
            await OF_A_SANDBOX[what](stage, plane, stage.ids[number % len(stage.ids)])
        else:
            await stage.create(plane, "pause" if what == "create that pauses" else "kill")

    async def all_at_once(acts: list[Act]) -> None:
        async with asyncio.TaskGroup() as group:
            for one in acts:
                group.create_task(act(*one))

    class Histories(RuleBasedStateMachine):
        @rule(one=ACTS)
        def alone(self, one: Act) -> None:
            wait(act(*one))

        @rule(acts=st.lists(ACTS, min_size=2, max_size=5), seed=st.integers(0, 1000))
        def at_once(self, acts: list[Act], seed: int) -> None:
            stage.random.seed(seed)
            wait(all_at_once(acts))

        @rule(what=st.sampled_from(("refused", "unanswered")), share=st.sampled_from((0.0, 0.3, 1.0)))
        def trouble(self, what: str, share: float) -> None:
            stage.trouble[what] = share

        @rule()
        def rest(self) -> None:
            wait(stage.rest())

        @invariant()
        def accounts(self) -> None:
            wait(stage.accounts())

        def teardown(self) -> None:
            wait(stage.clear())

    return Histories


@pytest.mark.timeout(120 + 5 * HISTORIES)
async def test_every_history_ends_well(world: World, database_url: str) -> None:
    objects = SimulatedStore()
    assert (await world.user.put("/v1/pool", POOL)).status_code == 200
    await world.cp.db.execute(HISTORY)
    async with AsyncExitStack() as stack:
        other = await stack.enter_async_context(control_plane(database_url))
        first = dataclasses.replace(
            world, api=world.api.with_key(other.admin.api_key)
        )  # whose key is the newer one
        agents = [
            await stack.enter_async_context(world.host(host=SimulatedHost(store=objects), specs=SHARED))
            for _ in range(2)
        ]
        machine = histories(Stage([first, other], agents, objects), asyncio.get_running_loop())
        await asyncio.to_thread(
            run_state_machine_as_test,
            machine,
            settings=settings(
                max_examples=HISTORIES,
                stateful_step_count=STEPS,
                deadline=None,
                phases=[Phase.generate],  # races do not shrink
                suppress_health_check=[HealthCheck.too_slow],
                database=None,
                # The same histories in every run of all tests; whoever asks for a number of them gets new ones.
                derandomize="WRENN_TEST_HISTORIES" not in os.environ,
            ),
        )
