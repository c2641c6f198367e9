"""A real agent in a process of its own, and guests reached through its tunnels."""

import asyncio
import contextlib
import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import msgspec
from hostagent.calls import Signer

from wrenn_server.hostagent import credentials
from wrenn_server.hostagent.storage.paths import Paths
from wrenn_server.linux import files, notify
from wrenn_server.linux.cgroup import Cgroups
from wrenn_server.up.demo import free_port
from wrenn_server.wire import agent as wire
from wrenn_server.wire import envd, http1, stream

NETWORK, UID_BASE = "10.211.0.0/20", 57_000
"""Apart from those of an install on the same machine."""
CALL_TIMEOUT = 300.0
"""Seconds: a hundred forks, one after the other where guests are emulated."""


class AgentProcess:
    """One data directory, and the agent that serves it now."""

    def __init__(self, data: Path, images: Path) -> None:
        self.paths = Paths.under(data)
        self.signer = Signer()
        self.process: subprocess.Popen[bytes] | None = None
        self.log = data / "agent.log"
        self.settings: dict[str, str] = {}
        """Environment of the next agent beside what all have."""
        self.stores = False
        """Whether it has an object store."""
        self.address = f"127.0.0.1:{free_port()}"
        for name in ("kernels/vmlinux", "kernels/initrd", "kernels/tiny.elf", "images/minimal.ext4"):
            (data / name).parent.mkdir(parents=True, exist_ok=True)
            if name.startswith("kernels/"):
                (data / name).symlink_to(images / name)
            else:
                _give(images / name, data / name)
        credentials.save(data / "host-token", self.signer.credentials())

    @property
    def objects(self) -> Path:
        """The object store."""
        return self.paths.data / "objects"

    def machines(self) -> set[str]:
        """Names of all VMMs, also of those that are nobody's yet."""
        return set(Cgroups.detect().children(f"wrenn-{self.paths.tag}"))

    @property
    def headers(self) -> list[tuple[str, str]]:
        return [("Authorization", f"Bearer {self.signer.token()}")]

    async def start(self) -> None:
        run = self.paths.run
        run.mkdir(exist_ok=True)
        async with notify.listener(run / "test.notify") as listener:
            self._spawn(listener.path)
            async with asyncio.timeout(30):
                await listener.wait_ready()

    async def fall(self) -> None:
        """Starts an agent that dies before it is ready."""
        self.paths.run.mkdir(exist_ok=True)
        self._spawn(self.paths.run / "nobody.notify")
        await self.died()

    async def died(self) -> None:
        """Waits for the end of an agent that kills itself."""
        assert self.process is not None
        code = await asyncio.to_thread(self.process.wait, 120)
        self.process = None
        assert code == -signal.SIGKILL, self.log.read_text()[-4000:]

    def _spawn(self, ready: Path) -> None:
        environment = {
            **os.environ,
            "WRENN_DATA_DIR": str(self.paths.data),
            "AGENT_LISTEN_ADDR": self.address,
            "AGENT_VMM": "qemu",
            "AGENT_NETWORK": NETWORK,
            "AGENT_UID_BASE": str(UID_BASE),
            "AGENT_SLOTS": "40",
            "AGENT_WARM": "0",
            "AGENT_SPARES": "0",
            "AGENT_BOOT_TIMEOUT": "150",
            "NOTIFY_SOCKET": str(ready),
            **({"AGENT_OBJECT_STORE": str(self.objects)} if self.stores else {}),
            **self.settings,
        }
        with self.log.open("ab") as log:
            argv = [sys.executable, "-m", "wrenn_server.hostagent.main"]
            self.process = subprocess.Popen(
                argv, env=environment, stdout=log, stderr=log, cwd=self.paths.data
            )

    async def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        code = await asyncio.to_thread(self.process.wait, 40)
        self.process = None
        return code

    async def call(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        host, _, port = self.address.rpartition(":")
        connected = await stream.connect_tcp(host, int(port))
        async with http1.Connection(connected, timeouts=http1.Timeouts(head=CALL_TIMEOUT)) as connection:
            data = b"" if body is None else msgspec.json.encode(body)
            response = await connection.request(method, path, headers=self.headers, body=data)
            answer = await response.read(limit=1 << 20)
        return response.status, json.loads(answer) if answer else None

    async def ok(self, method: str, path: str, body: object = None) -> Any:
        status, answer = await self.call(method, path, body)
        assert status in (200, 204), answer
        return answer

    @contextlib.asynccontextmanager
    async def _started(self, id: str, token: str, script: str) -> AsyncGenerator[http1.Response]:
        """What envd tells of a shell script, through a tunnel."""
        tunnel = await http1.connect_tunnel(self.address, f"{id}:{envd.PORT}", headers=self.headers)
        async with http1.Connection(tunnel, timeouts=http1.Timeouts(head=30, idle=30)) as connection:
            process = envd.ProcessConfig(cmd="/bin/sh", args=["-c", script])
            headers = [("Content-Type", "application/connect+json"), ("X-Access-Token", token)]
            body = envd.envelope(envd.StartRequest(process=process))
            yield await connection.request("POST", "/process.Process/Start", headers=headers, body=body)

    async def run(self, id: str, token: str, script: str) -> str:
        """What a shell script prints."""
        async with self._started(id, token, script) as response:
            data = await response.read(limit=1 << 20)
        assert response.status == 200, data
        output = b""
        for _, payload in envd.Envelopes().feed(data):
            event = msgspec.json.decode(payload, type=envd.ProcessResponse).event
            if event.data is not None:
                output += (event.data.stdout or b"") + (event.data.stderr or b"")
        return output.decode()

    async def background(self, id: str, token: str, script: str) -> None:
        """Starts a shell script and leaves it running."""
        async with self._started(id, token, script) as response:
            assert response.status == 200
            async for _ in response.aiter():
                break

    def remains(self) -> list[str]:
        """Objects of this data directory on the host."""
        tag = self.paths.tag
        places = [Path("/run/netns"), Path("/sys/class/net")]
        found = [path.name for place in places for path in place.iterdir() if tag in path.name]
        found += Cgroups.detect().children(f"wrenn-{tag}")
        for directory in (self.paths.sandboxes, self.paths.snapshots, self.paths.named):
            found += [str(path) for path in directory.iterdir()]
        return found


def _give(image: Path, name: Path) -> None:
    """The same file, or a copy on another file system."""
    try:
        os.link(image, name)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        files.clone(image, name, mode=0o644)


@contextlib.asynccontextmanager
async def serving(agent: AgentProcess) -> AsyncGenerator[AgentProcess]:
    """Runs an agent; kills all of its sandboxes at the end."""
    await agent.start()
    try:
        yield agent
    finally:
        if agent.process is None:
            await agent.start()
        for sandbox in (await agent.ok("GET", "/v1/sandboxes"))["sandboxes"]:
            await agent.ok("DELETE", f"/v1/sandboxes/{sandbox['id']}?generation={sandbox['generation']}")
        for snapshot in agent.paths.named.iterdir():
            await agent.ok("DELETE", f"/v1/snapshots/{snapshot.name}")
        await agent.end()


IDENTITY = "hostname; cat /etc/machine-id /proc/sys/kernel/random/boot_id; head -c 16 /dev/urandom | od -An"
"""What no two sandboxes have in common, a line each."""
FORGET = "echo 3 | sudo tee /proc/sys/vm/drop_caches"
"""What was written is on the disk alone then, if it was synced."""
COUNTER = "(i=0; while :; do i=$((i+1)); echo $i >> /tmp/count; sleep 0.05; done) >/dev/null 2>&1 & echo"
"""Runs on in the background, as long as its memory does."""


def large(mib: int) -> str:
    """Makes a file on the disk that memory does not have, and `sum` to check it by."""
    return f"cd; head -c {mib}M /dev/urandom > large; sha256sum large > sum; sync; {FORGET}"


async def count(agent: AgentProcess, id: str, token: str, *, beyond: int = 0) -> int:
    """How far `COUNTER` is, as soon as it is beyond a number."""
    last = "tail -n 1 /tmp/count 2>/dev/null"
    return int(
        await agent.run(
            id,
            token,
            f'until [ "$({last} || echo 0)" -gt {beyond} ] 2>/dev/null; do sleep 0.05; done; {last}',
        )
    )


def start(token: str = "token1", **changes: Any) -> wire.Start:  # noqa: S107 - a test's
    fields: dict[str, Any] = {
        "generation": 1,
        "template": "minimal",
        "template_id": "tpl_" + "a" * 20,
        "team_id": "team_" + "a" * 20,
        "vcpus": 1,
        "memory_mb": 256,
        "disk_mb": 1024,
        "access_token": token,
    }
    return wire.Start(**(fields | changes))
