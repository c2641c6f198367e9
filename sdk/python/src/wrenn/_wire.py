"""What crosses the wire: `/v1` bodies, and the guest agent's Connect protocol with the JSON codec.

A server stream is a row of envelopes: 1 flag byte, uint32 big-endian length, JSON. The last one has flag 2 and may
carry an error. What the guest sends is not to be trusted: sizes are bounded here.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Literal, TypeVar

import msgspec

from wrenn.errors import ProtocolError
from wrenn.models import FileInfo, Network, ProcessInfo, Sample, SandboxAnswer

ENVD_PORT = 49983
MAX_ENVELOPE = 4 * 1024 * 1024
"""The agent sends pieces of 32 KiB; anything much larger is an attack."""
MAX_ANSWER = 64 * 1024 * 1024
"""Bytes of the answer to a short request, e.g. a listing of a large tree."""
STDIN_PIECE = 64 * 1024

_HEAD = struct.Struct(">BI")
_END_STREAM = 0x02

T = TypeVar("T")


def envelope(message: object) -> bytes:
    payload = msgspec.json.encode(message)
    return _HEAD.pack(0, len(payload)) + payload


class Envelopes:
    """Cuts a stream of bytes into payloads; `ended` once the last envelope has come.

    :raises ProtocolError: an envelope of more than MAX_ENVELOPE bytes, an unknown flag, bytes after the end
    """

    def __init__(self) -> None:
        self._buffer = bytearray()
        self.ended = False
        self.error: ConnectProblem | None = None
        """What the last envelope said."""

    def feed(self, data: bytes) -> Iterator[bytes]:
        self._buffer += data
        while len(self._buffer) >= _HEAD.size:
            flags, length = _HEAD.unpack_from(self._buffer)
            if self.ended or flags not in {0, _END_STREAM}:
                raise ProtocolError("the sandbox's agent broke the framing of its stream")
            if length > MAX_ENVELOPE:
                raise ProtocolError(f"the sandbox's agent announced a message of {length} bytes")
            end = _HEAD.size + length
            if len(self._buffer) < end:
                return
            payload = bytes(self._buffer[_HEAD.size : end])
            del self._buffer[:end]
            if flags == _END_STREAM:
                self.ended = True
                self.error = decode(payload, EndStream).error
            else:
                yield payload
        if self.ended and self._buffer:
            raise ProtocolError("the sandbox's agent broke the framing of its stream")


def decode(payload: bytes, kind: type[T]) -> T:
    """:raises ProtocolError: the payload is not JSON of that shape"""
    try:
        return msgspec.json.decode(payload, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise ProtocolError(f"the answer is not what it should be: {exc}") from exc


class ConnectProblem(msgspec.Struct):
    code: str = "unknown"
    message: str = ""


class EndStream(msgspec.Struct):
    error: ConnectProblem | None = None


class Empty(msgspec.Struct):
    pass


# --- /v1 ---


class CreateRequest(msgspec.Struct, kw_only=True, omit_defaults=True):
    template: str
    vcpus: int | None = None
    memory_mb: int | None = None
    disk_mb: int | None = None
    timeout_sec: int = 0
    on_timeout: str = "kill"
    pause_memory: bool = True
    auto_resume: bool = False
    activity: tuple[str, ...] | None = None
    metadata: dict[str, str] = {}
    envs: dict[str, str] = {}
    network: Network | None = None
    private: bool = False
    mask_host: str | None = None


class ForkRequest(msgspec.Struct, kw_only=True, omit_defaults=True):
    count: int
    timeout_sec: int | None = None
    metadata: dict[str, str] | None = None


class SnapshotRequest(msgspec.Struct, omit_defaults=True):
    name: str | None = None
    memory: bool = True


class RollbackRequest(msgspec.Struct):
    snapshot: str


class TimeoutRequest(msgspec.Struct):
    timeout_sec: int


class PauseRequest(msgspec.Struct, omit_defaults=True):
    memory: bool = True


class ResumeRequest(msgspec.Struct, omit_defaults=True):
    timeout_sec: int | None = None
    memory: bool = True


class MetricsPoint(msgspec.Struct):
    timestamp_unix: float
    cpu_pct: float
    cpu_count: int
    mem_bytes: int
    mem_cache_bytes: int
    mem_total_bytes: int
    disk_bytes: int
    disk_total_bytes: int

    def sample(self) -> Sample:
        return Sample(
            at=datetime.fromtimestamp(self.timestamp_unix, UTC),
            cpu_pct=self.cpu_pct,
            cpu_count=self.cpu_count,
            mem_bytes=self.mem_bytes,
            mem_cache_bytes=self.mem_cache_bytes,
            mem_total_bytes=self.mem_total_bytes,
            disk_bytes=self.disk_bytes,
            disk_total_bytes=self.disk_total_bytes,
        )


class MetricsAnswer(msgspec.Struct):
    points: list[MetricsPoint]


class Fork(msgspec.Struct):
    sandbox: SandboxAnswer | None = None
    error: ConnectProblem | None = None
    renewed: tuple[str, ...] = ()


# --- process.Process ---


class ProcessConfig(msgspec.Struct, kw_only=True, omit_defaults=True):
    cmd: str = ""
    args: list[str] = []
    envs: dict[str, str] = {}
    cwd: str | None = None


class StartRequest(msgspec.Struct, kw_only=True, omit_defaults=True):
    process: ProcessConfig
    tag: str | None = None
    stdin: bool | None = None


class Selector(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One of the two."""

    pid: int | None = None
    tag: str | None = None


