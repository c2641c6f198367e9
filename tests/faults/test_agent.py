"""Host agents that die at a point of an operation, with real virtual machines, and those that come after them."""

import json
import os
import time
from collections.abc import Generator

import pytest
from faults.agent_matrix import MATRIX
from faults.agent_operations import FRESH_DISK_MB, NOWHERE, OPERATIONS, Operation, Scene, die, token
from faults.installation import Installation, clear, dropped, inventory, is_left, snapshot_is, state, verified
from faults.matrix import ROUNDS, Row, runs
from faults.results import Results
from hostagent.process import start

pytestmark = [pytest.mark.vm, pytest.mark.timeout(180)]

BACK_WITHIN = 5.0
"""Seconds from the start of the next agent, if it has a processor for itself; held by runs whose results are told."""


@pytest.fixture(scope="module")
def results() -> Generator[Results]:
    results = Results("agent")
    yield results
    if ROUNDS:
        results.write(MATRIX)


@pytest.mark.parametrize(
    ("row", "number"), [pytest.param(row, n, id=f"{row.name}-{n}") for row, n in runs(MATRIX)]
)
async def test_what_the_next_agent_makes_of_it(
    installation: Installation, results: Results, row: Row, number: int
) -> None:
    with results.of(row):
        results.back(row, await dies(installation, row))


async def dies(installation: Installation, row: Row) -> float:
    """Seconds from the start of the next agent until all was as it should be."""
    agent, operation, scene = installation.agent, OPERATIONS[row.operation], Scene(installation.agent)
    before = inventory(agent)
    await die(scene, operation, row.point)
    began = time.monotonic()
    await agent.start()
    await is_back(scene, operation, row.expected)
    back = time.monotonic() - began
    assert not ROUNDS or back <= BACK_WITHIN * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))

    await installation.bystanders()
    for id in scene.acknowledged:
        assert await agent.run(id, token(1), "hostname") == f"{id}\n"
    match operation.subject:
        case "id":
            await verified(scene, row.expected)
        case "other":
            await verified(scene, "running")
            await state(agent, scene.other, row.expected)
            if row.expected == "running":
                assert await agent.run(scene.other, token(1), "cat ~/file") == "precious\n"
        case "snapshot":
            await verified(scene, "running")
            await snapshot_is(scene, row.expected)
        case _:
            pass  # of a create that was not answered, nothing is to be had
    if row.operation == "rewire":  # what the next agent enforces
        journal = json.loads((agent.paths.sandboxes / scene.id / "state.json").read_text())
        assert journal["network"] == NOWHERE
    if row.operation == "fetch" and row.expected == "gone":  # the store has it still
        await agent.ok("POST", f"{scene.path}/fetch", {"generation": 1})
        await verified(scene, "paused")
    if row.operation == "making of a template":  # it can be made, or is there
        await agent.ok("PUT", scene.path, start(token(1), disk_mb=FRESH_DISK_MB))

    await clear(agent, {installation.running.id, installation.paused.id})
    await is_left(agent, before)
    if operation.stores:
        await dropped(scene)
    return back


async def is_back(scene: Scene, operation: Operation, expected: str) -> None:
    """What the operation was about has come to that state, and what it came from runs."""
    match operation.subject:
        case "id":
            await state(scene.agent, scene.id, expected)
        case "other":
            await state(scene.agent, scene.other, expected)
            await state(scene.agent, scene.id, "running")
        case "snapshot":
            await state(scene.agent, scene.id, "running")
        case _ if expected != "running":
            await state(scene.agent, scene.attempted, expected)
        case _:
            pass  # it died beside a create: those that were answered run
