"""What fails or comes again under a host agent that lives, with real virtual machines."""

import random
from collections.abc import Generator
from pathlib import Path

import pytest
from faults.agent_matrix import DISK, FROM_THE_START, LATE, MESSAGES, VMM
from faults.agent_operations import OPERATIONS, Operation, Scene, arrange, stand_still, token
from faults.full_disk import Cramped, cramped
from faults.installation import Installation, inventory, is_left, snapshot_is, state, verified
from faults.matrix import ROUNDS, Row, runs
from faults.results import Results

from wrenn_server.linux.cgroup import Cgroups

pytestmark = [pytest.mark.vm, pytest.mark.timeout(180)]

TABLES = {"VMM": VMM, "messages": MESSAGES, "full disk": DISK}


@pytest.fixture(scope="module")
def results() -> Generator[dict[str, Results]]:
    results = {name: Results(name) for name in TABLES}
    yield results
    if ROUNDS:
        for name, matrix in TABLES.items():
            results[name].write(matrix)


@pytest.mark.parametrize(
    ("row", "number"), [pytest.param(row, n, id=f"{row.name}-{n}") for row, n in runs(VMM)]
)
async def test_what_it_is_when_its_vmm_has_died(
    installation: Installation, results: dict[str, Results], row: Row, number: int
) -> None:
    agent, operation, scene = installation.agent, OPERATIONS[row.operation], Scene(installation.agent)

    def kill() -> None:
        Cgroups.detect().open(f"wrenn-{agent.paths.tag}/{scene.id}").kill()

    with results["VMM"].of(row):
        before = inventory(agent)
        await stand_still(scene, operation, row.point, kill)
        await installation.bystanders()
        if operation.subject == "other":
            await state(agent, scene.id, "failed")
            await state(agent, scene.other, row.expected)
        else:
            await verified(scene, row.expected)
        await installation.clear()
        await is_left(agent, before)


@pytest.mark.parametrize(
    ("row", "number"), [pytest.param(row, n, id=f"{row.name}-{n}") for row, n in runs(MESSAGES)]
)
async def test_what_comes_again_changes_nothing(
    installation: Installation, results: dict[str, Results], row: Row, number: int
) -> None:
    agent, operation, scene = installation.agent, OPERATIONS[row.operation], Scene(installation.agent)
    with results["messages"].of(row):
        if agent.process is None:
            await agent.start()
        before = inventory(agent)
        await operation.prepare(scene)
        await undone(scene, operation, row) if row.point == LATE else await twice(scene, operation)
        await installation.bystanders()
        if operation.subject == "snapshot":
            assert agent.paths.named_snapshot(scene.snapshot).exists() == (row.expected == "ready")
        elif operation.subject == "other":
            await verified(scene, "running")
            await state(agent, scene.other, row.expected)
        else:
            await verified(scene, row.expected)
        await installation.clear()
        await is_left(agent, before)


async def twice(scene: Scene, operation: Operation) -> None:
    assert operation.act is not None
    await operation.act(scene)
    status, answer = await scene.agent.call(*scene.said)
    assert status < 300, answer


async def undone(scene: Scene, operation: Operation, row: Row) -> None:
    """The call comes again from the past."""
    agent = scene.agent
    assert operation.act is not None
    await operation.act(scene)
    said = scene.said
    match row.operation:
        case "create":
            await agent.ok("DELETE", f"{scene.path}?generation=1")
        case "pause":
            await agent.ok("POST", f"{scene.path}/resume", {"generation": 2, "access_token": token(2)})
        case "resume":
            await agent.ok("POST", f"{scene.path}/pause", {"generation": 2})
        case "fork":
            await agent.ok("DELETE", f"/v1/sandboxes/{scene.other}?generation=1")
        case _:
            await agent.ok("DELETE", f"/v1/snapshots/{scene.snapshot}")
    status, answer = await agent.call(*said)
    if row.operation == "resume":
        assert answer["state"] == "paused", "that generation has been resumed once, and will not be again"
    elif row.operation == "fork":
        assert answer["results"][0]["error_code"]
    else:
        assert status in (404, 409), answer


async def test_one_flipped_bit_is_refused(installation: Installation) -> None:
    """In any of the files of a snapshot: memory, device state, disk, manifests. Put right, it resumes."""
    agent, scene = installation.agent, Scene(installation.agent)
    await scene.rests()
    directory = agent.paths.snapshot(scene.id, 1)
    for path in sorted(path for path in directory.rglob("*") if path.is_file()):
        position, bit = random.randrange(path.stat().st_size), 1 << random.randrange(8)
        flip(path, position, bit)
        status, answer = await agent.call(
            "POST", f"{scene.path}/resume", {"generation": 2, "access_token": token(2)}
        )
        flip(path, position, bit)
        assert status == 500, (path, position, answer)
        assert answer["error"]["code"] == "snapshot_damaged", (path, position, answer)
        assert path.name in answer["error"]["message"] or path.name == "manifest.json"
        assert (await agent.ok("GET", scene.path))["state"] == "paused"
    await verified(scene, "paused")
    await installation.clear()


def flip(path: Path, position: int, bit: int) -> None:
    with path.open("r+b") as file:
        file.seek(position)
        [byte] = file.read(1)
        file.seek(position)
        file.write(bytes([byte ^ bit]))


@pytest.fixture(scope="module")
def small(guest_images: Path, tmp_path_factory: pytest.TempPathFactory) -> Generator[Cramped]:
    with cramped(tmp_path_factory.mktemp("small"), guest_images) as small:
        yield small


@pytest.mark.parametrize(
    ("row", "number"), [pytest.param(row, n, id=f"{row.name}-{n}") for row, n in runs(DISK)]
)
async def test_what_it_is_when_the_disk_was_full(
    small: Cramped, results: dict[str, Results], row: Row, number: int
) -> None:
    installation, disk = small.installation, small.disk
    operation, agent, scene = OPERATIONS[row.operation], installation.agent, Scene(installation.agent)
    with results["full disk"].of(row):
        before = inventory(agent)
        try:
            if row.point == FROM_THE_START:
                await arrange(scene, operation)
                await agent.start()
                disk.fill()
                assert operation.act is not None
                await operation.act(scene)
            else:
                await stand_still(scene, operation, row.point, disk.fill)
        finally:
            disk.free()
        await installation.bystanders()
        match operation.subject:
            case "id":
                await verified(scene, row.expected)
            case "other":
                await verified(scene, "running")
                await state(agent, scene.other, row.expected)
            case _:
                await verified(scene, "running")
                await snapshot_is(scene, row.expected)
        await installation.clear()
        await is_left(agent, before)
