"""Client of QEMU's monitor protocol over a unix socket.

Source: QEMU docs/interop/qmp-spec.txt: a greeting, then JSON objects, one a line; replies in the order of the
commands, events in between. QMP is as powerful as the QEMU process itself; what comes from it is nevertheless
treated as hostile, because a guest may have taken QEMU over.
"""

import array
import asyncio
import contextlib
import json
import socket
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, cast

from wrenn_server.hostagent.vmm.base import VmmError

LINE_LIMIT = 1 << 20
_GREETING = -1
_READ_SIZE = 1 << 16
ANSWER_TIMEOUT = 5.0
"""Seconds for any command that answers at once; QEMU's main loop may be busy with a slow disk."""

EventHandler = Callable[[str, dict[str, Any]], None]


class QmpError(VmmError):
    """QEMU answered with an error; `kind` is its class, e.g. `GenericError`."""

    def __init__(self, command: str, kind: str, description: str) -> None:
        super().__init__(f"QMP {command}: {description}")
        self.kind = kind
        self.description = description


class QmpClosed(VmmError):
    """The connection ended, usually because QEMU did."""


class Qmp:
    """One connection; at most one exists per QEMU. An async context manager: entered when commands are accepted."""

    def __init__(self, connected: socket.socket) -> None:
        """:param connected: a connected unix socket; owned by the client from now on."""
        connected.setblocking(False)
        self._socket = connected
        self.on_event: EventHandler = lambda name, data: None
        self._waiting: dict[int, tuple[str, asyncio.Future[Any]]] = {}
        self._next_id = 0
        self._reader: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Waits for the greeting and negotiates.

        :raises QmpClosed: QEMU ended first.
        """
        loop = asyncio.get_running_loop()
        greeting: asyncio.Future[Any] = loop.create_future()
        self._waiting[_GREETING] = ("greeting", greeting)
        self._reader = asyncio.create_task(self._read(), name="qmp")
        # Sent before the greeting is there: the kernel keeps it until QEMU reads.
        await asyncio.gather(greeting, self.start("qmp_capabilities"))

    async def __aenter__(self) -> Self:
        try:
            await self.open()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        if self._reader is not None:
            self._reader.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._reader
        self._socket.close()

    def start(
        self, command: str, arguments: Mapping[str, Any] | None = None, *, fds: Sequence[int] = ()
    ) -> "asyncio.Future[Any]":
        """Sends a command and returns the future of its answer; several may be under way, QEMU keeps the order.

        The future raises QmpError or QmpClosed.
        """
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        number, self._next_id = self._next_id, self._next_id + 1
        message = {"execute": command, "id": number, **({"arguments": arguments} if arguments else {})}
        data = json.dumps(message).encode() + b"\n"
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        try:
            # Commands are a few hundred bytes; a socket buffer that cannot take one belongs to a QEMU that hangs.
            if self._socket.sendmsg([data], rights) != len(data):
                raise BlockingIOError("short write")
        except OSError as error:
            future.set_exception(QmpClosed(f"QMP {command}: {error}"))
        else:
            self._waiting[number] = (command, future)
        return future

    async def execute(
        self,
        command: str,
        arguments: Mapping[str, Any] | None = None,
        *,
        fds: Sequence[int] = (),
        timeout: float = ANSWER_TIMEOUT,
    ) -> Any:
        """Sends a command and waits for its `return`.

        :raises QmpError: QEMU refused; :raises QmpClosed: no answer will come any more; :raises VmmError: timeout.
        """
        try:
            async with asyncio.timeout(timeout):
                return await self.start(command, arguments, fds=fds)
        except TimeoutError as error:
            raise VmmError(f"QMP {command}: no answer within {timeout:g} s") from error

    async def _read(self) -> None:
        loop = asyncio.get_running_loop()
        reason = "the connection ended"
        pending = bytearray()
        try:
            while chunk := await loop.sock_recv(self._socket, _READ_SIZE):
                pending += chunk
                while (end := pending.find(b"\n")) >= 0:
                    line = bytes(pending[:end])
                    del pending[: end + 1]
                    self._dispatch(line)
                if len(pending) > LINE_LIMIT:
                    reason = f"a line longer than {LINE_LIMIT} bytes"
                    break
        except (OSError, ValueError, KeyError, TypeError) as error:
            reason = f"{type(error).__name__}: {error}"
        finally:
            for command, future in self._waiting.values():
                if not future.done():
                    future.set_exception(QmpClosed(f"QMP {command}: {reason}"))
                    future.exception()  # nobody may be waiting for it
            self._waiting.clear()

    def _dispatch(self, line: bytes) -> None:
        parsed = json.loads(line)
        if not isinstance(parsed, dict):
            raise ValueError("not a JSON object")
        message = cast("dict[str, Any]", parsed)
        if "event" in message:
            data = message.get("data")
            self.on_event(
                str(message["event"]), cast("dict[str, Any]", data) if isinstance(data, dict) else {}
            )
            return
        if "QMP" in message:
            _, future = self._waiting.pop(_GREETING)
            _set(future, message["QMP"])
            return
        command, future = self._waiting[message["id"]]
        if "error" in message:
            error = message["error"]
            failure = QmpError(command, str(error["class"]), str(error["desc"])[:1000])
            if not future.done():
                future.set_exception(failure)
        else:
            _set(future, message["return"])
        del self._waiting[message["id"]]


def _set(future: "asyncio.Future[Any]", value: Any) -> None:
    if not future.done():
        future.set_result(value)
