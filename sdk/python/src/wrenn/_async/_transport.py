"""HTTP to the platform: one pool of connections for everything that a client does."""

from __future__ import annotations

import socket
from collections.abc import AsyncGenerator, AsyncIterable, Mapping
from contextlib import asynccontextmanager
from typing import TypeVar

import httpx2
import msgspec

from wrenn import _version
from wrenn._concurrency import AsyncLock, async_sleep
from wrenn._wire import MAX_ANSWER, decode
from wrenn.config import Config, proxy_for
from wrenn.errors import (
    ConnectionLostError,
    NotFoundError,
    ServerUnreachableError,
    TooLargeError,
    from_response,
    mapped,
)

T = TypeVar("T")

KEEP = 120.0
"""Seconds that an unused connection is kept. The platform keeps them for 320 s: the client must close first, or a
request may meet a connection that is just being closed."""
RETRY_AFTER = (0.1, 0.4)
"""Seconds before each further attempt."""
MAX_CONNECTIONS = 1000
Params = Mapping[str, str | list[str]]
_JSON = {"Content-Type": "application/json"}


class AsyncTransport:
    """Opens its connections at the first request; after `close` the next request opens new ones."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self._http: httpx2.AsyncClient | None = None
        self._lock = AsyncLock()

    async def call(
        self,
        method: str,
        path: str,
        answer: type[T],
        body: object = None,
        *,
        params: Params | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
        idempotent: bool = False,
        not_found: type[NotFoundError] = NotFoundError,
    ) -> T:
        """One JSON request and its JSON answer; `answer=type(None)` for an empty one.

        :param timeout: seconds without a byte; the config's `request` when not given
        :param idempotent: may be repeated when a connection breaks
        """
        content = None if body is None else msgspec.json.encode(body)
        payload, _ = await self.fetch(
            method,
            path,
            content,
            params=params,
            headers={**_JSON, **(headers or {})} if content is not None else headers,
            timeout=timeout,
            idempotent=idempotent,
            not_found=not_found,
        )
        return decode(payload or b"null", answer)

    async def fetch(
        self,
        method: str,
        path: str,
        content: bytes | AsyncIterable[bytes] | None = None,
        *,
        params: Params | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
        idempotent: bool = False,
        not_found: type[NotFoundError] = NotFoundError,
        limit: int = MAX_ANSWER,
    ) -> tuple[bytes, Mapping[str, str]]:
        """One request and the whole body and headers of its answer.

        :raises TooLargeError: the body is longer than `limit` bytes
        """
        for pause in (*RETRY_AFTER, None):
            try:
                async with self.stream(
                    method,
                    path,
                    content,
                    params=params,
                    headers=headers,
                    timeout=self.config.timeouts.request if timeout is None else timeout,
                    not_found=not_found,
                ) as response:
                    with mapped(f"{method} {path}", self.config.base_url):
                        return await _bounded(response, limit), response.headers
            except ServerUnreachableError:  # nothing was sent: any request may be repeated
                if pause is None or (content is not None and not isinstance(content, bytes)):
                    raise
            except ConnectionLostError:
                if pause is None or not idempotent:
                    raise
            await async_sleep(pause)
        raise AssertionError("unreachable")

    @asynccontextmanager
    async def stream(
        self,
        method: str,
        path: str,
        content: bytes | AsyncIterable[bytes] | None = None,
        *,
        params: Params | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float,
        not_found: type[NotFoundError] = NotFoundError,
    ) -> AsyncGenerator[httpx2.Response]:
        """A request whose answer is read piece by piece; see `open`."""
        response = await self.open(
            method, path, content, params=params, headers=headers, timeout=timeout, not_found=not_found
        )
        try:
            yield response
        finally:
            await response.aclose()

    async def open(
        self,
        method: str,
        path: str,
        content: bytes | AsyncIterable[bytes] | None = None,
        *,
        params: Params | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float,
        not_found: type[NotFoundError] = NotFoundError,
    ) -> httpx2.Response:
        """Sends a request and gives the answer with its body still to be read; whoever gets it closes it.

        :raises ApiError: for any status but 2xx
        """
        http = await self._open()
        with mapped(f"{method} {path}", self.config.base_url):
            request = http.build_request(
                method,
                path,
                content=content,
                params=params,
                headers=headers,
                timeout=httpx2.Timeout(timeout, connect=self.config.timeouts.connect),
            )
            response = await http.send(request, stream=True)
            if response.is_success:
                return response
            try:
                body = await _bounded(response, MAX_ANSWER)
            finally:
                await response.aclose()
        raise from_response(response.status_code, response.headers, body, not_found=not_found)

    async def close(self) -> None:
        async with self._lock:
            http, self._http = self._http, None
        if http is not None:
            await http.aclose()

    async def _open(self) -> httpx2.AsyncClient:
        if self._http is not None:
            return self._http
        async with self._lock:
            if self._http is None:
                self._http = self._new()
            return self._http

    def _new(self) -> httpx2.AsyncClient:
        url = self.config.base_url
        transport = httpx2.AsyncHTTPTransport(
            verify=url.startswith("https:"),  # loading the certificates takes 30 ms
            proxy=proxy_for(url),
            limits=httpx2.Limits(
                max_connections=MAX_CONNECTIONS, max_keepalive_connections=100, keepalive_expiry=KEEP
            ),
            # Without it a request of two writes (head, body) waits for the delayed acknowledgement of the first.
            socket_options=[(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)],
        )
        return httpx2.AsyncClient(
            base_url=url,
            transport=transport,
            headers={
                "X-API-Key": self.config.api_key,
                "User-Agent": f"wrenn-python/{_version.VERSION}",
                # Packing costs the sandbox more than the bytes cost the link.
                "Accept-Encoding": "identity",
            },
        )


async def _bounded(response: httpx2.Response, limit: int) -> bytes:
    pieces: list[bytes] = []
    size = 0
    async for piece in response.aiter_raw():
        size += len(piece)
        if size > limit:
            raise TooLargeError(f"the answer is longer than {limit} bytes")
        pieces.append(piece)
    return b"".join(pieces)
