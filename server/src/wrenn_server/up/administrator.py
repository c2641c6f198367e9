"""Calls to a platform as its administrator: the one in the environment, or in the file that `wrenn up` wrote."""

import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import httpx2

from wrenn_server.up import environment
from wrenn_server.up.settings import Settings

_TIMEOUT = 30.0


class Refused(Exception):
    """The message says what the platform answered, or what is missing."""


@asynccontextmanager
async def signed_in(
    settings: Settings, *, timeout: float = _TIMEOUT
) -> AsyncGenerator[httpx2.AsyncClient, None]:
    """:raises Refused:"""
    known = {**environment.read(settings.env_file), **os.environ}
    missing = [name for name in ("WRENN_ADMIN_EMAIL", "WRENN_ADMIN_PASSWORD") if not known.get(name)]
    if missing:
        raise Refused(f"{' and '.join(missing)} not set, and not in {settings.env_file}")
    url = known.get("WRENN_BASE_URL") or settings.base_url
    async with httpx2.AsyncClient(base_url=url, timeout=timeout, trust_env=False) as client:
        who = {"email": known["WRENN_ADMIN_EMAIL"], "password": known["WRENN_ADMIN_PASSWORD"]}
        token = (await ask(client, "POST", "/v1/auth/login", json=who))["token"]
        client.headers["Authorization"] = f"Bearer {token}"
        yield client


async def ask(client: httpx2.AsyncClient, method: str, path: str, **options: Any) -> Any:
    """The answer's JSON; None: it has none. :raises Refused:"""
    answer = await _asked(client, method, path, **options)
    return answer.json() if answer.content else None


async def ask_all(client: httpx2.AsyncClient, path: str) -> list[Any]:
    """What all pages of a list have. :raises Refused:"""
    found: list[Any] = []
    query = {"limit": "1000"}
    while True:
        answer = await _asked(client, "GET", path, params=query)
        found += answer.json()
        if (following := answer.headers.get("x-next-cursor")) is None:
            return found
        query["cursor"] = following


async def _asked(client: httpx2.AsyncClient, method: str, path: str, **options: Any) -> httpx2.Response:
    try:
        answer = await client.request(method, path, **options)
    except httpx2.HTTPError as error:
        raise Refused(f"{client.base_url} cannot be reached: {error}") from error
    if answer.status_code >= 400:
        try:
            error = answer.json()["error"]
            raise Refused(": ".join(filter(None, (error["message"], error.get("hint")))))
        except (ValueError, KeyError, TypeError) as unclear:
            raise Refused(f"{method} {path} was answered with {answer.status_code}") from unclear
    return answer
