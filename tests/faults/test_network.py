"""The network between control plane and host loses, cuts and repeats what is said over it."""

from collections.abc import Generator

import pytest
from faults import wire
from faults.control_plane_matrix import LATE, NETWORK, TWICE
from faults.control_plane_operations import OPERATIONS, Scene, Step, arranged
from faults.matrix import ROUNDS, Row, runs
from faults.results import Results

from support.programs import age_leases

SANDBOX = rb"/v1/sandboxes/\w+"
CALLS = {
    "create": rb"PUT " + SANDBOX + b" ",
    "pause": rb"POST " + SANDBOX + b"/pause",
    "resume": rb"POST " + SANDBOX + b"/resume",
    "resume elsewhere": rb"POST " + SANDBOX + b"/resume",
    "fork": rb"POST " + SANDBOX + b"/fork",
    "snapshot": rb"POST " + SANDBOX + b"/snapshot",
    "delete of a snapshot": rb"DELETE /v1/snapshots/",
    "kill": rb"DELETE " + SANDBOX,
    "timeout": rb"POST " + SANDBOX + b"/timeout",
    "network": rb"PUT " + SANDBOX + b"/network",
}


async def kill_new(scene: Scene) -> None:
    for id in set(await scene.states()) - scene.before:
        await scene.ok("DELETE", f"/v1/sandboxes/{id}")


async def resume(scene: Scene) -> None:
    await scene.ok("POST", f"{scene.path}/resume")


async def pause(scene: Scene) -> None:
    await scene.ok("POST", f"{scene.path}/pause")


async def delete_snapshots(scene: Scene) -> None:
    for id in await scene.snapshots():
        await scene.ok("DELETE", f"/v1/snapshots/{id}")


UNDO: dict[str, Step] = {
    "create": kill_new,
    "pause": resume,
    "resume": pause,
    "fork": kill_new,
    "snapshot": delete_snapshots,
}


@pytest.fixture(scope="module")
def results() -> Generator[Results]:
    results = Results("network")
    yield results
    if ROUNDS:
        results.write(NETWORK)


@pytest.mark.parametrize(
    ("row", "number"), [pytest.param(row, n, id=f"{row.name}-{n}") for row, n in runs(NETWORK)]
)
async def test_what_becomes_of_it(
    database_url: str, port: int, results: Results, row: Row, number: int
) -> None:
    with results.of(row):
        async with arranged(OPERATIONS[row.operation], database_url, port) as stage, stage.serving():
            scene = stage.scene
            agent = scene.agents[-1]
            async with wire.to(agent.address) as line:
                agent.address = line.near
                await agent.beat()
                repeated = row.point in (TWICE, LATE)
                line.watch(CALLS[row.operation], "" if repeated else row.point)
                await stage.act()
                if row.point in (wire.LOST, wire.UNANSWERED) or repeated:
                    assert scene.acknowledged
                if row.point == LATE:
                    await UNDO[row.operation](scene)
                    scene.acknowledged = False
                if repeated:
                    status = await line.say_again()
                    assert status < 300 if row.point == TWICE else status < 500, status
                line.mend()
                await age_leases(scene.db)
                await stage.check(row.expected)
                assert line.said
