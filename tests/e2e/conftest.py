"""One platform for all tests that only use it."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.platforms import RunningPlatform, settings_for, up, wrenn


@pytest.fixture(scope="session")
def platform(envd_binary: Path) -> Iterator[RunningPlatform]:
    """One platform for all tests of the session that only use it."""
    if os.geteuid() != 0:
        pytest.skip("a platform needs root")
    settings = settings_for(Path("/var/lib/wrenn-test"), network="10.216.0.0/16", uid_base=45000)
    wrenn("down", "--purge", settings=settings, check=False)
    yield up(settings)
    wrenn("down", "--purge", settings=settings)
