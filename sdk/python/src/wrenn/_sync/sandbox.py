# Generated from _async/sandbox.py by scripts/generate_sync.py: change it there.

"""Sandboxes: microVMs to run programs in."""

from __future__ import annotations

import math
from collections.abc import Collection, Generator, Mapping
from contextlib import contextmanager
from datetime import datetime
from types import NoneType, TracebackType
from typing import Self

from wrenn._sync._envd import Envd
from wrenn._sync.client import Client
from wrenn._sync.commands import Commands
from wrenn._sync.files import Files
from wrenn._wire import (
    CreateRequest,
    Fork,
    ForkRequest,
    MetricsAnswer,
    PauseRequest,
    ResumeRequest,
    RollbackRequest,
    SnapshotRequest,
    TimeoutRequest,
    decode,
)
from wrenn.errors import (
    ForkError,
    ProtocolError,
    SandboxNotFoundError,
    TemplateNotFoundError,
    WrennError,
    from_connect,
)
from wrenn.models import Activity, Network, OnTimeout, Sample, SandboxAnswer, SandboxInfo, SnapshotInfo

PAGE = 100


class Sandbox:
    """A microVM with its own kernel, file system and network.

    ```python
    with Sandbox.create(timeout=600) as sandbox:
        result = sandbox.commands.run("python3 -c 'print(6 * 7)'")
        print(result.stdout)
    ```

    Leaving the `with` block kills it; without one it lives until `kill`, or until its `timeout`.

    :ivar id: stable name, also after pause and resume
    :ivar commands: run programs
    :ivar files: read and write files
    :ivar traffic_token: of a `private` one: what requests to its ports carry in `E2b-Traffic-Access-Token`
    :ivar renewed: of one that `fork` gave: what it has of its own instead of its source's, by its own word: `random` (the
        kernel's random numbers), `clock`, `hostname`, `machine_id`, `boot_id`, `token`
    """

    def __init__(self, client: Client, answer: SandboxAnswer) -> None:
        """Use `create` or `connect`."""
        self.id = answer.id
        self.client = client
        self.traffic_token = answer.traffic_token
        self.renewed: tuple[str, ...] = ()
        self._held = True
        self._envd = Envd(client, answer.id, answer.envd_access_token)
        self.commands = Commands(self._envd)
        self.files = Files(self._envd)

    @classmethod
    def create(
        cls,
        template: str = "minimal",
        *,
        timeout: float | None = None,
        envs: Mapping[str, str] | None = None,
        metadata: Mapping[str, str] | None = None,
        vcpus: int | None = None,
        memory_mb: int | None = None,
        disk_mb: int | None = None,
        on_timeout: OnTimeout = "kill",
        pause_memory: bool = True,
        auto_resume: bool = False,
        activity: Collection[Activity] | None = None,
        network: Network | None = None,
        private: bool = False,
        mask_host: str | None = None,
        api_key: str | None = None,
        base_url: str | None = None,
        proxy_domain: str | None = None,
        client: Client | None = None,
    ) -> Self:
        """Makes a sandbox and gives it when it is ready for use.

        :param template: what it starts from
        :param timeout: seconds until it ends by itself (`on_timeout` says how, `activity` what puts it off); None: never
        :param envs: environment of every command in it
        :param metadata: labels of yours, to find it again with `list`
        :param vcpus: 1 to 32; memory and disk in MiB. What is not given takes the server's default
        :param pause_memory: what a pause at the timeout keeps; False: the disk alone, so that the resume boots
        :param auto_resume: requests to its ports wake it when it is paused, and wait for that
        :param activity: what puts off the timeout, so that it ends `timeout` seconds after the last of it: `api` (its
            commands and files are used), `traffic` (requests and connections to its ports), `terminal` (somebody is attached
            to one), `command` (one runs, in the background as well). None: `api` and `traffic`; empty: nothing
        :param network: what it may reach; None: the public internet
        :param private: requests to its ports must carry its `traffic_token`
        :param mask_host: what its ports are told as the Host of requests, e.g. `localhost:${PORT}`
        :param client: connection to use; otherwise one is made of `api_key`, `base_url` and `proxy_domain`, or of
            `WRENN_API_KEY`, `WRENN_BASE_URL` and `WRENN_PROXY_DOMAIN`, and shared
        :raises ConfigError: no API key
        :raises ServerUnreachableError: nothing answers at the base URL
        :raises UnauthorizedError: the key is wrong
        :raises TemplateNotFoundError: there is no such template
        :raises InvalidRequestError: a size is out of bounds
        :raises UnavailableError: no host has room
        """
        request = CreateRequest(
            template=template,
            timeout_sec=_seconds(timeout),
            envs=dict(envs or {}),
            metadata=dict(metadata or {}),
            vcpus=vcpus,
            memory_mb=memory_mb,
            disk_mb=disk_mb,
            on_timeout=on_timeout,
            pause_memory=pause_memory,
            auto_resume=auto_resume,
            activity=None if activity is None else tuple(activity),
            network=network,
            private=private,
            mask_host=mask_host,
        )
        client = _client(client, api_key, base_url, proxy_domain)
        with _released_on_error(client):
            answer = client.transport.call(
                "POST",
                "/v1/sandboxes",
                SandboxAnswer,
                request,
                timeout=client.config.timeouts.lifecycle,
                not_found=TemplateNotFoundError,
            )
            return cls(client, answer)

    @classmethod
    def connect(
        cls,
        sandbox_id: str,
        *,
        api_key: str | None = None,
        base_url: str | None = None,
        proxy_domain: str | None = None,
        client: Client | None = None,
    ) -> Self:
        """A sandbox that exists already, e.g. one that another program made. Changes nothing about it: its timeout
        stays, and a paused one stays paused.

        :raises SandboxNotFoundError: there is none of that id
        """
        client = _client(client, api_key, base_url, proxy_domain)
        with _released_on_error(client):
            answer = client.transport.call(
                "GET",
                _path(sandbox_id),
                SandboxAnswer,
                idempotent=True,
                not_found=SandboxNotFoundError,
            )
            return cls(client, answer)

    @classmethod
    def list(
        cls,
        *,
        status: str | Collection[str] | None = None,
        metadata: Mapping[str, str] | None = None,
        limit: int | None = None,
        api_key: str | None = None,
        base_url: str | None = None,
        proxy_domain: str | None = None,
        client: Client | None = None,
    ) -> list[SandboxInfo]:
        """Your team's sandboxes, newest first; failed and killed ones only if `status` asks for them.

        ```python
        for info in Sandbox.list(status="running", metadata={"job": "7"}):
            print(info.id, info.created_at)
        ```

        :param metadata: only those that have all of these labels
        :param limit: at most so many; None for all
        """
        query: dict[str, str | list[str]] = {}
        if status is not None:
            query["status"] = status if isinstance(status, str) else ",".join(status)
        if metadata:
            query["metadata"] = [f"{key}={value}" for key, value in metadata.items()]
        found: list[SandboxInfo] = []
        client = _client(client, api_key, base_url, proxy_domain)
        try:
            while limit is None or len(found) < limit:
                query["limit"] = str(PAGE if limit is None else min(PAGE, limit - len(found)))
                body, headers = client.transport.fetch("GET", "/v1/sandboxes", params=query, idempotent=True)
                found += decode(body, list[SandboxInfo])
                cursor = headers.get("x-next-cursor")
                if not cursor:
                    break
                query["cursor"] = cursor
        finally:
            client.release()
        return found if limit is None else found[:limit]

    def info(self) -> SandboxInfo:
        """What the platform knows about it now.

        :raises SandboxNotFoundError: it was killed
        """
        answer = self.client.transport.call(
            "GET", _path(self.id), SandboxAnswer, idempotent=True, not_found=SandboxNotFoundError
        )
        self._envd.token = answer.envd_access_token or self._envd.token
        return answer.info()

    def is_running(self) -> bool:
        try:
            return (self.info()).status == "running"
        except SandboxNotFoundError:
            return False

    def pause(self, *, memory: bool = True) -> SandboxInfo:
        """Saves memory and disk and stops it; `resume` continues every process where it was.

        :param memory: False: the disk alone, which is faster and smaller; programs end, and the resume boots
        :raises ConflictError: it is not running
        """
        return self._lifecycle("pause", None if memory else PauseRequest(memory))

    def resume(self, *, timeout: float | None = None, memory: bool = True) -> SandboxInfo:
        """Continues a paused sandbox.

        :param timeout: seconds from now until it ends by itself; None: as before the pause
        :param memory: False: boot from the disk even if memory was saved
        :raises ConflictError: it is not paused
        """
        return self._lifecycle(
            "resume", ResumeRequest(None if timeout is None else _seconds(timeout), memory)
        )

    def snapshot(self, name: str | None = None, *, memory: bool = True) -> SnapshotInfo:
        """Saves this running sandbox, which goes on, to `rollback` to or to `create` others from.

        ```python
        before = sandbox.snapshot()
        sandbox.commands.run("make install")
        sandbox.rollback(before)
        ```

        :param name: `name` or `name:tag` that leads to it from now on
        :param memory: False: the disk alone, so that what starts from it boots
        :raises ConflictError: it is not running
        """
        return self.client.transport.call(
            "POST",
            _path(self.id, "snapshots"),
            SnapshotInfo,
            SnapshotRequest(name, memory),
            timeout=self.client.config.timeouts.lifecycle,
            not_found=SandboxNotFoundError,
        )

    def rollback(self, snapshot: SnapshotInfo | str) -> SandboxInfo:
        """Goes back to a snapshot of this sandbox: memory, processes and disk are those of then, id and URLs stay. A
        paused one resumes from it. What was done since is gone; when it fails, nothing is.

        :param snapshot: what `snapshot` gave, or its id, `name` or `name:tag`
        :raises InvalidRequestError: it is of another sandbox
        :raises ConflictError: it is neither running nor paused
        """
        reference = snapshot if isinstance(snapshot, str) else snapshot.id
        return self._lifecycle("rollback", RollbackRequest(reference))

    def fork(
        self,
        count: int = 1,
        *,
        timeout: float | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> list[Self]:
        """Copies of this running sandbox, with its memory, processes and disk, that go on independently.

        :param count: 1 to 100
        :param timeout: seconds from now until each ends by itself; None: as this one
        :param metadata: labels of the copies; None: as this one
        :raises ForkError: some of them failed; it has those that did not
        """
        answer = self.client.transport.call(
            "POST",
            _path(self.id, "fork"),
            list[Fork],
            ForkRequest(
                count=count,
                timeout_sec=None if timeout is None else _seconds(timeout),
                metadata=None if metadata is None else dict(metadata),
            ),
            timeout=self.client.config.timeouts.lifecycle,
            not_found=SandboxNotFoundError,
        )
        forks: list[Self] = []
        for fork in answer:
            if fork.sandbox:
                forks.append(type(self)(self.client.acquire(), fork.sandbox))
                forks[-1].renewed = fork.renewed
        errors = [from_connect(fork.error.code, fork.error.message) for fork in answer if fork.error]
        if errors:
            raise ForkError(f"{len(errors)} of {count} forks failed: {errors[0].message}", forks, errors)
        if len(forks) != count:
            raise ProtocolError(f"{count} forks were asked for, {len(forks)} came")
        return forks

    def set_timeout(self, timeout: float | None) -> SandboxInfo:
        """Seconds from now until it ends by itself, in place of what was set before; None: never."""
        return self._change("timeout", TimeoutRequest(_seconds(timeout)))

    def set_network(self, network: Network) -> SandboxInfo:
        """Changes what it may reach, in place of all that was; in force when this returns, for connections that are open
        too. Of a paused one when it resumes."""
        return self._change("network", network, method="PUT")

    def metrics(self, *, start: datetime | None = None, end: datetime | None = None) -> list[Sample]:
        """What it used, sampled every few seconds and kept for a week, also when it has ended; oldest first. At most
        1,000 samples, evenly spread over the range.

        :param start: None: since its creation, or without `end` for the last ten minutes
        :param end: None: until now
        """
        range_ = {name: str(int(at.timestamp())) for name, at in (("start", start), ("end", end)) if at}
        answer = self.client.transport.call(
            "GET",
            _path(self.id, "metrics"),
            MetricsAnswer,
            params=range_,
            idempotent=True,
            not_found=SandboxNotFoundError,
        )
        return [point.sample() for point in answer.points]

    def kill(self) -> bool:
        """Ends it, in whatever state it is; everything in it is lost. False when it was gone already."""
        try:
            self.client.transport.call(
                "DELETE", _path(self.id), NoneType, idempotent=True, not_found=SandboxNotFoundError
            )
        except SandboxNotFoundError:
            return False
        finally:
            self.close()
        return True

    def close(self) -> None:
        """Lets go of the connection; the sandbox lives on. Not needed after `kill` or a `with` block."""
        if self._held:
            self._held = False
            self.client.release()

    def get_host(self, port: int) -> str:
        """The public host name of a port of the sandbox."""
        if not 1 <= port <= 65535:
            raise ValueError(f"{port} is not a port")
        return f"{port}-{self.id}.{self.client.config.proxy_domain}"

    def url(self, port: int) -> str:
        """The public URL of a server in the sandbox that listens on this port.

        ```python
        sandbox.commands.run("python3 -m http.server 8080", background=True, timeout=None)
        print(sandbox.url(8080))
        ```
        """
        return f"{self.client.config.scheme}://{self.get_host(port)}"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        try:
            self.kill()
        except WrennError as failure:
            if exc is None:
                raise
            exc.add_note(f"and sandbox {self.id} could not be killed: {failure}")

    def __repr__(self) -> str:
        return f"<Sandbox {self.id}>"

    def _lifecycle(self, verb: str, request: object) -> SandboxInfo:
        return self._change(verb, request, timeout=self.client.config.timeouts.lifecycle)

    def _change(
        self, verb: str, request: object, *, method: str = "POST", timeout: float | None = None
    ) -> SandboxInfo:
        answer = self.client.transport.call(
            method,
            _path(self.id, verb),
            SandboxAnswer,
            request,
            timeout=timeout,
            not_found=SandboxNotFoundError,
        )
        self._envd.token = answer.envd_access_token or self._envd.token
        return answer.info()


def _client(
    client: Client | None, api_key: str | None, base_url: str | None, proxy_domain: str | None
) -> Client:
    if client is not None:
        return client.acquire()
    return Client.shared(api_key=api_key, base_url=base_url, proxy_domain=proxy_domain)


@contextmanager
def _released_on_error(client: Client) -> Generator[None]:
    try:
        yield
    except BaseException:
        client.release()
        raise


def _path(sandbox_id: str, verb: str | None = None) -> str:
    # Whatever stands in an id must not become a path of its own.
    if not (sandbox_id.isascii() and sandbox_id.isalnum()):
        raise SandboxNotFoundError(f"{sandbox_id!r} is not the id of a sandbox")
    return f"/v1/sandboxes/{sandbox_id}" + (f"/{verb}" if verb else "")


def _seconds(timeout: float | None) -> int:
    """0 is the server's word for never; a fraction is rounded up, so that it does not become that."""
    return 0 if timeout is None else math.ceil(timeout)
