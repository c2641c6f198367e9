"""Calls to host agents: `wire/agent.py` over HTTP, and byte tunnels into sandboxes.

What an agent answers with an error is that error here. What never arrived is `Unreachable`; when nobody knows
whether it arrived, `Uncertain`: then only a question to the agent tells what is true.
"""

import ssl
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TypeVar

import httpx2
import msgspec

from wrenn_server.controlplane.keys import Keys, server_name
from wrenn_server.model.address import Address
from wrenn_server.model.errors import NotFound, Unavailable, WrennError
from wrenn_server.wire import agent, http1, problems
from wrenn_server.wire.stream import Stream

T = TypeVar("T")

START_TIMEOUT = 180.0
"""Seconds. The first sandbox of a shape boots its template, which software emulation does slowly."""
SAVE_TIMEOUT = 600.0
"""Pause and fork write all memory to disk; others move it to or from the object store."""
KILL_TIMEOUT = 60.0
ASK_TIMEOUT = 10.0
_CONNECT_TIMEOUT = 5.0


class Unreachable(Unavailable):
    """The host's agent cannot be reached; nothing was sent."""


class Uncertain(Unavailable):
    """The connection to the host's agent broke, or it did not answer in time: it may or may not have acted."""


@dataclass(frozen=True, slots=True)
class Host:
    id: str
    address: Address


