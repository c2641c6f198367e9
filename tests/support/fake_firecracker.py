"""A Firecracker without a VM: the API's paths, states, fields and faults, as upstream's documentation has them.

It exists to catch calls in the wrong order, fields that a version does not know, and required fields left out.
Where the real binary is there, `tests/vm/test_firecracker.py` asks it instead.
"""

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Version = tuple[int, int, int]

BEFORE = "The requested operation is not supported before starting the microVM."
AFTER = "The requested operation is not supported after starting the microVM."
LOAD_AFTER_CONFIG = "Loading a microVM snapshot not allowed after configuring boot-specific resources."
SAVE_RUNNING = (
    "Create snapshot error: Cannot save the microVM state: "
    "Operation not allowed: save/restore unavailable while running"
)

_ALWAYS: Version = (0, 0, 0)


@dataclass(frozen=True)
class Endpoint:
    """`when`: pre (before the start), post (after it) or any. Fields with the version that brought them; a second
    version is the first that no longer has them."""

    when: str
    required: frozenset[str]
    optional: dict[str, tuple[Version, Version | None]] = field(default_factory=dict)
    since: Version = _ALWAYS


def _optional(*names: str, **since: Version) -> dict[str, tuple[Version, Version | None]]:
    return {**dict.fromkeys(names, (_ALWAYS, None)), **{name: (v, None) for name, v in since.items()}}


PUT: dict[str, Endpoint] = {
    "/logger": Endpoint(
        "pre", frozenset(), _optional("log_path", "level", "show_level", "show_log_origin", "module")
    ),
    "/serial": Endpoint(
        "pre", frozenset(), _optional("serial_out_path", rate_limiter=(1, 16, 0)), (1, 14, 0)
    ),
    "/machine-config": Endpoint(
        "pre",
        frozenset({"vcpu_count", "mem_size_mib"}),
        _optional("smt", "track_dirty_pages", "huge_pages", "cpu_template"),
    ),
    "/boot-source": Endpoint("pre", frozenset({"kernel_image_path"}), _optional("initrd_path", "boot_args")),
    "/drives/{id}": Endpoint(
        "pre",
        frozenset({"drive_id", "is_root_device"}),
        _optional(
            "path_on_host", "is_read_only", "partuuid", "cache_type", "rate_limiter", "io_engine", "socket"
        ),
    ),
    "/network-interfaces/{id}": Endpoint(
        "pre",
        frozenset({"iface_id", "host_dev_name"}),
        _optional("guest_mac", "rx_rate_limiter", "tx_rate_limiter", mtu=(1, 16, 0)),
    ),
    "/entropy": Endpoint("pre", frozenset(), _optional("rate_limiter")),
    "/actions": Endpoint("any", frozenset({"action_type"})),
    "/snapshot/create": Endpoint(
        "post", frozenset({"snapshot_path", "mem_file_path"}), _optional("snapshot_type")
    ),
    "/snapshot/load": Endpoint(
        "pre",
        frozenset({"snapshot_path", "mem_backend"}),
        {
            **_optional(
                "resume_vm", "network_overrides", track_dirty_pages=(1, 13, 0), vsock_override=(1, 16, 0)
            ),
            "enable_diff_snapshots": (_ALWAYS, (1, 16, 0)),
        },
    ),
}
PATCH: dict[str, Endpoint] = {
    "/vm": Endpoint("post", frozenset({"state"})),
    "/drives/{id}": Endpoint("post", frozenset({"drive_id"}), _optional("path_on_host", "rate_limiter")),
}
_ID = re.compile(r"^(/drives|/network-interfaces)/([A-Za-z0-9_]+)$")


class Fault(Exception):
    pass


