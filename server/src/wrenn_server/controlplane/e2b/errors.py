"""Errors as E2B's SDKs read them: `{"code", "message", "error_code"?}`, with `code` equal to the HTTP status."""

from typing import Any

import msgspec
import structlog
from litestar import Request, Response
from litestar.exceptions import HTTPException

from wrenn_server.controlplane.api import http
from wrenn_server.controlplane.hosts_client import Uncertain
from wrenn_server.model import errors
from wrenn_server.model.errors import WrennError
from wrenn_server.model.pool import PoolExhausted

RETRY_AFTER_SEC = 1
_RETRIED = frozenset({429, 502, 503, 504})
"""What the SDKs repeat unless they are told not to."""

log = structlog.get_logger()


class Error(msgspec.Struct, omit_defaults=True):
    code: int
    message: str
    error_code: str | None = None


def shape(error: WrennError, status: int | None = None) -> Error:
    message = f"{error.message}; {error.hint}" if error.hint else error.message
    return Error(status or error.status, message, error.code)


def on_wrenn_error(request: Request[Any, Any, Any], error: WrennError) -> Response[bytes]:
    http.note(error)
    # The SDKs take a 409 for a sandbox in the wrong state; a 429 for too many of them.
    return _answer(request, error, 429 if isinstance(error, PoolExhausted) else error.status)


def on_http_exception(request: Request[Any, Any, Any], error: HTTPException) -> Response[bytes]:
    translated = http.translate(error)
    response = _answer(request, translated, http.status(error, translated))
    if response.status_code == 405 and error.headers:
        response.headers.update(error.headers)
    return response


def on_anything(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    log.error("mistake of ours", action="internal_error", path=request.url.path, exc_info=error)
    return on_wrenn_error(request, errors.Internal("something went wrong on our side"))


def _answer(request: Request[Any, Any, Any], error: WrennError, status: int) -> Response[bytes]:
    headers: dict[str, str] = {}
    again = error.retryable and _may_repeat(request, error)
    if again or status in _RETRIED:
        headers["Should-Retry"] = "true" if again else "false"
    if again:
        headers["Retry-After"] = str(RETRY_AFTER_SEC)
    content = msgspec.json.encode(shape(error, status))
    return Response(content, status_code=status, media_type="application/json", headers=headers)


def _may_repeat(request: Request[Any, Any, Any], error: WrennError) -> bool:
    """Nobody knows whether it was carried out: a second one might make a second sandbox."""
    return (
        not isinstance(error, Uncertain) or request.method != "POST" or "idempotency-key" in request.headers
    )
