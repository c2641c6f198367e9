"""The specification's deployment, step by step as it stands there: `builds/wrenn-cp` with a PostgreSQL that is not
ours, hosts registered with curl, `builds/wrenn-agent` started by hand."""

import asyncio
import json
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from support.platforms import curl, free_port
from wrenn import Sandbox
from wrenn_server.db import embedded
from wrenn_server.hostagent import leftovers
from wrenn_server.up.settings import Settings

pytestmark = [pytest.mark.vm, pytest.mark.timeout(900)]
REPOSITORY = Path(__file__).resolve().parents[2]
EMAIL, PASSWORD = "you@example.com", "correct horse battery"


@dataclass(frozen=True, slots=True)
class ControlPlane:
    url: str
    environ: dict[str, str]
    directory: Path
    jwt: str

    def admin(self, method: str, path: str, body: str | None = None) -> tuple[int, dict[str, object]]:
        words = ["-X", method, f"{self.url}{path}", "-H", f"Authorization: Bearer {self.jwt}"]
        if body is not None:
            words += ["-H", "Content-Type: application/json", "-d", body]
        status, text = curl(*words)
        return status, json.loads(text) if text else {}


@pytest.fixture(scope="module")
def builds() -> Path:
    """`make build`, when its results are not newer than the sources."""
    programs = [REPOSITORY / "builds" / name for name in ("wrenn-cp", "wrenn-agent", "envd")]
    newest = max(path.stat().st_mtime for path in (REPOSITORY / "server/src").rglob("*.py"))
    if any(not program.exists() or program.stat().st_mtime < newest for program in programs):
        subprocess.run(["make", "build"], cwd=REPOSITORY, check=True, capture_output=True)
    return REPOSITORY / "builds"


@contextmanager
def program(
    argv: list[str], *, environ: dict[str, str], cwd: Path, log: Path
) -> Generator[subprocess.Popen[bytes], None, None]:
    """One of ours in the foreground of a shell that is not there."""
    with log.open("ab") as output:
        process = subprocess.Popen(argv, env=environ, cwd=cwd, stdout=output, stderr=output)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def wait_for(url: str, log: Path) -> None:
    deadline = time.monotonic() + 60
    while subprocess.run(["curl", "-sf", url], capture_output=True).returncode != 0:
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.1)


@pytest.fixture(scope="module")
def database() -> Iterator[str]:
    """A PostgreSQL that the control plane knows by its URL only."""
    # Not pytest's own directory: that is closed to other users, and the server is one.
    with tempfile.TemporaryDirectory(prefix="wrenn-test-pg-") as directory:
        Path(directory).chmod(0o711)
        loop = asyncio.new_event_loop()
        server = embedded.server(Path(directory) / "data")
        yield loop.run_until_complete(server.__aenter__())
        loop.run_until_complete(server.__aexit__(None, None, None))
        loop.close()


