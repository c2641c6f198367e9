"""Errors on the wire: `{"error": {"code", "message", "hint"?, "retryable"?, "request_id"}}`."""

import msgspec

from wrenn_server.model import errors


class Problem(msgspec.Struct, omit_defaults=True):
    code: str
    message: str
    hint: str | None = None
    retryable: bool = False
    request_id: str | None = None


class ProblemBody(msgspec.Struct):
    error: Problem


def of(error: errors.WrennError, request_id: str | None = None) -> Problem:
    return Problem(
        code=error.code,
        message=error.message,
        hint=error.hint,
        retryable=error.retryable,
        request_id=request_id,
    )


def encode(error: errors.WrennError, request_id: str | None) -> bytes:
    return msgspec.json.encode(ProblemBody(of(error, request_id)))


def decode(status: int, body: bytes) -> errors.WrennError:
    """The exception that a problem answer stands for. Total: any body gives some error of the status's class."""
    cls = errors.BY_STATUS.get(status, errors.Internal)
    try:
        problem = msgspec.json.decode(body, type=ProblemBody).error
    except (msgspec.DecodeError, msgspec.ValidationError):
        return cls(f"answered {status} with a body that is not a problem")
    return cls(problem.message, code=problem.code, hint=problem.hint, retryable=problem.retryable)
