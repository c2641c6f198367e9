"""The agent's calls to the control plane: one short request on a connection of its own."""

import asyncio
import ssl
from urllib.parse import urlsplit

import msgspec

from wrenn_server.wire import http1, problems, stream

ANSWER_LIMIT = 1024 * 1024


class ControlPlane:
    """:param url: AGENT_CP_URL, `http://HOST:PORT` or `https://HOST`, perhaps with a path"""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self.url = url
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._host = parts.hostname or ""
        self._port = parts.port or (443 if self._tls else 80)
        self._name = parts.netloc
        self._prefix = parts.path

    async def post(
        self, path: str, value: msgspec.Struct, *, timeout: float, token: str | None = None
    ) -> bytes:
        """The body of a successful answer.

        :raises WrennError: the control plane's own refusal; :raises OSError: :raises TimeoutError:"""
        headers = [("Content-Type", "application/json")]
        if token is not None:
            headers.append(("X-Host-Token", token))
        async with asyncio.timeout(timeout):
            connected = await stream.connect_tcp(
                self._host, self._port, ssl=self._tls, server_hostname=self._host if self._tls else None
            )
            try:
                async with http1.Connection(connected, host=self._name) as connection:
                    response = await connection.request(
                        "POST", self._prefix + path, headers=headers, body=msgspec.json.encode(value)
                    )
                    body = await response.read(limit=ANSWER_LIMIT)
            except http1.TooMuch as error:
                raise http1.Broken(f"{self.url} does not answer as a control plane does") from error
        if not 200 <= response.status < 300:
            raise problems.decode(response.status, body)
        return body
