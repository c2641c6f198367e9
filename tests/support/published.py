"""The published `wrenn` 0.3.0 SDK, which has our SDK's name: in an environment of its own, run as a program."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from compat.environments import HERE, TOOLS, kept
from support.simulated import World


def install(place: Path, files: list[Path]) -> None:
    """It asks for Python 3.13 and uses nothing of it: pip can be told so, uv cannot."""
    [requirements] = files
    environment = [TOOLS / "uv", "venv", "--quiet", "--allow-existing", "--python", sys.executable, place]
    subprocess.run(environment, check=True, timeout=120)
    pip = [sys.executable, "-m", "pip", "--python", place / "bin/python", "install", "--quiet", "--no-deps"]
    packages = ["--ignore-requires-python", "--require-hashes", "-r", requirements]
    subprocess.run([*pip, *packages], check=True, timeout=300)


@pytest.fixture(scope="session")
def published() -> Path:
    """Its interpreter."""
    return kept([HERE / "sdks/wrenn-0.3.0.txt"], install) / "bin/python"


def environment(api_key: str, base_url: str) -> dict[str, str]:
    """Of a program with that SDK: nothing of ours is on its path."""
    environ = {**os.environ, "WRENN_API_KEY": api_key, "WRENN_BASE_URL": base_url, "NO_PROXY": "*"}
    environ.pop("PYTHONPATH", None)
    return environ


@asynccontextmanager
async def started(
    world: World, python: Path, program: Path, *arguments: str
) -> AsyncGenerator[asyncio.subprocess.Process]:
    """`program URL arguments…` with the key of the administrator's team; killed at the end if it still runs."""
    environ = environment(world.admin.api_key, world.url)
    process = await asyncio.create_subprocess_exec(
        python, "-I", program, world.url, *arguments,
        env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
