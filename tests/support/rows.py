"""Rows for tests of the database alone."""

from collections.abc import Sequence

from wrenn_server.db import hosts, sandboxes, teams
from wrenn_server.db.pool import Database
from wrenn_server.db.sandboxes import New, Room, SandboxRow
from wrenn_server.model.ids import new_host_id, new_sandbox_id, new_team_id
from wrenn_server.wire.agent import HostSpecs, Network

ROOM = Room(cpus=1.0, memory=1.0, disk=1.0)


async def new_team(db: Database) -> str:
    team_id = new_team_id()
    await teams.insert(db, id=team_id, name="team", slug=team_id)
    return team_id


async def new_host(
    db: Database,
    *,
    cpus: int = 8,
    memory_mb: int = 65536,
    disk_mb: int = 1_000_000,
    team_id: str | None = None,
    tags: Sequence[str] = (),
    availability_zone: str | None = None,
) -> str:
    host = await hosts.insert(
        db, id=new_host_id(), team_id=team_id, tags=tags, availability_zone=availability_zone
    )
    specs = HostSpecs(
        arch="x86_64", cpus=cpus, memory_mb=memory_mb, disk_mb=disk_mb, vmm="qemu", vmm_version="7", accelerated=False,
        version="1",
    )  # fmt: skip
    await hosts.heartbeat(
        db, host.id, started_at=1.0, sequence=1, installation="a", address="127.0.0.1:1", specs=specs,
        templates=["minimal"],
    )  # fmt: skip
    return host.id


def wanted(team_id: str, **changes: object) -> New:
    values: dict[str, object] = {
        "id": new_sandbox_id(), "team_id": team_id, "template_id": "tpl_x", "template": "minimal", "vcpus": 1,
        "memory_mb": 512, "disk_mb": 5120, "timeout_sec": 0, "on_timeout": "kill", "metadata": {},
        "access_token": "t", "image": "minimal", "snapshot_id": None, "pause_memory": True, "auto_resume": False,
        "network": Network(), "traffic_token": None, "mask_host": None, "activity": [],
    }  # fmt: skip
    return New(**{**values, **changes})  # pyright: ignore[reportArgumentType] - names are those of New


async def inserted(db: Database, team_id: str, host_id: str, **changes: object) -> SandboxRow:
    row = await sandboxes.insert(db, wanted(team_id, **changes), host_id, ROOM)
    assert row is not None
    return row
