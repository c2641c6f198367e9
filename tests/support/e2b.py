"""A client for the paths of E2B's API that checks what its SDKs rely on in every answer."""

from typing import Any
from urllib.parse import quote

import httpx2

from support.simulated import World


class E2b:
    """
    :ivar check: False for what is sent by purpose to get an answer that is not the facade's
    """

    def __init__(self, http: httpx2.AsyncClient, headers: dict[str, str]) -> None:
        self._http = http
        self._headers = headers

    async def get(self, path: str, **options: Any) -> httpx2.Response:
        return await self.request("GET", path, **options)

    async def post(self, path: str, body: Any = None, **options: Any) -> httpx2.Response:
        if body is not None:
            options["json"] = body
        return await self.request("POST", path, **options)

    async def put(self, path: str, body: Any, **options: Any) -> httpx2.Response:
        return await self.request("PUT", path, json=body, **options)

    async def delete(self, path: str, **options: Any) -> httpx2.Response:
        return await self.request("DELETE", path, **options)

    async def request(
        self, method: str, path: str, *, headers: dict[str, str] | None = None, **options: Any
    ) -> httpx2.Response:
        response = await self._http.request(
            method, path, headers={**self._headers, **(headers or {})}, **options
        )
        check(response)
        return response

    async def new(self, **wanted: Any) -> dict[str, Any]:
        """A sandbox, from `base` unless told otherwise."""
        response = await self.post("/v2/sandboxes", {"templateID": "base", **wanted})
        assert response.status_code == 201, response.text
        return response.json()


def check(response: httpx2.Response) -> None:
    assert response.headers.get("x-request-id")
    if response.status_code == 204:
        assert response.content == b""
        return
    assert response.headers["content-type"] == "application/json", response.text
    body = response.json()
    if response.status_code >= 400:
        assert body["code"] == response.status_code
        assert isinstance(body["message"], str)
        assert body["message"]
        assert set(body) <= {"code", "message", "error_code"}
        if response.status_code in (429, 502, 503, 504):
            assert response.headers["should-retry"] in ("true", "false")
        if response.headers.get("should-retry") == "true":
            assert int(response.headers["retry-after"]) >= 1


def client(world: World, http: httpx2.AsyncClient, key: str | None = None) -> E2b:
    digits = (key or world.admin.api_key).removeprefix("wrn_")
    return E2b(http, {"X-API-KEY": f"e2b_{digits}"})


def segment(text: str) -> str:
    """As the SDKs put a name into a path."""
    return quote(text, safe="")