def selector(pid: int | str) -> Selector:
    """By pid or by tag."""
    return Selector(tag=pid) if isinstance(pid, str) else Selector(pid=pid)


class SelectRequest(msgspec.Struct):
    process: Selector


class SignalRequest(msgspec.Struct):
    process: Selector
    signal: str


class Input(msgspec.Struct):
    stdin: bytes
    """Base64 on the wire."""


class InputRequest(msgspec.Struct):
    process: Selector
    input: Input


class StartEvent(msgspec.Struct):
    pid: int = 0


class DataEvent(msgspec.Struct):
    """Exactly one of them, base64 on the wire."""

    stdout: bytes | None = None
    stderr: bytes | None = None
    pty: bytes | None = None


class EndEvent(msgspec.Struct, rename="camel"):
    exit_code: int = 0
    exited: bool = False
    status: str = ""
    error: str | None = None


class ProcessEvent(msgspec.Struct):
    """One of the three; none of them in a keep-alive."""

    start: StartEvent | None = None
    data: DataEvent | None = None
    end: EndEvent | None = None


class ProcessMessage(msgspec.Struct):
    """One message of the Start and Connect streams."""

    event: ProcessEvent = msgspec.field(default_factory=ProcessEvent)


class RunningProcess(msgspec.Struct):
    config: ProcessConfig = msgspec.field(default_factory=ProcessConfig)
    pid: int = 0
    tag: str | None = None

    def info(self) -> ProcessInfo:
        config = self.config
        return ProcessInfo(
            pid=self.pid,
            tag=self.tag,
            cmd=config.cmd,
            args=tuple(config.args),
            envs=config.envs,
            cwd=config.cwd,
        )


class ProcessList(msgspec.Struct):
    processes: list[RunningProcess] = []


# --- filesystem.Filesystem and /files ---


class PathRequest(msgspec.Struct):
    path: str


class ListRequest(msgspec.Struct):
    path: str
    depth: int


class MoveRequest(msgspec.Struct):
    source: str
    destination: str


class Entry(msgspec.Struct, rename="camel"):
    name: str = ""
    type: str = ""
    path: str = ""
    size: str | int = 0
    """A string on the wire: proto3 JSON writes 64-bit numbers so."""
    mode: int = 0
    permissions: str = ""
    owner: str = ""
    group: str = ""
    modified_time: datetime | None = None
    symlink_target: str | None = None

    def info(self) -> FileInfo:
        kinds: dict[str, Literal["file", "directory", "symlink"]] = {
            "FILE_TYPE_FILE": "file",
            "FILE_TYPE_DIRECTORY": "directory",
            "FILE_TYPE_SYMLINK": "symlink",
        }
        try:
            size = int(self.size)
        except ValueError as exc:
            raise ProtocolError(f"the sandbox's agent gave {self.size!r} as a size") from exc
        return FileInfo(
            name=self.name,
            path=self.path,
            type=kinds.get(self.type, "other"),
            size=size,
            mode=self.mode,
            permissions=self.permissions,
            owner=self.owner,
            group=self.group,
            modified_at=self.modified_time,
            symlink_target=self.symlink_target,
        )


class EntryAnswer(msgspec.Struct):
    entry: Entry = msgspec.field(default_factory=Entry)


class EntriesAnswer(msgspec.Struct):
    entries: list[Entry] = []


class Written(msgspec.Struct):
    path: str
    name: str = ""
