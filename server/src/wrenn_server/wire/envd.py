"""envd's protocol as the host side speaks it: Connect with the JSON codec, E2B's message names.

Source: `proto/envd/*.proto`. Server streams are envelopes of 1 flag byte + uint32 big-endian length + JSON;
the last one has flag 2 and may carry an error. What comes from envd is hostile: sizes are bounded here.
"""

import struct
from collections.abc import Iterator

import msgspec

PORT = 49983
MAX_ENVELOPE = 4 * 1024 * 1024
"""envd sends chunks of at most 32 KiB; anything much larger is an attack."""

_HEAD = struct.Struct(">BI")
END_STREAM = 0x02


class Init(msgspec.Struct, kw_only=True, omit_defaults=True, rename="camel"):
    """Body of `POST /init`."""

    access_token: str
    env_vars: dict[str, str] = {}
    default_user: str = "user"
    default_workdir: str | None = None
    hostname: str = ""
    timestamp: str = ""
    """RFC 3339 with nanoseconds, UTC."""
    entropy: str = ""
    """Base64 of 64 random bytes."""
    machine_id: str = ""
    """32 hex digits."""
    sandbox_id: str = ""
    template_id: str = ""
    lifecycle_id: str = msgspec.field(name="lifecycleID", default="")
    """Changes with every incarnation: `<sandbox id>:<generation>`."""


class ProcessConfig(msgspec.Struct, kw_only=True, omit_defaults=True):
    cmd: str = ""
    args: list[str] = []
    envs: dict[str, str] = {}
    cwd: str | None = None


class Size(msgspec.Struct, frozen=True):
    """Of a terminal, in characters."""

    cols: int
    rows: int


class Pty(msgspec.Struct):
    size: Size


class StartRequest(msgspec.Struct, kw_only=True, omit_defaults=True):
    process: ProcessConfig
    pty: Pty | None = None
    tag: str | None = None
    stdin: bool | None = None


class Selector(msgspec.Struct, kw_only=True, omit_defaults=True):
    pid: int | None = None
    tag: str | None = None


class ConnectRequest(msgspec.Struct):
    process: Selector


class UpdateRequest(msgspec.Struct):
    process: Selector
    pty: Pty


class Input(msgspec.Struct):
    pty: bytes


class SendInputRequest(msgspec.Struct):
    process: Selector
    input: Input


class StartEvent(msgspec.Struct):
    pid: int = 0


class DataEvent(msgspec.Struct):
    """Exactly one of the three, as bytes (base64 on the wire)."""

    stdout: bytes | None = None
    stderr: bytes | None = None
    pty: bytes | None = None


class EndEvent(msgspec.Struct, rename="camel"):
    exit_code: int = 0
    exited: bool = False
    status: str = ""
    error: str | None = None


class KeepAlive(msgspec.Struct):
    pass


class ProcessEvent(msgspec.Struct):
    start: StartEvent | None = None
    data: DataEvent | None = None
    end: EndEvent | None = None
    keepalive: KeepAlive | None = None


class ProcessResponse(msgspec.Struct):
    """One message of the Start and Connect streams."""

    event: ProcessEvent = msgspec.field(default_factory=ProcessEvent)


class ConnectError(msgspec.Struct):
    code: str = "unknown"
    message: str = ""


class EndStream(msgspec.Struct):
    error: ConnectError | None = None


class ProtocolError(Exception):
    """The guest sent something that the protocol does not allow."""


def envelope(message: object) -> bytes:
    """One request message of a stream."""
    payload = msgspec.json.encode(message)
    return _HEAD.pack(0, len(payload)) + payload


class Envelopes:
    """Cuts a byte stream into `(flags, payload)`.

    :raises ProtocolError: an envelope longer than MAX_ENVELOPE, or bytes after the last envelope.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        self._buffer += data
        while len(self._buffer) >= _HEAD.size:
            flags, length = _HEAD.unpack_from(self._buffer)
            if length > MAX_ENVELOPE:
                raise ProtocolError(f"envd announced a message of {length} bytes")
            if len(self._buffer) < _HEAD.size + length:
                return
            payload = bytes(self._buffer[_HEAD.size : _HEAD.size + length])
            del self._buffer[: _HEAD.size + length]
            yield flags, payload