class FakeFirecracker:
    def __init__(self, version: Version = (1, 12, 1)) -> None:
        self.version = version
        self.state = "Not started"
        self.resources: dict[str, Any] = {}
        self.tracking = False
        self.calls: list[tuple[str, str, Any]] = []
        self.answer_raw: bytes | None = None
        """Sent instead of the next answer, for tests of hostile ones."""
        self.hold: asyncio.Event | None = None
        """The next answer waits for it."""

    @contextlib.asynccontextmanager
    async def serving(self, path: Path) -> AsyncGenerator[None, None]:
        connections: set[asyncio.StreamWriter] = set()

        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            connections.add(writer)
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
                while True:
                    await self._one(reader, writer)

        server = await asyncio.start_unix_server(connected, path)
        try:
            yield
        finally:
            server.close()
            for writer in connections:
                writer.close()
            await server.wait_closed()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        method, path, _ = head.split("\r\n")[0].split(" ")
        match = re.search(r"^content-length: *(\d+)\r$", head, re.IGNORECASE | re.MULTILINE)
        raw = await reader.readexactly(int(match[1])) if match else b""
        body = json.loads(raw) if raw else None
        self.calls.append((method, path, body))
        try:
            answer = self._handle(method, path, body)
            status, content = (204, b"") if answer is None else (200, json.dumps(answer).encode())
        except Fault as fault:
            status, content = 400, json.dumps({"fault_message": str(fault)}).encode()
        if self.hold is not None:
            await self.hold.wait()
        if self.answer_raw is not None:
            writer.write(self.answer_raw)
            self.answer_raw = None
            return
        writer.write(
            f"HTTP/1.1 {status} \r\nServer: Firecracker API\r\nContent-Length: {len(content)}\r\n\r\n".encode()
            if content
            else f"HTTP/1.1 {status} \r\nServer: Firecracker API\r\n\r\n".encode()
        )
        writer.write(content)

    def _handle(self, method: str, path: str, body: Any) -> dict[str, Any] | None:
        if method == "GET":
            if body is not None:
                raise Fault("GET request cannot have a body.")
            version = ".".join(map(str, self.version))
            if path == "/":
                return {"id": "fake", "state": self.state, "vmm_version": version, "app_name": "Firecracker"}
            if path == "/version":
                return {"firecracker_version": version}
            raise Fault(f"Invalid request method and/or path: {method} {path.lstrip('/')}.")
        if body is None:
            raise Fault(f"Empty {method} request.")
        pattern = path
        if match := _ID.match(path):
            pattern = match[1] + "/{id}"
            given = body.get("drive_id", body.get("iface_id"))
            if given != match[2]:
                raise Fault(
                    f"The id from the path [{match[2]}] does not match the id from the body [{given}]!"
                )
        endpoint = {"PUT": PUT, "PATCH": PATCH}[method].get(pattern)
        if endpoint is None or endpoint.since > self.version:
            raise Fault(f"Invalid request method and/or path: {method} {path.lstrip('/')}.")
        self._check_fields(endpoint, body)
        started = self.state != "Not started"
        if endpoint.when == "pre" and started:
            raise Fault(AFTER)
        if endpoint.when == "post" and not started:
            raise Fault(BEFORE)
        self._act(pattern, path, body)
        return None

    def _check_fields(self, endpoint: Endpoint, body: dict[str, Any]) -> None:
        for name in endpoint.required:
            if name not in body:
                raise Fault(
                    f"An error occurred when deserializing the json body of a request: missing field `{name}`"
                )
        for name in body:
            if name in endpoint.required:
                continue
            since, until = endpoint.optional.get(name, ((9, 9, 9), None))
            if self.version < since or (until is not None and self.version >= until):
                raise Fault(
                    f"An error occurred when deserializing the json body of a request: unknown field `{name}`"
                )

    def _act(self, pattern: str, path: str, body: dict[str, Any]) -> None:
        match pattern:
            case "/actions":
                if body["action_type"] == "InstanceStart":
                    if self.state != "Not started":
                        raise Fault(AFTER)
                    if "/boot-source" not in self.resources:
                        raise Fault("Cannot start microvm without kernel configuration.")
                    self.state = "Running"
                    self.tracking = bool(self.resources.get("/machine-config", {}).get("track_dirty_pages"))
                elif self.state == "Not started":
                    raise Fault(BEFORE)
            case "/vm":
                self.state = {"Paused": "Paused", "Resumed": "Running"}[body["state"]]
            case "/snapshot/create":
                if self.state != "Paused":
                    raise Fault(SAVE_RUNNING)
                if body.get("snapshot_type") == "Diff" and not self.tracking and self.version < (1, 13, 0):
                    raise Fault(
                        "Create snapshot error: Diff snapshots are not allowed on uVMs with dirty page tracking disabled"
                    )
            case "/snapshot/load":
                if set(self.resources) - {"/logger", "/metrics", "/serial", "/cpu-config"}:
                    raise Fault(LOAD_AFTER_CONFIG)
                self.state = "Running" if body.get("resume_vm") else "Paused"
                self.tracking = bool(body.get("track_dirty_pages") or body.get("enable_diff_snapshots"))
            case _:
                self.resources[path] = body
