"""What types cannot tell about an operation, for its description: its problems, and an example.

`problems.json` has the codes by operation and status, `examples.json` a request and its answer. Both hold answers that were
given: the client of the tests refuses a problem that is not described, and each example is checked against its schema.
"""

import http
import json
from collections.abc import Iterable
from importlib import resources
from typing import Any, cast

from wrenn_server.model.errors import BY_STATUS

EVERY: dict[int, tuple[str, ...]] = {
    400: ("invalid_request",),
    431: ("unsupported",),
    500: ("internal_error",),
    503: ("database_unavailable", "overloaded", "stopping"),
}
SECURED = {
    401: ("invalid_api_key", "session_ended", "token_expired", "unauthorized"),
    403: ("account_disabled", "csrf", "forbidden", "role_required", "scope_required"),
}
BY_HOSTS = {401: ("host_removed", "token_replaced", "unauthorized"), 403: ("forbidden",)}
"""With a host's token."""
SENT = {413: ("too_large",), 415: ("unsupported_media_type",)}
"""With a body."""
ONCE = {400: ("invalid_idempotency_key",), 409: ("idempotency_key_in_use", "idempotency_key_reused")}
"""With an `Idempotency-Key`."""

NAMED = {
    "host_id": "host_not_found",
    "provider": "provider_not_found",
    "sandbox_id": "sandbox_not_found",
    "snapshot_id": "snapshot_not_found",
}
"""A 404 by what is in its path; beside `not_found`, which all have."""
COMMANDED: dict[int, tuple[str, ...]] = {
    409: ("invalid_state",),
    500: ("agent_error",),
    502: ("guest_error",),
    503: (
        "disk_arriving", "disk_full", "emulated_tenants", "fetch_failed", "host_unavailable", "no_hosts_available",
        "no_object_store", "no_slots", "snapshot_not_stored", "store_unavailable",
    ),
    504: ("timed_out",),
}  # fmt: skip
"""What a sandbox's host, or the lack of one, may add to `COMMANDS`."""
COMMANDS = frozenset({
    "createSandbox", "createSnapshot", "forkSandbox", "killSandbox", "pauseSandbox", "restoreSandbox",
    "resumeSandbox", "rollbackSandbox", "setSandboxNetwork", "setSandboxTimeout",
})  # fmt: skip
ASKED = {
    409: ("invalid_state",),
    502: ("guest_error", "guest_unreachable"),
    503: ("guest_unresponsive", "host_unavailable"),
    504: ("timed_out",),
}
"""What a guest, or the way to it, may add to `QUESTIONS`."""
QUESTIONS = frozenset({"exec", "killProcess", "listFiles", "listProcesses", "readFile", "writeFile"})

_HOSTS: list[dict[str, list[str]]] = [{"host": []}]


def _data(name: str) -> dict[str, Any]:
    return json.loads((resources.files("wrenn_server.controlplane.api") / name).read_text())


_PROBLEMS = _data("problems.json")
OWN = cast("dict[str, dict[str, list[str]]]", _PROBLEMS["operations"])
"""Codes by operation and status, beside those of its kind."""
PROBLEM_EXAMPLES = cast("dict[str, dict[str, Any]]", _PROBLEMS["examples"])
"""By code."""
EXAMPLES = cast("dict[str, dict[str, Any]]", _data("examples.json"))
"""`request` and `response` by operation."""


def problems_of(operation: dict[str, Any], *, once: bool) -> dict[int, list[str]]:
    """Codes by status.

    :param once: it takes an `Idempotency-Key`
    """
    found: dict[int, set[str]] = {}
    security = operation.get("security")
    named = [one["name"] for one in operation.get("parameters", ()) if one["in"] == "path"]
    own = {int(status): codes for status, codes in OWN.get(operation["operationId"], {}).items()}
    for part, applies in (
        (EVERY, True),
        (SECURED, bool(security) and security != _HOSTS),
        (BY_HOSTS, security == _HOSTS),
        (SENT, "requestBody" in operation),
        (ONCE, once),
        ({404: ["not_found", *(NAMED[name] for name in named if name in NAMED)]}, bool(named)),
        (COMMANDED, operation["operationId"] in COMMANDS),
        (ASKED, operation["operationId"] in QUESTIONS),
        (own, True),
    ):
        for status, codes in part.items() if applies else ():
            found.setdefault(status, set()).update(codes)
    return {status: sorted(codes) for status, codes in sorted(found.items())}


def shared() -> dict[str, Any]:
    """Responses by name, for `components`: those that most operations have."""
    return {
        _name(status): response(status, codes)
        for part in (EVERY, SECURED, SENT)
        for status, codes in part.items()
    }


def responses(codes: dict[int, list[str]]) -> dict[str, Any]:
    common = {**EVERY, **SECURED, **SENT}
    return {
        str(status): {"$ref": f"#/components/responses/{_name(status)}"}
        if tuple(words) == common.get(status)
        else response(status, words)
        for status, words in codes.items()
    }


def response(status: int, codes: Iterable[str]) -> dict[str, Any]:
    """`x-codes` for programs: all that `error.code` can be."""
    retryable = BY_STATUS[status].retryable_by_default if status in BY_STATUS else False
    made: dict[str, Any] = {
        "description": f"{http.HTTPStatus(status).phrase}: {', '.join(f'`{code}`' for code in codes)}",
        "content": {
            "application/json": {
                "schema": {"$ref": "#/components/schemas/Problem"},
                "examples": {code: {"$ref": f"#/components/examples/{code}"} for code in codes},
            }
        },
        "x-codes": list(codes),
    }
    if retryable:
        made["headers"] = {"Retry-After": {"schema": {"type": "integer"}, "description": "Seconds"}}
    return made


def examples() -> dict[str, Any]:
    """Of problems, for `components`."""
    return {
        code: {"value": {"error": {"code": code, **problem, "request_id": "req_0123456789abcdef0123"}}}
        for code, problem in PROBLEM_EXAMPLES.items()
    }


def _name(status: int) -> str:
    return http.HTTPStatus(status).phrase.replace(" ", "")
