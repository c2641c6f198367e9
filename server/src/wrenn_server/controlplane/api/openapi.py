"""The description of the API, from the types of its handlers. `python -m wrenn_server.controlplane.api.openapi FILE`
writes it; a test compares it with the one checked in."""

import json
import sys
from pathlib import Path
from typing import Any

import msgspec
from litestar import Litestar
from litestar.openapi.config import OpenAPIConfig
from litestar.openapi.spec import Components, SecurityScheme

from wrenn_server.controlplane import (
    schema,
    schema_channels,
    schema_events,
    schema_hosts,
    schema_people,
    schema_pools,
    schema_usage,
)
from wrenn_server.controlplane.api import described, idempotency
from wrenn_server.controlplane.config import VERSION
from wrenn_server.wire import agent

CONFIG = OpenAPIConfig(
    title="Wrenn Sandbox",
    version=VERSION,
    description="Sandboxes in microVMs. Every error is a Problem, every answer has `X-Request-Id`.",
    path="/schema",
    use_handler_docstrings=True,
    create_examples=False,
    render_plugins=[],
    components=Components(
        security_schemes={
            "apiKey": SecurityScheme(type="apiKey", security_scheme_in="header", name="X-API-Key"),
            "user": SecurityScheme(type="http", scheme="bearer", bearer_format="JWT"),
            "session": SecurityScheme(
                type="apiKey",
                security_scheme_in="cookie",
                name="wrenn_session",
                description="Of browsers. What changes something needs `X-CSRF-Token`, too",
            ),
            "host": SecurityScheme(type="apiKey", security_scheme_in="header", name="X-Host-Token"),
        }
    ),
)

_PROBLEM = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["code", "message", "request_id"],
            "properties": {
                "code": {"type": "string", "description": "For programs; stable"},
                "message": {"type": "string", "description": "For people"},
                "hint": {"type": "string", "description": "What to do next"},
                "retryable": {"type": "boolean"},
                "request_id": {"type": "string"},
            },
        }
    },
}
_UPLOAD = {
    "type": "object",
    "required": ["path", "file"],
    "properties": {
        "path": {"type": "string", "description": "Comes before `file`"},
        "file": {"type": "string", "format": "binary"},
    },
}
_BINARY = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}


_PAGED = (
    "/v1/sandboxes",
    "/v1/snapshots",
    "/v1/events",
    "/v1/audit-logs",
    "/v1/admin/audit-logs",
    "/v1/channels/{channel_id}/deliveries",
    "/v1/pool/history",
    "/v1/hosts",
)


def describe(app: Litestar) -> dict[str, Any]:
    """OpenAPI 3.1. What Litestar cannot know from types is added here."""
    document: dict[str, Any] = app.openapi_schema.to_schema()
    document["components"]["schemas"] = {
        **_components(set(document["components"]["schemas"])),
        "Problem": _PROBLEM,
    }
    document["components"]["responses"] = described.shared()
    document["components"]["examples"] = described.examples()
    _name_keys(document["paths"])
    for path in document["paths"].values():
        for operation in path.values():
            operation["responses"].pop("400", None)
            operation["responses"].get("204", {}).pop("content", None)
            once = any(parameter["name"] == idempotency.NAME for parameter in operation.get("parameters", ()))
            operation["responses"] |= described.responses(described.problems_of(operation, once=once))
            _exemplify(operation, described.EXAMPLES.get(operation["operationId"], {}))
            if "requestBody" in operation and not _has_required_data(document, operation):
                operation["requestBody"]["required"] = False
    paths = document["paths"]
    paths["/v1/sandboxes/{sandbox_id}/files/write"]["post"]["requestBody"] = {
        "required": True,
        "content": {"multipart/form-data": {"schema": _UPLOAD}},
    }
    paths["/v1/sandboxes/{sandbox_id}/files/read"]["post"]["responses"]["200"]["content"] = _BINARY
    for path, kind in (
        ("/v1/events/stream", "text/event-stream"),
        ("/v1/audit-logs/export", "application/jsonl"),
    ):
        paths[path]["get"]["responses"]["200"]["content"] = {kind: {"schema": {"type": "string"}}}
    for path in _PAGED:
        paths[path]["get"]["responses"]["200"]["headers"] = {
            "X-Next-Cursor": {
                "schema": {"type": "string"},
                "description": "`cursor` of the next page, if there is one",
            }
        }
    return document


def _exemplify(operation: dict[str, Any], example: dict[str, Any]) -> None:
    if "request" in example:
        operation["requestBody"]["content"]["application/json"]["example"] = example["request"]
    if "response" in example:
        answers = (answer for status, answer in operation["responses"].items() if status.startswith("2"))
        next(answers)["content"]["application/json"]["example"] = example["response"]


def _name_keys(paths: dict[str, Any]) -> None:
    """The header that middleware reads, on all that have it, as the one handler names it that reads it itself."""
    posts = {path["post"]["operationId"]: path["post"] for path in paths.values() if "post" in path}
    known = posts[idempotency.BY_ITSELF]["parameters"]
    key = next(parameter for parameter in known if parameter["name"] == idempotency.NAME)
    for name, operation in posts.items():
        if name != idempotency.BY_ITSELF and name not in idempotency.EXCEPTIONS:
            operation.setdefault("parameters", []).append(key)


def _components(names: set[str]) -> dict[str, Any]:
    """By msgspec itself, which also does the checking: nothing that it refuses is missing here."""
    types = {
        name: value
        # Of two with one name, that of the API
        for module in (
            agent,
            schema_channels,
            schema_events,
            schema_hosts,
            schema,
            schema_people,
            schema_pools,
            schema_usage,
        )
        for name, value in vars(module).items()
        if name in names and value.__module__ == module.__name__
    }
    return msgspec.json.schema_components(types.values(), ref_template="#/components/schemas/{name}")[1]


def as_text(document: dict[str, Any]) -> str:
    return json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def _has_required_data(document: dict[str, Any], operation: dict[str, Any]) -> bool:
    content: dict[str, Any] = operation["requestBody"]["content"].get("application/json", {})
    return "oneOf" not in content.get("schema", {})


if __name__ == "__main__":
    from wrenn_server.controlplane.api.app import litestar

    Path(sys.argv[1]).write_text(as_text(describe(litestar(described=True))))
