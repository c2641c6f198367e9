"""A client for `/v1/capsules` that checks what the published SDK relies on in every answer."""

from datetime import datetime
from typing import Any

import httpx2

CODES = {
    "invalid_request", "unauthorized", "forbidden", "not_found", "invalid_state", "conflict", "host_unavailable",
    "agent_error", "internal_error", "pool_exhausted",
}  # fmt: skip
"""For which it has exceptions; and one more."""
STATUSES = {
    "pending", "starting", "running", "pausing", "paused", "snapshotting", "resuming", "stopping", "hibernated",
    "stopped", "missing", "error",
}  # fmt: skip


class Capsules:
    def __init__(self, http: httpx2.AsyncClient, headers: dict[str, str]) -> None:
        self._http = http
        self._headers = headers

    def with_headers(self, **headers: str) -> "Capsules":
        return Capsules(self._http, {name.replace("_", "-"): value for name, value in headers.items()})

    async def get(self, path: str, **options: Any) -> httpx2.Response:
        return await self.request("GET", path, **options)

    async def post(self, path: str, body: Any = None, **options: Any) -> httpx2.Response:
        if body is not None:
            options["json"] = body
        return await self.request("POST", path, **options)

    async def delete(self, path: str, **options: Any) -> httpx2.Response:
        return await self.request("DELETE", path, **options)

    async def request(
        self, method: str, path: str, *, headers: dict[str, str] | None = None, **options: Any
    ) -> httpx2.Response:
        response = await self._http.request(
            method, path, headers={**self._headers, **(headers or {})}, **options
        )
        assert response.headers.get("x-request-id")
        if response.status_code >= 400:
            check_error(response)
        return response

    async def new(self, **wanted: Any) -> dict[str, Any]:
        response = await self.post("/v1/capsules", wanted)
        assert response.status_code == 202, response.text
        return check_capsule(response.json())


def check_error(response: httpx2.Response) -> None:
    error = response.json()["error"]
    assert error["message"]
    assert error["request_id"] == response.headers["x-request-id"]
    if response.status_code in (400, 401, 403, 404, 409, 500, 502, 503, 504):
        assert error["code"] in CODES, response.text


def check_capsule(capsule: dict[str, Any]) -> dict[str, Any]:
    assert capsule["status"] in STATUSES
    assert all(isinstance(value, str) for value in capsule["metadata"].values())
    for name in ("created_at", "started_at", "last_active_at", "last_updated"):
        if name in capsule:
            assert datetime.fromisoformat(capsule[name]).tzinfo is not None
    return capsule
