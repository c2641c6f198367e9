"""A data directory on a small file system of its own."""

import asyncio
import contextlib
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

from faults.installation import Installation
from hostagent.process import AgentProcess

from support.small_disk import SmallDisk, small_disk

SIZE = 4 << 30


@dataclass(frozen=True, slots=True)
class Cramped:
    installation: Installation
    disk: SmallDisk


@contextlib.contextmanager
def cramped(directory: Path, images: Path) -> Generator[Cramped]:
    with small_disk(directory, SIZE) as disk:
        installation = Installation.at(AgentProcess(disk.path, images))
        asyncio.run(installation.begin())
        yield Cramped(installation, disk)
        asyncio.run(installation.end())
