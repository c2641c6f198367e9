"""What simulated hosts and their object store have of sandboxes, with an envd for each if there is one."""

import asyncio
import contextlib
import os
import re
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from wrenn_server.model.errors import WrennError
from wrenn_server.wire import agent as wire
from wrenn_server.wire import envd, http1
from wrenn_server.wire.stream import connect_tcp


@dataclass(slots=True)
class Envd:
    """One `envd serve --no-guest`: its programs and files are those of this machine."""

    process: asyncio.subprocess.Process
    port: int
    """On loopback."""


@dataclass(slots=True)
class Held:
    """What the host has of one sandbox."""

    report: wire.SandboxReport
    access_token: str = field(repr=False)
    network: wire.Network
    on_timeout: str
    pause_memory: bool
    envs: dict[str, str] = field(default_factory=dict[str, str])
    snapshot: str | None = None
    """Id of the snapshot that it was started from."""
    envd: Envd | None = None


@dataclass(slots=True)
class HeldSnapshot:
    """What the host has of one snapshot."""

    report: wire.SnapshotReport
    source: wire.SandboxReport
    envs: dict[str, str]


@dataclass(slots=True)
class SimulatedStore:
    """The object store of several simulated hosts."""

    sandboxes: dict[tuple[str, int], Held] = field(default_factory=dict[tuple[str, int], Held])
    """By id and the generation that they were paused at."""
    snapshots: dict[str, HeldSnapshot] = field(default_factory=dict[str, HeldSnapshot])
    failing: WrennError | None = None
    """What every access fails with."""

    def check(self) -> None:
        if self.failing is not None:
            raise self.failing


async def start_envd(binary: Path) -> Envd:
    process = await asyncio.create_subprocess_exec(
        os.fspath(binary), "serve", "--no-guest", "--listen", "127.0.0.1:0",
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )  # fmt: skip
    if process.stderr is None:
        raise AssertionError("stderr is a pipe")
    line = (await process.stderr.readline()).decode()
    found = re.search(r":(\d+)\s*$", line)
    if found is None:
        raise RuntimeError(f"envd did not say where it listens: {line!r}")
    return Envd(process, int(found[1]))


async def stop(held: Held) -> None:
    if held.envd is not None:
        with contextlib.suppress(ProcessLookupError):
            held.envd.process.kill()
        await held.envd.process.wait()


async def introduce(held: Held, proof: str | None) -> None:
    """:param proof: the token that its envd asks for until now"""
    if held.envd is None:
        return
    init = envd.Init(
        access_token=held.access_token,
        env_vars=held.envs,
        default_user="root",
        sandbox_id=held.report.id,
    )
    headers = [("Content-Type", "application/json")]
    if proof is not None:
        headers.append(("X-Access-Token", proof))
    stream = await connect_tcp("127.0.0.1", held.envd.port)
    async with http1.Connection(stream) as connection:
        response = await connection.request("POST", "/init", headers=headers, body=msgspec.json.encode(init))
        await response.read(limit=65536)
        if response.status != 204:
            raise RuntimeError(f"envd refused /init with {response.status}")
