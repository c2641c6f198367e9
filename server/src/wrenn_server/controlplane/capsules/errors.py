"""Errors in the native form, with the few codes by which the published `wrenn` SDK chooses its exceptions."""

from typing import Any

from litestar import Request, Response

from wrenn_server.controlplane.api import http
from wrenn_server.model import errors
from wrenn_server.model.errors import WrennError

CODES = {
    400: "invalid_request",
    401: "unauthorized",
    403: "forbidden",
    404: "not_found",
    409: "conflict",
    500: "internal_error",
    502: "agent_error",
    503: "host_unavailable",
    504: "agent_error",
}
"""By status. With another status the code is the native one, for which the SDK has its general exception."""
_KEPT = frozenset({"invalid_state", "pool_exhausted"})


def translated(error: WrennError) -> WrennError:
    code = error.code if error.code in _KEPT else CODES.get(error.status, error.code)
    cls = errors.BY_STATUS.get(error.status, errors.Internal)
    same = cls(error.message, code=code, hint=error.hint, retryable=error.retryable)
    same.__cause__ = error.__cause__
    return same


def on_wrenn_error(request: Request[Any, Any, Any], error: WrennError) -> Response[bytes]:
    return http.on_wrenn_error(request, translated(error))