class HostsClient:
    """One per control plane; connections are kept and shared by host."""

    def __init__(self, client: httpx2.AsyncClient, keys: Keys, tls: ssl.SSLContext) -> None:
        self._client = client
        self._keys = keys
        self._tls = tls

    async def health(self, host: Host) -> agent.AgentHealth:
        return await self._call(host, "GET", "/v1/health", agent.AgentHealth, timeout=ASK_TIMEOUT)

    async def start(self, host: Host, sandbox_id: str, start: agent.Start) -> agent.SandboxReport:
        path = f"/v1/sandboxes/{sandbox_id}"
        timeout = START_TIMEOUT if start.snapshot is None else SAVE_TIMEOUT
        return await self._call(host, "PUT", path, agent.SandboxReport, start, timeout=timeout)

    async def get(self, host: Host, sandbox_id: str) -> agent.SandboxReport | None:
        """None: the agent says that it has no such sandbox."""
        try:
            return await self._call(
                host, "GET", f"/v1/sandboxes/{sandbox_id}", agent.SandboxReport, timeout=ASK_TIMEOUT
            )
        except NotFound as error:
            if error.code != "sandbox_not_found":
                raise Uncertain(f"host {host.id} answered 404 without being asked for a sandbox") from error
            return None

    async def kill(self, host: Host, sandbox_id: str, generation: int, *, elsewhere: bool = False) -> None:
        """Idempotent: also when the agent has no such sandbox.

        :param elsewhere: another host has it: what is in the object store stays"""
        path = f"/v1/sandboxes/{sandbox_id}?generation={generation}"
        if elsewhere:
            path += "&elsewhere=true"
        await self._send(host, "DELETE", path, timeout=KILL_TIMEOUT)

    async def pause(self, host: Host, sandbox_id: str, pause: agent.Pause) -> agent.SandboxReport:
        path = f"/v1/sandboxes/{sandbox_id}/pause"
        return await self._call(host, "POST", path, agent.SandboxReport, pause, timeout=SAVE_TIMEOUT)

    async def resume(self, host: Host, sandbox_id: str, resume: agent.Resume) -> agent.SandboxReport:
        path = f"/v1/sandboxes/{sandbox_id}/resume"
        timeout = START_TIMEOUT if resume.stored is None else SAVE_TIMEOUT
        return await self._call(host, "POST", path, agent.SandboxReport, resume, timeout=timeout)

    async def fork(self, host: Host, sandbox_id: str, fork: agent.Fork) -> agent.ForkReport:
        path = f"/v1/sandboxes/{sandbox_id}/fork"
        return await self._call(host, "POST", path, agent.ForkReport, fork, timeout=SAVE_TIMEOUT)

    async def snapshot(self, host: Host, sandbox_id: str, snapshot: agent.Snapshot) -> agent.SnapshotReport:
        path = f"/v1/sandboxes/{sandbox_id}/snapshot"
        return await self._call(host, "POST", path, agent.SnapshotReport, snapshot, timeout=SAVE_TIMEOUT)

    async def store(self, host: Host, sandbox_id: str, generation: int) -> agent.SandboxReport:
        """A paused sandbox is in the object store when it answers."""
        path, body = f"/v1/sandboxes/{sandbox_id}/store", agent.Store(generation=generation)
        return await self._call(host, "POST", path, agent.SandboxReport, body, timeout=SAVE_TIMEOUT)

    async def fetch(self, host: Host, sandbox_id: str, generation: int) -> agent.SandboxReport:
        """A paused sandbox is on that host when it answers."""
        path, body = f"/v1/sandboxes/{sandbox_id}/fetch", agent.Fetch(generation=generation)
        return await self._call(host, "POST", path, agent.SandboxReport, body, timeout=SAVE_TIMEOUT)

    async def store_snapshot(self, host: Host, snapshot_id: str) -> None:
        await self._send(host, "POST", f"/v1/snapshots/{snapshot_id}/store", timeout=SAVE_TIMEOUT)

    async def delete_snapshot(self, host: Host, snapshot_id: str) -> None:
        """Idempotent."""
        await self._send(host, "DELETE", f"/v1/snapshots/{snapshot_id}", timeout=KILL_TIMEOUT)

    async def rewire(self, host: Host, sandbox_id: str, rewire: agent.Rewire) -> agent.SandboxReport:
        path = f"/v1/sandboxes/{sandbox_id}/network"
        return await self._call(host, "PUT", path, agent.SandboxReport, rewire, timeout=ASK_TIMEOUT)

    async def timeout(self, host: Host, sandbox_id: str, timeout: agent.Timeout) -> agent.SandboxReport:
        path = f"/v1/sandboxes/{sandbox_id}/timeout"
        return await self._call(host, "POST", path, agent.SandboxReport, timeout, timeout=ASK_TIMEOUT)

    async def prepare(self, host: Host, template: str, prepare: agent.Prepare) -> agent.TemplateReport:
        path = f"/v1/templates/{template}/prepare"
        return await self._call(host, "POST", path, agent.TemplateReport, prepare, timeout=START_TIMEOUT)

    async def drain(self, host: Host, mode: str) -> agent.SandboxList:
        body = agent.Drain(mode=mode)
        return await self._call(host, "POST", "/v1/drain", agent.SandboxList, body, timeout=SAVE_TIMEOUT)

    async def tunnel(self, host: Host, sandbox_id: str, port: int) -> Stream:
        """A TCP connection to a port inside a sandbox. Raises what `wire.http1.connect_tunnel` raises."""
        plain = host.address.is_loopback
        return await http1.connect_tunnel(
            str(host.address),
            f"{sandbox_id}:{port}",
            headers=[("Authorization", f"Bearer {self._keys.call_token(host.id)}")],
            ssl=None if plain else self._tls,
            server_hostname=None if plain else server_name(host.id),
        )

    async def _call(
        self,
        host: Host,
        method: str,
        path: str,
        answer: type[T],
        body: msgspec.Struct | None = None,
        *,
        timeout: float,
    ) -> T:
        content = await self._send(host, method, path, body, timeout=timeout)
        try:
            return msgspec.json.decode(content, type=answer)
        except msgspec.DecodeError as error:
            raise Uncertain(f"host {host.id} gave an answer that makes no sense") from error

    async def _send(
        self, host: Host, method: str, path: str, body: msgspec.Struct | None = None, *, timeout: float
    ) -> bytes:
        """One call and its answer. Sent a second time when the connection broke: a kept connection may have been
        closed by an agent that restarted, and a command that is repeated with its generation does no harm."""
        content = None if body is None else msgspec.json.encode(body)
        try:
            response = await self._request(host, method, path, content, timeout)
        except (httpx2.NetworkError, httpx2.RemoteProtocolError) as broken:
            if isinstance(broken, httpx2.ConnectError):
                raise Unreachable(f"host {host.id} cannot be reached") from broken
            try:
                response = await self._request(host, method, path, content, timeout)
            except httpx2.HTTPError as error:
                raise Uncertain(f"the connection to host {host.id} broke") from error
        except (httpx2.ConnectTimeout, httpx2.PoolTimeout) as error:
            raise Unreachable(f"host {host.id} cannot be reached") from error
        except httpx2.HTTPError as error:
            raise Uncertain(f"host {host.id} did not answer: {type(error).__name__}") from error
        if response.status_code >= 400:
            raise _refusal(problems.decode(response.status_code, response.content))
        return response.content

    async def _request(
        self, host: Host, method: str, path: str, content: bytes | None, timeout: float
    ) -> httpx2.Response:
        headers = {"Authorization": f"Bearer {self._keys.call_token(host.id)}"}
        if content is not None:
            headers["Content-Type"] = "application/json"
        plain = host.address.is_loopback
        return await self._client.request(
            method,
            f"{'http' if plain else 'https'}://{host.address}{path}",
            content=content,
            headers=headers,
            timeout=httpx2.Timeout(timeout, connect=_CONNECT_TIMEOUT, pool=timeout),
            extensions=None if plain else {"sni_hostname": server_name(host.id)},
        )


def _refusal(error: WrennError) -> WrennError:
    """401 and 403 are between us and the agent: no caller of ours is to be told to log in."""
    if error.status in (401, 403):
        wrapped = Unavailable("the host refuses our calls", code="host_refused", retryable=False)
        wrapped.__cause__ = error
        return wrapped
    return error


@asynccontextmanager
async def connect(keys: Keys) -> AsyncGenerator[HostsClient, None]:
    tls = keys.client_context()
    # Connections that were idle for long may be half dead; agents close theirs after 320 s.
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=512, keepalive_expiry=60.0)
    async with httpx2.AsyncClient(
        verify=tls, limits=limits, trust_env=False, follow_redirects=False
    ) as client:
        yield HostsClient(client, keys, tls)
