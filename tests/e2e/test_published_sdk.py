"""The published `wrenn` 0.3.0 SDK, unmodified, against a whole platform with real virtual machines."""

import subprocess
from pathlib import Path

import pytest

from support.platforms import RunningPlatform
from support.published import environment, published

__all__ = ["published"]

pytestmark = [pytest.mark.vm, pytest.mark.timeout(400)]

WALK = Path(__file__).with_name("published_walk.py")


def test_a_walk(platform: RunningPlatform, published: Path) -> None:
    environ = environment(platform.api_key, platform.base_url)
    environ["WRENN_PROXY_DOMAIN"] = platform.settings.proxy_domain
    walked = subprocess.run(
        [published, "-I", WALK, platform.base_url], env=environ, capture_output=True, text=True, timeout=300
    )
    assert walked.returncode == 0, walked.stdout + walked.stderr
