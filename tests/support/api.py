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
    validate(schema, body)


def check_response(method: str, path: str, response: httpx2.Response) -> None:
    """Status documented, body as documented, `X-Request-Id` there; every error a problem, with a code that is documented."""
    assert response.headers.get("x-request-id"), f"{method} {path} has no X-Request-Id"
    status = str(response.status_code)
    if response.status_code >= 400:
        body = response.json()
        validate("#/components/schemas/Problem", body)
        assert body["error"]["request_id"] == response.headers["x-request-id"]
        codes = _codes(method, path, status)
        assert body["error"]["code"] in codes, f"{method} {path}: {status} {body} is not documented"
        return
    template = _template(path)
    operation = DESCRIPTION["paths"][template][method.lower()]
    assert status in operation["responses"], f"{method} {template} answered {status}, which is not documented"
    answer = operation["responses"][status]
    content = answer.get("content", {})
    if "application/json" in content:
        validate(
            f"{_pointer(template, method)}/responses/{status}/content/application~1json/schema",
            response.json(),
        )
    elif not content:
        assert response.content == b"", f"{method} {template} answered {status} with a body"


def _codes(method: str, path: str, status: str) -> list[str]:
    """Of problems; also of what is no operation."""
    if not _templates(path):
        return ["not_found"]
    operation = DESCRIPTION["paths"][_template(path)].get(method.lower())
    if operation is None:
        return ["method_not_allowed"]
    return resolved(operation["responses"].get(status, {"x-codes": []}))["x-codes"]


def resolved(answer: dict[str, Any]) -> dict[str, Any]:
    """One of `responses` that may be a reference to one that many have."""
    if "$ref" in answer:
        return DESCRIPTION["components"]["responses"][answer["$ref"].rpartition("/")[2]]
    return answer


def _templates(path: str) -> list[str]:
    bare = path.partition("?")[0]
    return [template for pattern, template in _PATHS if pattern.fullmatch(bare)]


def _template(path: str) -> str:
    found = _templates(path)
    assert found, f"{path} is not in the description"
    # A fixed word wins over a parameter, as in `/v1/hosts/register`.
    return min(found, key=lambda template: template.count("{"))


def _pointer(template: str, method: str) -> str:
    escaped = template.replace("~", "~0").replace("/", "~1").replace("{", "%7B").replace("}", "%7D")
    return f"#/paths/{escaped}/{method.lower()}"


def validate(pointer: str, value: Any) -> None:
    validator = Draft202012Validator(
        {"$ref": f"{_URN}{pointer}"}, registry=_REGISTRY, format_checker=FormatChecker()
    )
    validator.validate(value)
