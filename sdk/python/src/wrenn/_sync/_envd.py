# Generated from _async/_envd.py by scripts/generate_sync.py: change it there.

"""Calls to the agent inside a sandbox, through the platform's one port."""

from __future__ import annotations

import base64
from collections.abc import Generator
from typing import TypeVar

import httpx2

from wrenn._sync.client import Client
from wrenn._wire import (
    ENVD_PORT,
    STDIN_PIECE,
    Empty,
    Envelopes,
    Input,
    InputRequest,
    ProcessEvent,
    ProcessMessage,
    SelectRequest,
    SignalRequest,
    decode,
    envelope,
    selector,
)
from wrenn.errors import (
    ConnectionLostError,
    GuestError,
    NotFoundError,
    ProcessNotFoundError,
    SandboxNotFoundError,
    SandboxNotRunningError,
    WrennError,
    from_connect,
    mapped,
)
from wrenn.models import SandboxInfo, Signal

T = TypeVar("T")


class Envd:
    """What `Commands` and `Files` share: the way to one sandbox's agent and its token."""

    def __init__(self, client: Client, sandbox_id: str, token: str | None) -> None:
        self.client = client
        self.sandbox_id = sandbox_id
        self.token = token

    def headers(self, user: str | None = None) -> dict[str, str]:
        headers = {"E2b-Sandbox-Id": self.sandbox_id, "E2b-Sandbox-Port": str(ENVD_PORT)}
        if self.token:
            headers["X-Access-Token"] = self.token
        if user:
            headers["Authorization"] = "Basic " + base64.b64encode(f"{user}:".encode()).decode()
        return headers

    def unary(
        self,
        method: str,
        request: object,
        answer: type[T],
        *,
        user: str | None = None,
        timeout: float | None = None,
        idempotent: bool = False,
        not_found: type[NotFoundError] = NotFoundError,
    ) -> T:
        """One Connect call.

        :param method: `package.Service/Method`
        """
        try:
            return self.client.transport.call(
                "POST",
                "/" + method,
                answer,
                request,
                headers={**self.headers(user), "Connect-Protocol-Version": "1"},
                timeout=timeout,
                idempotent=idempotent,
                not_found=not_found,
            )
        except (GuestError, ConnectionLostError) as exc:
            raise self.explained(exc) from exc

    def events(
        self, method: str, request: object, *, user: str | None = None, lifetime: float | None = None
    ) -> ProcessStream:
        """Opens a stream of process events.

        :param lifetime: seconds until the agent kills the process
        """
        timeouts = self.client.config.timeouts
        headers = {
            **self.headers(user),
            "Content-Type": "application/connect+json",
            "Connect-Protocol-Version": "1",
            "Keepalive-Ping-Interval": str(timeouts.keepalive),
        }
        if lifetime:
            headers["Connect-Timeout-Ms"] = str(max(1, round(lifetime * 1000)))
        try:
            response = self.client.transport.open(
                "POST",
                "/" + method,
                envelope(request),
                headers=headers,
                timeout=timeouts.silence,
                not_found=ProcessNotFoundError,
            )
        except (GuestError, ConnectionLostError) as exc:
            raise self.explained(exc) from exc
        return ProcessStream(response, self.client.config.base_url)

    def signal(self, pid: int | str, signal: Signal) -> bool:
        """Signals a whole process group; False when there is none."""
        try:
            self.unary(
                "process.Process/SendSignal",
                SignalRequest(selector(pid), f"SIGNAL_{signal}"),
                Empty,
                not_found=ProcessNotFoundError,
            )
        except ProcessNotFoundError:
            return False
        return True

    def send_stdin(self, pid: int | str, data: bytes, *, timeout: float | None = None) -> None:
        for at in range(0, len(data), STDIN_PIECE):
            self.unary(
                "process.Process/SendInput",
                InputRequest(selector(pid), Input(data[at : at + STDIN_PIECE])),
                Empty,
                timeout=timeout,
                not_found=ProcessNotFoundError,
            )

    def close_stdin(self, pid: int | str) -> None:
        self.unary(
            "process.Process/CloseStdin",
            SelectRequest(selector(pid)),
            Empty,
            idempotent=True,
            not_found=ProcessNotFoundError,
        )

    def explained(self, error: WrennError) -> WrennError:
        """A broken connection or a 502 says that the sandbox does not answer; the platform knows why."""
        try:
            info = self.client.transport.call(
                "GET",
                f"/v1/sandboxes/{self.sandbox_id}",
                SandboxInfo,
                timeout=5.0,
                idempotent=True,
                not_found=SandboxNotFoundError,
            )
        except SandboxNotFoundError:
            return SandboxNotRunningError(f"sandbox {self.sandbox_id} was killed or never existed")
        except WrennError:
            return error
        if info.status == "running":
            return error
        why = f" ({info.reason})" if info.reason else ""
        better = SandboxNotRunningError(
            f"sandbox {self.sandbox_id} is {info.status}{why}",
            hint="resume() it first" if info.status == "paused" else None,
        )
        better.sandbox = info
        return better


class ProcessStream:
    """The events of one process. Read to its end, the connection goes back to the pool."""

    def __init__(self, response: httpx2.Response, base_url: str) -> None:
        self._response = response
        self._base_url = base_url
        self._events = self._read()

    def next(self) -> ProcessEvent | None:
        """The next event; None at the end.

        :raises ConnectionLostError: the stream broke
        :raises ApiError: the agent ended it with an error
        """
        return next(self._events, None)

    def _read(self) -> Generator[ProcessEvent]:
        envelopes = Envelopes()
        with mapped("a command", self._base_url):
            for data in self._response.iter_raw():
                for payload in envelopes.feed(data):
                    yield decode(payload, ProcessMessage).event
        if not envelopes.ended:
            raise ConnectionLostError("the stream of a command ended before its end was announced")
        if envelopes.error is not None:
            raise from_connect(envelopes.error.code, envelopes.error.message, not_found=ProcessNotFoundError)

    def close(self) -> None:
        """Stops reading; the process runs on."""
        self._events.close()
        self._response.close()
