"""`wrenn host`, `wrenn admin`: what they need and what they say."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from support.postgres import database_url, empty_database, postgres
from support.simulated import World, host, world
from wrenn_server.hostagent.simulated import SimulatedAgent
from wrenn_server.up import audit, environment, hosts
from wrenn_server.up.administrator import Refused
from wrenn_server.up.settings import Settings, from_environment

__all__ = ["database_url", "empty_database", "host", "postgres", "world"]


async def said(settings: Settings, action: str, host_id: str | None = None, *, force: bool = False) -> str:
    console = Console(file=io.StringIO(), width=200)
    await hosts.act(settings, console, action, host_id, wait=True, force=force)
    return console.file.getvalue()  # pyright: ignore[reportAttributeAccessIssue] - the StringIO from above


def write_environment(world: World, settings: Settings, url: str | None = None) -> None:
    known = {
        "WRENN_BASE_URL": url or world.url,
        "WRENN_ADMIN_EMAIL": world.admin.admin_email,
        "WRENN_ADMIN_PASSWORD": world.admin.admin_password or "",
    }
    environment.write(settings.env_file, known)


async def test_a_host_is_shown_and_removed(world: World, host: SimulatedAgent, tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path)
    write_environment(world, settings)
    traits = {"tags": ["gpu", "ssd"], "availability_zone": "eu-1a"}
    await world.user.patch(f"/v1/hosts/{host.host_id}", traits)
    (line,) = [line for line in (await said(settings, "list")).splitlines() if host.host_id in line]
    assert line.split()[1:3] == ["regular", "online"]
    assert line.split()[4:7] == ["eu-1a", "gpu,", "ssd"]
    assert "gpu, ssd" in await said(settings, "show", host.host_id)
    sandbox = await world.new_sandbox()
    with pytest.raises(Refused, match="has 1 sandboxes"):
        await said(settings, "rm", host.host_id)
    told = await said(settings, "rm", host.host_id, force=True)
    assert f"1 sandboxes are lost: {sandbox['id']}" in told
    assert host.host_id not in await said(settings, "list")


async def test_hosts_are_listed_drained_and_taken_back(
    world: World, host: SimulatedAgent, tmp_path: Path
) -> None:
    settings = Settings(data_dir=tmp_path)
    with pytest.raises(Refused, match="WRENN_ADMIN_EMAIL and WRENN_ADMIN_PASSWORD not set"):
        await said(settings, "list")
    write_environment(world, settings)
    assert host.host_id in await said(settings, "list")
    with pytest.raises(Refused, match="which host"):
        await said(settings, "drain")
    with pytest.raises(Refused, match="does not exist"):
        await said(settings, "drain", "host_x")
    assert "is empty" in await said(settings, "drain", host.host_id)
    assert "draining" in await said(settings, "list")
    assert "draining" not in await said(settings, "undrain", host.host_id)
    await world.new_sandbox()
    with pytest.raises(Refused, match="AGENT_OBJECT_STORE"):
        await said(settings, "drain", host.host_id)
    write_environment(world, settings, url="http://127.0.0.1:9")
    with pytest.raises(Refused, match="cannot be reached"):
        await said(settings, "list")


def test_the_agent_of_wrenn_up_is_told_the_object_store() -> None:
    from wrenn_server.up import supervisor

    settings = from_environment({"AGENT_OBJECT_STORE": "/mnt/shared"})
    assert supervisor.agent_environment(settings)["AGENT_OBJECT_STORE"] == "/mnt/shared"


async def test_the_audit_log_is_verified(world: World, tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path)
    known = {
        "WRENN_BASE_URL": world.url,
        "WRENN_ADMIN_EMAIL": world.admin.admin_email,
        "WRENN_ADMIN_PASSWORD": world.admin.admin_password or "",
    }
    environment.write(settings.env_file, known)
    console = Console(file=io.StringIO(), width=200)
    assert await audit.verify(settings, console)
    await world.cp.db.execute("DELETE FROM audit_heads WHERE chain = $1", world.admin.team_id)
    assert not await audit.verify(settings, console)
    said = console.file.getvalue()  # pyright: ignore[reportAttributeAccessIssue] - the StringIO from above
    assert f"whole   {world.admin.team_id} " in said
    assert f"BROKEN  {world.admin.team_id} " in said
