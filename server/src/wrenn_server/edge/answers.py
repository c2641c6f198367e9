"""The edge's own answers. Source of the sandbox ones: E2B's proxy; its SDKs compare status and body."""

import html
from string import Template

import msgspec
from msgspec.structs import replace

from wrenn_server.edge.target import Answer
from wrenn_server.model.errors import WrennError
from wrenn_server.wire import problems
from wrenn_server.wire.problems import Problem

_REASONS = {
    101: "Switching Protocols",
    200: "OK",
    204: "No Content",
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    408: "Request Timeout",
    409: "Conflict",
    413: "Content Too Large",
    429: "Too Many Requests",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    502: "Bad Gateway",
    503: "Service Unavailable",
    504: "Gateway Timeout",
    505: "HTTP Version Not Supported",
}


def reason(status: int) -> str:
    return _REASONS.get(status, "")


def problem(status: int, code: str, message: str, *, retryable: bool = False) -> Answer:
    """`{"error": {…}}`"""
    return Answer(status=status, problem=Problem(code=code, message=message, retryable=retryable))


def numbered(answer: Answer, request_id: str) -> Answer:
    """As the client gets it: with the request's id in a header, and in the body of an error."""
    headers = (*answer.headers, ("X-Request-Id", request_id))
    if answer.problem is None:
        return replace(answer, headers=headers)
    body = problems.ProblemBody(replace(answer.problem, request_id=request_id))
    return Answer(status=answer.status, headers=headers, body=msgspec.json.encode(body))


_PAGE = Template("""<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>$status</title>
<style>body{font:16px/1.5 system-ui,sans-serif;margin:20vh auto;max-width:36rem;padding:0 1rem}</style>
<h1>$status</h1>
<p>$text</p>
</html>
""")
_PAGE_HEADERS = (
    ("Content-Type", "text/html; charset=utf-8"),
    ("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'"),
    ("Cache-Control", "no-store"),
)


def page(answer: Answer) -> Answer:
    """An answer that has a text, for a browser that navigates."""
    status = f"{answer.status} {reason(answer.status)}"
    body = _PAGE.substitute(status=status, text=html.escape(answer.text)).encode()
    return Answer(status=answer.status, headers=_PAGE_HEADERS, body=body)


def from_error(error: WrennError) -> Answer:
    return Answer(status=error.status, problem=problems.of(error))


def sandbox_not_found(sandbox_id: str) -> Answer:
    """Also for a sandbox that is paused, killed, or of nobody: all look the same from outside."""
    return _sandbox(502, {"sandboxId": sandbox_id, "message": "The sandbox was not found", "code": 502})


def secured(sandbox_id: str, *, missing: bool) -> Answer:
    """:param missing: the header is not there at all"""
    what = (
        "Token header 'e2b-traffic-access-token' is missing"
        if missing
        else "The token in header 'e2b-traffic-access-token' is not that of this sandbox"
    )
    return _sandbox(
        403,
        {
            "sandboxId": sandbox_id,
            "message": f"Sandbox is secured with traffic access token. {what}",
            "code": 403,
        },
    )


def port_not_open(sandbox_id: str, port: int) -> Answer:
    return _sandbox(
        502,
        {
            "sandboxId": sandbox_id,
            "message": "The sandbox is running but port is not open",
            "port": port,
            "code": 502,
        },
    )


def host_unreachable(sandbox_id: str) -> Answer:
    return _sandbox(
        503,
        {"sandboxId": sandbox_id, "message": "The host of the sandbox cannot be reached now", "code": 503},
    )


def sandbox_broke_off(sandbox_id: str, port: int) -> Answer:
    """The port was open, and closed without a proper answer."""
    return _sandbox(
        502,
        {
            "sandboxId": sandbox_id,
            "message": "The sandbox closed the connection without an answer",
            "port": port,
            "code": 502,
        },
    )


def bad_address(message: str) -> Answer:
    """The request names a sandbox in a way that cannot be right."""
    return _sandbox(400, {"message": message, "code": 400})


def signature_expired() -> Answer:
    """In envd's words, which E2B's users compare."""
    return _sandbox(401, {"code": 401, "message": "signature is already expired"})


def no_such_path() -> Answer:
    """envd's control routes, which do not exist from outside."""
    return _sandbox(404, {"message": "not found", "code": 404})


def _sandbox(status: int, body: dict[str, object]) -> Answer:
    where = f"Sandbox {body['sandboxId']}: " if "sandboxId" in body else ""
    return Answer(status=status, body=msgspec.json.encode(body), text=f"{where}{body['message']}")


def upstream_down() -> Answer:
    return problem(503, "unavailable", "the service behind this port does not answer now", retryable=True)


def upstream_slow() -> Answer:
    return problem(
        504, "timed_out", "the service behind this port could not be reached in time", retryable=True
    )


def upstream_broke_off() -> Answer:
    return problem(502, "bad_gateway", "the service behind this port broke off before it answered")


def bad_body() -> Answer:
    return problem(400, "invalid_request", "malformed chunked body")


def internal() -> Answer:
    return problem(500, "internal_error", "the request could not be handled")
