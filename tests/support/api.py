"""A client for the native API that checks every request and answer against `api/openapi.json`."""

import json
import re
from pathlib import Path
from typing import Any

import httpx2
from jsonschema import Draft202012Validator, FormatChecker
from referencing import Registry, Resource

DESCRIPTION: dict[str, Any] = json.loads(
    (Path(__file__).resolve().parents[2] / "api/openapi.json").read_text()
)
_URN = "urn:wrenn:api"
_REGISTRY: Registry[Any] = Registry().with_resource(
    _URN, Resource.from_contents({"$schema": "https://json-schema.org/draft/2020-12/schema", **DESCRIPTION})
)
_PATHS = [(re.compile(re.sub(r"\{\w+\}", "[^/]+", path)), path) for path in DESCRIPTION["paths"]]


class Client:
    """Like httpx2's, for one credential. Requests that are meant to be wrong are sent with `wrong=True`."""

    def __init__(self, http: httpx2.AsyncClient, headers: dict[str, str] | None = None) -> None:
        self._http = http
        self.headers = headers or {}

    def with_key(self, key: str) -> "Client":
        return Client(self._http, {"X-API-Key": key})

    def with_token(self, token: str) -> "Client":
        return Client(self._http, {"Authorization": f"Bearer {token}"})

    def with_headers(self, **headers: str) -> "Client":
        return Client(self._http, {name.replace("_", "-"): value for name, value in headers.items()})

    def anonymous(self) -> "Client":
        return Client(self._http)

    async def get(self, path: str, **options: Any) -> httpx2.Response:
        return await self.request("GET", path, **options)

    async def post(self, path: str, body: Any = None, **options: Any) -> httpx2.Response:
        if body is not None:
            options["json"] = body
        return await self.request("POST", path, **options)

    async def patch(self, path: str, body: Any = None, **options: Any) -> httpx2.Response:
        if body is not None:
            options["json"] = body
        return await self.request("PATCH", path, **options)

    async def put(self, path: str, body: Any, **options: Any) -> httpx2.Response:
        return await self.request("PUT", path, json=body, **options)

    async def delete(self, path: str, **options: Any) -> httpx2.Response:
        return await self.request("DELETE", path, **options)

    async def raw(self, method: str, path: str, **options: Any) -> httpx2.Response:
        """Without a look at the description: for paths that are not in it."""
        return await self._http.request(method, path, **options)

    async def request(
        self,
        method: str,
        path: str,
        *,
        wrong: bool = False,
        headers: dict[str, str] | None = None,
        **options: Any,
    ) -> httpx2.Response:
        if "json" in options and not wrong:
            check_request(method, path, options["json"])
        response = await self._http.request(
            method, path, headers={**self.headers, **(headers or {})}, **options
        )
        check_response(method, path, response)
        return response


def check_request(method: str, path: str, body: Any) -> None:
    template = _template(path)
    schema = f"{_pointer(template, method)}/requestBody/content/application~1json/schema"
    _validate(schema, body)


def check_response(method: str, path: str, response: httpx2.Response) -> None:
    """Status documented, body as documented, `X-Request-Id` there; every error a problem."""
    assert response.headers.get("x-request-id"), f"{method} {path} has no X-Request-Id"
    if response.status_code >= 400:
        body = response.json()
        _validate("#/components/schemas/Problem", body)
        assert body["error"]["request_id"] == response.headers["x-request-id"]
        return
    template = _template(path)
    operation = DESCRIPTION["paths"][template][method.lower()]
    status = str(response.status_code)
    assert status in operation["responses"], f"{method} {template} answered {status}, which is not documented"
    content = operation["responses"][status].get("content", {})
    if "application/json" in content:
        _validate(
            f"{_pointer(template, method)}/responses/{status}/content/application~1json/schema",
            response.json(),
        )
    elif not content:
        assert response.content == b"", f"{method} {template} answered {status} with a body"


def _template(path: str) -> str:
    bare = path.partition("?")[0]
    # A fixed word wins over a parameter, as in `/v1/hosts/register`.
    found = [template for pattern, template in _PATHS if pattern.fullmatch(bare)]
    assert found, f"{bare} is not in the description"
    return min(found, key=lambda template: template.count("{"))


def _pointer(template: str, method: str) -> str:
    escaped = template.replace("~", "~0").replace("/", "~1").replace("{", "%7B").replace("}", "%7D")
    return f"#/paths/{escaped}/{method.lower()}"


def _validate(pointer: str, value: Any) -> None:
    validator = Draft202012Validator(
        {"$ref": f"{_URN}{pointer}"}, registry=_REGISTRY, format_checker=FormatChecker()
    )
    validator.validate(value)
