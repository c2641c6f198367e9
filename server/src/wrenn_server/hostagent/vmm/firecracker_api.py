"""Firecracker's API: HTTP/1.1 with JSON over a unix socket, one connection a VM, one request at a time.

Source: Firecracker's src/firecracker/swagger/firecracker.yaml and docs. Unknown fields are refused, so what is
sent depends on the version. The answers come from a process that a guest may have taken over: bounded in size and time.
"""

import asyncio
import contextlib
import json
import socket
from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Literal, cast

from wrenn_server.hostagent.vmm.base import VmmError

Version = tuple[int, int, int]
ANSWER_TIMEOUT = 5.0
"""Seconds. Upstream's own tests ask for 0.7; a loaded host may take longer."""
_HEAD_LIMIT = 16 << 10
_BODY_LIMIT = 1 << 20


class ApiState(StrEnum):
    NOT_STARTED = "Not started"
    RUNNING = "Running"
    PAUSED = "Paused"


class FirecrackerError(VmmError):
    """Firecracker answered with a fault."""

    def __init__(self, method: str, path: str, status: int, fault: str) -> None:
        super().__init__(f"{method} {path}: {status}: {fault}")
        self.status = status
        self.fault = fault


class ApiClosed(VmmError):
    """The connection broke, usually because Firecracker ended."""


def parse_version(text: str) -> Version:
    """`1.12.1`, `v1.12.1` or `1.17.0-dev` as three numbers.

    :raises ValueError: it is none.
    """
    numbers = text.strip().removeprefix("v").partition("-")[0].split(".")
    if len(numbers) != 3:
        raise ValueError(f"not a version: {text[:50]!r}")
    return int(numbers[0]), int(numbers[1]), int(numbers[2])


OLDEST: Version = (1, 12, 0)

SINCE: dict[str, Version] = {
    "/snapshot/load track_dirty_pages": (1, 13, 0),  # before that: enable_diff_snapshots
    "/serial": (1, 14, 0),
    "/snapshot/load vsock_override": (1, 16, 0),
    "/snapshot/load huge_pages": (1, 17, 0),
}
"""Paths and fields that older versions refuse. `clock_realtime` (1.14.4, 1.15.1, 1.16) is not here because envd sets
the clock itself: the field moves kvm-clock only, and guests of today run on the TSC."""


def supports(version: Version, feature: str) -> bool:
    return version >= SINCE[feature]


def load_request(version: Version, *, state: str, memory: str) -> dict[str, Any]:
    """Body of `PUT /snapshot/load`: paused, memory copy-on-write from a file, changes tracked for Diff snapshots."""
    tracking = (
        "track_dirty_pages"
        if supports(version, "/snapshot/load track_dirty_pages")
        else "enable_diff_snapshots"
    )
    return {
        "snapshot_path": state,
        "mem_backend": {"backend_type": "File", "backend_path": memory},
        "resume_vm": False,
        tracking: True,
    }


class FirecrackerApi:
    """The client. `close` ends the connection; Firecracker goes on."""

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._busy = asyncio.Lock()
        self._broken = False

    async def get(self, path: str) -> dict[str, Any]:
        return await self.call("GET", path)

    async def put(self, path: str, body: Mapping[str, Any], *, timeout: float = ANSWER_TIMEOUT) -> None:
        await self.call("PUT", path, body, timeout=timeout)

    async def patch(self, path: str, body: Mapping[str, Any]) -> None:
        await self.call("PATCH", path, body)

    async def state(self) -> ApiState:
        """:raises VmmError: Firecracker does not answer, or with nonsense."""
        answer = (await self.get("/")).get("state")
        try:
            return ApiState(answer)
        except ValueError as error:
            raise VmmError(f"GET /: unknown state {str(answer)[:50]!r}") from error

    async def call(
        self,
        method: Literal["GET", "PUT", "PATCH"],
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        timeout: float = ANSWER_TIMEOUT,
    ) -> dict[str, Any]:
        """One request and its answer.

        :raises FirecrackerError: a fault; :raises ApiClosed: no connection any more; :raises VmmError: a timeout,
        after which the connection is not used again because the late answer would be taken for the next one's.
        """
        async with self._busy:
            if self._broken:
                raise ApiClosed(f"{method} {path}: the connection is broken")
            try:
                async with asyncio.timeout(timeout):
                    status, answer = await self._exchange(method, path, body)
            except TimeoutError as error:
                self._broken = True
                raise VmmError(f"{method} {path}: no answer within {timeout:g} s") from error
            except (OSError, EOFError, ValueError, asyncio.LimitOverrunError) as error:
                self._broken = True
                raise ApiClosed(f"{method} {path}: {error or type(error).__name__}") from error
            except BaseException:
                self._broken = True
                raise
        if status >= 300:
            raise FirecrackerError(
                method, path, status, str(answer.get("fault_message", "no reason given"))[:1000]
            )
        return answer

    async def _exchange(
        self, method: str, path: str, body: Mapping[str, Any] | None
    ) -> tuple[int, dict[str, Any]]:
        if self._streams is None:
            self._streams = await asyncio.open_unix_connection(sock=self._socket, limit=_HEAD_LIMIT)
        reader, writer = self._streams
        head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nAccept: application/json\r\n"
        payload = b""
        if body is not None:
            payload = json.dumps(body).encode()
            head += f"Content-Type: application/json\r\nContent-Length: {len(payload)}\r\n"
        writer.write(head.encode() + b"\r\n" + payload)
        await writer.drain()
        return await self._answer(reader)

    async def _answer(self, reader: asyncio.StreamReader) -> tuple[int, dict[str, Any]]:
        lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        version, _, rest = lines[0].partition(" ")
        if not version.startswith("HTTP/1."):
            raise ValueError(f"not HTTP: {lines[0][:50]!r}")
        status = int(rest[:3])
        headers = {
            name.strip().lower(): value.strip() for name, _, value in (x.partition(":") for x in lines[1:])
        }
        length = int(headers.get("content-length", "0"))
        if not 0 <= length <= _BODY_LIMIT:
            raise ValueError(f"a body of {length} bytes")
        if status == 204 or length == 0:
            return status, {}
        answer = json.loads(await reader.readexactly(length))
        return status, cast("dict[str, Any]", answer) if isinstance(answer, dict) else {}

    async def close(self) -> None:
        self._broken = True
        if self._streams is None:
            self._socket.close()
            return
        writer = self._streams[1]
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
