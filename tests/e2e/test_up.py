"""`wrenn up` and `wrenn down` as a user runs them."""

import asyncio
import json
import stat
import time
from pathlib import Path

import pytest

from support.platforms import RunningPlatform, curl, settings_for, up, wrenn
from wrenn import Client, Sandbox
from wrenn_server.up import environment, inventory

pytestmark = [pytest.mark.vm, pytest.mark.timeout(300)]


def test_environment_file_has_every_name_and_is_private(platform: RunningPlatform) -> None:
    assert set(platform.variables) == set(environment.NAMES)
    assert stat.S_IMODE(platform.settings.env_file.stat().st_mode) == 0o600
    assert platform.variables["E2B_API_KEY"].removeprefix("e2b_") == platform.api_key.removeprefix("wrn_")


def test_second_up_is_quick_and_changes_nothing(platform: RunningPlatform) -> None:
    began = time.monotonic()
    again = up(platform.settings)
    assert time.monotonic() - began < 5
    assert again.variables == platform.variables


def test_doctor_knows_the_way(platform: RunningPlatform) -> None:
    told = wrenn("doctor", settings=platform.settings, check=False).stdout
    for word in ("KVM", "VMM", "kernel", "images", "forwarding", "way out", "nftables", "disk", "PostgreSQL"):
        assert word in told


def test_life_of_a_sandbox_by_curl(platform: RunningPlatform) -> None:
    key = ["-H", f"X-API-Key: {platform.api_key}"]
    api = f"{platform.base_url}/v1/sandboxes"
    status, body = curl(api, *key, "-d", '{"template": "minimal", "timeout_sec": 300}')
    assert status == 201
    sandbox = json.loads(body)
    one = f"{api}/{sandbox['id']}"
    try:
        assert sandbox["status"] == "running"
        status, body = curl(
            f"{one}/exec", *key, "-d", '{"cmd": "sh", "args": ["-c", "echo out; echo err >&2; exit 3"]}'
        )
        assert status == 200
        answer = json.loads(body)
        assert (answer["stdout"], answer["stderr"], answer["exit_code"]) == ("out\n", "err\n", 3)
        status, body = curl(f"{one}/exec", *key, "-d", '{"cmd": "sleep", "args": ["60"], "timeout_sec": 1}')
        assert (status, json.loads(body)["error"]["code"]) == (504, "exec_timeout")
        status, _ = curl(
            f"{one}/files/write", *key, "-F", "path=/home/user/a.txt", "-F", "file=@/etc/hostname"
        )
        assert status == 204
        status, body = curl(f"{one}/files/read", *key, "-d", '{"path": "/home/user/a.txt"}')
        assert (status, body) == (200, Path("/etc/hostname").read_text())
        assert curl("-X", "POST", f"{one}/pause", *key)[0] == 200
        assert curl("-X", "POST", f"{one}/pause", *key)[0] == 409
        assert curl("-X", "POST", f"{one}/resume", *key)[0] == 200
        assert json.loads(curl(one, *key)[1])["status"] == "running"
    finally:
        assert curl("-X", "DELETE", one, *key)[0] == 204
    assert curl("-X", "DELETE", one, *key)[0] == 404


def test_ports_are_reached_by_host_name_and_control_routes_never(platform: RunningPlatform) -> None:
    with Sandbox.create(api_key=platform.api_key, base_url=platform.base_url, timeout=300) as sandbox:
        sandbox.files.write("/home/user/index.html", "from the sandbox")
        sandbox.commands.run("exec python3 -m http.server 8080", background=True, timeout=None)
        port = platform.base_url.rpartition(":")[2]
        status, body = curl(
            "-f", "--retry", "20", "--retry-all-errors", f"http://8080-{sandbox.id}.localhost:{port}/"
        )
        assert (status, body) == (200, "from the sandbox")
        for path in ("/init", "//init", "/%69nit", "/x/../init"):
            status, _ = curl("--path-as-is", "-d", "{}", f"http://49983-{sandbox.id}.localhost:{port}{path}")
            assert status == 404


def test_down_pauses_and_up_resumes_and_purge_leaves_nothing(tmp_path: Path, envd_binary: Path) -> None:
    settings = settings_for(Path("/var/lib/wrenn-test-down"), network="10.218.0.0/16", uid_base=46000)
    wrenn("down", "--purge", settings=settings, check=False)
    running = up(settings)
    try:
        with Client(api_key=running.api_key, base_url=running.base_url) as client:
            sandbox = Sandbox.create(client=client)
            sandbox.files.write("/tmp/kept", "still here")
        wrenn("down", settings=settings)
        remains = asyncio.run(inventory.remains(settings))
        assert [line for line in remains if not line.startswith("directory")] == []
        running = up(settings)
        with Client(api_key=running.api_key, base_url=running.base_url) as client:
            found = Sandbox.connect(sandbox.id, client=client)
            found.resume()
            assert found.files.read("/tmp/kept") == "still here"
    finally:
        wrenn("down", "--purge", settings=settings)
    assert asyncio.run(inventory.remains(settings)) == []
