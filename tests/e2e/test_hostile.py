"""A program that takes all it can get ends inside its sandbox, with a reason; the sandbox goes on."""

import pytest

from support.platforms import RunningPlatform
from wrenn import Sandbox
from wrenn_server.up.demo import HOSTILE

pytestmark = [pytest.mark.vm, pytest.mark.timeout(300)]
HOG = "kept = []\nwhile True:\n    kept.append(b'x' * (32 << 20))\n"


@pytest.mark.parametrize("program", [HOG, HOSTILE], ids=["memory hog", "fork bomb with hogs"])
def test_hostile_program_ends_and_the_sandbox_goes_on(platform: RunningPlatform, program: str) -> None:
    with Sandbox.create(api_key=platform.api_key, base_url=platform.base_url, timeout=300) as sandbox:
        sandbox.files.write("/home/user/hostile.py", program)
        result = sandbox.commands.run("exec python3 hostile.py", timeout=120)
        assert result.exit_code != 0
        assert result.error is not None
        assert result.error.startswith("oom_killed")
        assert sandbox.commands.run("echo alive", timeout=60).stdout == "alive\n"
        assert sandbox.info().status == "running"