@pytest.fixture(scope="module")
def control_plane(
    builds: Path, database: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ControlPlane]:
    directory = tmp_path_factory.mktemp("cp")
    port = free_port()
    environ = {
        "PATH": os.environ["PATH"],
        "HOME": str(directory),
        "SHIV_ROOT": str(tmp_path_factory.getbasetemp() / "shiv"),
        "DATABASE_URL": database,
        "CP_LISTEN_ADDR": f":{port}",
        "WRENN_DATA_DIR": str(directory),
    }

    def cp(*words: str) -> subprocess.CompletedProcess[str]:
        completed = subprocess.run(
            [builds / "wrenn-cp", *words],
            env=environ,
            cwd=directory,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert completed.returncode == 0, completed.stdout + completed.stderr
        return completed

    cp("migrate", "up")
    cp("admin", "create", "--email", EMAIL, "--password", PASSWORD)
    log = directory / "log"
    with program([str(builds / "wrenn-cp")], environ=environ, cwd=directory, log=log):
        url = f"http://127.0.0.1:{port}"
        wait_for(f"{url}/health", log)
        body = json.dumps({"email": EMAIL, "password": PASSWORD})
        status, text = curl(f"{url}/v1/auth/login", "-H", "Content-Type: application/json", "-d", body)
        assert status == 200, text
        yield ControlPlane(url, environ, directory, json.loads(text)["token"])


def new_host(cp: ControlPlane) -> tuple[str, str]:
    status, answer = cp.admin("POST", "/v1/hosts", '{"type": "regular"}')
    assert status == 201, answer
    host = answer["host"]
    assert isinstance(host, dict)
    return str(host["id"]), str(answer["registration_token"])


@contextmanager
def agent(
    cp: ControlPlane, builds: Path, data: Path, directory: Path, number: int, port: int, *words: str
) -> Generator[subprocess.Popen[bytes], None, None]:
    environ = {
        **cp.environ,
        "AGENT_CP_URL": cp.url,
        "WRENN_DATA_DIR": str(directory),
        "AGENT_LISTEN_ADDR": f":{port}",
        "AGENT_KERNEL_PATH": str(data / "kernels/vmlinux"),
        "AGENT_IMAGES_PATH": str(data / "images"),
        "AGENT_SANDBOXES_PATH": str(directory / "sandboxes"),
        "AGENT_TOKEN_FILE": str(directory / "host-token"),
        "AGENT_NETWORK": f"10.{219 + number}.0.0/16",
        "AGENT_UID_BASE": str(47000 + 1000 * number),
    }
    argv = [str(builds / "wrenn-agent"), *words, "--address", f"127.0.0.1:{port}"]
    with program(argv, environ=environ, cwd=directory, log=directory / "log") as process:
        yield process


def wait_online(cp: ControlPlane, host_id: str, log: Path) -> dict[str, object]:
    deadline = time.monotonic() + 60
    while True:
        status, host = cp.admin("GET", f"/v1/hosts/{host_id}")
        assert status == 200
        if host["status"] == "online":
            return host
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.1)


@pytest.fixture
def host_directories(tmp_path: Path) -> Iterator[list[Path]]:
    directories = [tmp_path / f"host-{number}" for number in range(2)]
    for directory in directories:
        directory.mkdir()
    yield directories
    for directory in directories:
        asyncio.run(leftovers.remove_all(directory, Settings(data_dir=directory).tag))


def test_hosts_register_serve_and_come_back(
    control_plane: ControlPlane, builds: Path, guest_images: Path, host_directories: list[Path]
) -> None:
    first, token = new_host(control_plane)
    directory = host_directories[0]
    port = free_port()
    with agent(control_plane, builds, guest_images, directory, 0, port, "--register", token):
        host = wait_online(control_plane, first, directory / "log")
        assert host["cpus"] == os.cpu_count()
        assert (directory / "host-token").stat().st_mode & 0o777 == 0o600
    # Later starts need no token.
    with ExitStack() as stack:
        stack.enter_context(agent(control_plane, builds, guest_images, directory, 0, port))
        wait_online(control_plane, first, directory / "log")
        second, other_token = new_host(control_plane)
        other = host_directories[1]
        stack.enter_context(
            agent(control_plane, builds, guest_images, other, 1, free_port(), "--register", other_token)
        )
        wait_online(control_plane, second, other / "log")
        status, answer = control_plane.admin("POST", "/v1/api-keys", '{"name": "test"}')
        assert status == 201
        key = str(answer["key"])
        with Sandbox.create(api_key=key, base_url=control_plane.url, timeout=300) as sandbox:
            assert sandbox.commands.run("echo made by hand").stdout == "made by hand\n"


def test_wrong_used_and_regenerated_tokens(
    control_plane: ControlPlane, builds: Path, guest_images: Path, host_directories: list[Path]
) -> None:
    host_id, token = new_host(control_plane)
    directory = host_directories[0]
    with agent(control_plane, builds, guest_images, directory, 0, free_port(), "--register", token):
        wait_online(control_plane, host_id, directory / "log")
    (directory / "host-token").unlink()  # the answer was lost on the way, say
    (directory / "log").unlink()
    with agent(
        control_plane, builds, guest_images, directory, 0, free_port(), "--register", token
    ) as refused:
        assert refused.wait(60) != 0
    assert "token" in (directory / "log").read_text()
    status, answer = control_plane.admin("POST", f"/v1/hosts/{host_id}/token")
    assert status == 201
    fresh = str(answer["registration_token"])
    with agent(control_plane, builds, guest_images, directory, 0, free_port(), "--register", fresh):
        wait_online(control_plane, host_id, directory / "log")
    with agent(
        control_plane, builds, guest_images, host_directories[1], 1, free_port(), "--register", "nonsense"
    ) as refused:
        assert refused.wait(60) != 0
    assert "token" in (host_directories[1] / "log").read_text()
