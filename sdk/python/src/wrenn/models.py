"""What calls give back: frozen values."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

import msgspec

from wrenn.errors import CommandExitError

Signal = Literal["SIGTERM", "SIGKILL"]
OnTimeout = Literal["kill", "pause"]
Activity = Literal["api", "traffic", "terminal", "command"]


class Network(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a sandbox may reach. The default: the public internet. Private ranges, the host and other sandboxes are
    closed in any case.

    ```python
    Network(internet=False, allow_out=("pypi.org", "*.pythonhosted.org"))
    ```
    """

    internet: bool = True
    """False: nothing but `allow_out`."""
    allow_out: tuple[str, ...] = ()
    """IPv4 addresses, CIDRs, `host.name`, `*.host.name`; wins over `deny_out`. Names need `internet=False`, or
    `0.0.0.0/0` in `deny_out`."""
    deny_out: tuple[str, ...] = ()
    """IPv4 addresses and CIDRs."""
    dns_servers: tuple[str, ...] = ()
    """IPv4 addresses; none: the host's own choice."""


class SandboxInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A sandbox as the platform knows it. Times are UTC."""

    id: str
    status: str
    """starting, running, pausing, paused, resuming, lost, failed, killing or killed."""
    template: str
    vcpus: int
    memory_mb: int
    disk_mb: int
    timeout_sec: int = 0
    """0: never ends by itself."""
    on_timeout: str = "kill"
    pause_memory: bool = True
    """What a pause at its timeout keeps; False: the disk alone."""
    auto_resume: bool = False
    """Requests to its ports wake it when it is paused."""
    activity: tuple[str, ...] = ()
    """What puts off its timeout."""
    saved_memory: bool | None = None
    """Of a paused one; False: its resume will boot."""
    created_at: datetime
    started_at: datetime | None = None
    last_active_at: datetime | None = None
    expires_at: datetime | None = None
    metadata: dict[str, str] = {}
    network: Network = Network()
    private: bool = False
    """Requests to its ports must carry its `traffic_token`."""
    mask_host: str | None = None
    """What its ports are told as the Host of requests."""
    snapshot_id: str | None = None
    """That it was created from."""
    generation: int = 0
    """Grows by one at every start, resume and fork."""
    reason: str | None = None
    """Why it ended or failed: user, timeout, oom_killed, disk_full, kernel_panic…"""
    message: str | None = None
    console: str | None = None
    """The last lines of the guest's console, for one that failed."""


class SandboxAnswer(SandboxInfo, frozen=True, kw_only=True):
    """What create, get, resume, rollback and fork answer: with the tokens for the sandbox's own agent and ports, which are
    never shown."""

    envd_access_token: str | None = None
    traffic_token: str | None = None

    def info(self) -> SandboxInfo:
        return SandboxInfo(**{name: getattr(self, name) for name in SandboxInfo.__struct_fields__})

    def __repr__(self) -> str:
        return repr(self.info())


class SnapshotInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A saved sandbox, to go back to or to start others from. Times are UTC."""

    id: str
    """What `Sandbox.create` takes as the template, and `rollback`."""
    sandbox_id: str
    """The sandbox that it was taken of."""
    names: tuple[str, ...] = ()
    """`name:tag` of all that lead to it."""
    template: str
    memory: bool
    """False: the disk alone; what starts from it boots."""
    vcpus: int
    memory_mb: int
    disk_mb: int
    size_bytes: int
    """That it takes on its host's disk."""
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What a sandbox used at one moment."""

    at: datetime
    cpu_pct: float
    """Of all its processors together, 0 to 100."""
    cpu_count: int
    mem_bytes: int
    """Used, without the page cache."""
    mem_cache_bytes: int
    mem_total_bytes: int
    disk_bytes: int
    disk_total_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """A piece of a command's output as it arrived."""

    stream: Literal["stdout", "stderr"]
    data: bytes
    text: str
    """The same as text. A character that is split over two pieces comes whole with the second; bytes that are not
    UTF-8 are replaced by U+FFFD."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandResult:
    """How a command ended and what it wrote."""

    exit_code: int
    """-1 when a signal ended it; `status` names the signal."""
    stdout_bytes: bytes
    stderr_bytes: bytes
    pid: int
    status: str = ""
    """E.g. `exit status 1`, `signal: killed`."""
    error: str | None = None
    """Why it ended so, where the sandbox knows more: `oom_killed: …` when its memory had run out."""
    truncated: bool = False
    """There was more output than `max_output`: what is here is its end."""

    @property
    def stdout(self) -> str:
        return self.stdout_bytes.decode(errors="replace")

    @property
    def stderr(self) -> str:
        return self.stderr_bytes.decode(errors="replace")

    @property
    def ok(self) -> bool:
        return self.exit_code == 0

    def check(self) -> CommandResult:
        """Itself, or :raises CommandExitError: when the exit code is not 0."""
        if self.ok:
            return self
        tail = (self.stderr.strip() or self.stdout.strip())[-500:]
        text = f"the command ended with {self.status or f'exit status {self.exit_code}'}"
        raise CommandExitError(f"{text}: {tail}" if tail else text, self)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessInfo:
    """A process that was started through the sandbox's agent and that runs."""

    pid: int
    tag: str | None
    cmd: str
    args: tuple[str, ...]
    envs: dict[str, str]
    cwd: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class FileInfo:
    """An entry of a sandbox's file system."""

    name: str
    path: str
    type: Literal["file", "directory", "symlink", "other"]
    """Of a symbolic link: the type of what it points to."""
    size: int
    """Bytes."""
    mode: int
    """Permission bits, e.g. `0o644`."""
    permissions: str
    """E.g. `-rw-r--r--`."""
    owner: str
    group: str
    modified_at: datetime | None
    symlink_target: str | None

    @property
    def is_dir(self) -> bool:
        return self.type == "directory"
