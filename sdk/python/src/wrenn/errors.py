"""What can go wrong.

```
WrennError                        code · message · hint · retryable · status · request_id
├── ConfigError                   nothing was sent: no API key, a base URL that is none
├── ServerUnreachableError        no connection could be opened
├── ConnectionLostError           the connection broke before the whole answer had come
├── RequestTimeoutError           no answer within the request timeout
├── ProtocolError                 an answer that the protocol does not allow
├── ApiError                      the server answered with an error
│   ├── InvalidRequestError       400   invalid_argument, out_of_range
│   ├── UnauthorizedError         401   unauthenticated
│   ├── ForbiddenError            403   permission_denied
│   ├── NotFoundError             404   not_found
│   │   ├── SandboxNotFoundError
│   │   ├── TemplateNotFoundError
│   │   ├── ProcessNotFoundError
│   │   └── PathNotFoundError           a file or directory in the sandbox
│   ├── ConflictError             409   already_exists, aborted, failed_precondition
│   ├── TooLargeError             413
│   ├── RateLimitedError          429   resource_exhausted
│   ├── InternalError             500   internal, unknown, data_loss, unimplemented
│   ├── GuestError                502   the sandbox did not answer, or wrongly
│   │   ├── SandboxNotRunningError      paused, killed, failed or lost: `.sandbox` says
│   │   └── PortNotOpenError
│   ├── UnavailableError          503   unavailable
│   ├── ServerTimeoutError        504   deadline_exceeded, canceled
│   └── DiskFullError             507
├── CommandError                  a command did not end well: `.result`
│   ├── CommandExitError          non-zero exit code, with `check=True`
│   └── CommandTimeoutError       its deadline passed; the process group was killed
└── ForkError                     some of the forks failed: `.sandboxes`, `.errors`
```

The number is the HTTP status; the words behind it are the Connect codes of the guest agent that mean the same.
`code` is the stable word for programs, `message` says what was being done to which thing, `hint` what to do next.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

import httpx2
import msgspec

if TYPE_CHECKING:
    from wrenn.models import CommandResult, SandboxInfo


class WrennError(Exception):
    """Base of everything that this package raises on purpose.

    :ivar code: stable word for programs, e.g. `"template_not_found"`
    :ivar hint: what to do next, if there is anything to say
    :ivar retryable: whether the same call may succeed later
    :ivar status: HTTP status of the answer; None when there was none
    :ivar request_id: names the request in the server's log
    """

    default_code: ClassVar[str] = "error"
    default_retryable: ClassVar[bool] = False

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        hint: str | None = None,
        retryable: bool | None = None,
        status: int | None = None,
        request_id: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or self.default_code
        self.hint = hint
        self.retryable = self.default_retryable if retryable is None else retryable
        self.status = status
        self.request_id = request_id

    def __str__(self) -> str:
        text = self.message
        if self.hint:
            text += f"\n  hint: {self.hint}"
        if self.request_id:
            text += f"\n  request: {self.request_id}"
        return text


class ConfigError(WrennError):
    default_code = "config"


class ServerUnreachableError(WrennError):
    default_code = "server_unreachable"
    default_retryable = True


class ConnectionLostError(WrennError):
    default_code = "connection_lost"


class RequestTimeoutError(WrennError):
    default_code = "request_timeout"


class ProtocolError(WrennError):
    default_code = "protocol"


class ApiError(WrennError):
    default_code = "api"


class InvalidRequestError(ApiError):
    default_code = "invalid_request"


class UnauthorizedError(ApiError):
    default_code = "unauthorized"


class ForbiddenError(ApiError):
    default_code = "forbidden"


class NotFoundError(ApiError):
    default_code = "not_found"


class SandboxNotFoundError(NotFoundError):
    default_code = "sandbox_not_found"


class TemplateNotFoundError(NotFoundError):
    default_code = "template_not_found"


class ProcessNotFoundError(NotFoundError):
    default_code = "process_not_found"


class PathNotFoundError(NotFoundError):
    default_code = "path_not_found"


class ConflictError(ApiError):
    default_code = "conflict"


class TooLargeError(ApiError):
    default_code = "too_large"


class RateLimitedError(ApiError):
    default_code = "rate_limited"
    default_retryable = True


class InternalError(ApiError):
    default_code = "internal_error"


class GuestError(ApiError):
    default_code = "guest_error"


class SandboxNotRunningError(GuestError):
    """:ivar sandbox: what the platform says about it now; None when it knows it no more"""

    default_code = "sandbox_not_running"
    sandbox: SandboxInfo | None = None


class PortNotOpenError(GuestError):
    default_code = "port_not_open"
    default_retryable = True


class UnavailableError(ApiError):
    default_code = "unavailable"
    default_retryable = True


class ServerTimeoutError(ApiError):
    default_code = "timed_out"


class DiskFullError(ApiError):
    default_code = "disk_full"


class CommandError(WrennError):
    """:ivar result: output up to that moment, and the exit code if there is one (else -1)"""

    default_code = "command"

    def __init__(self, message: str, result: CommandResult) -> None:
        super().__init__(message)
        self.result = result


class CommandExitError(CommandError):
    default_code = "command_exit"


class CommandTimeoutError(CommandError):
    default_code = "command_timeout"


class ForkError(WrennError):
    """:ivar sandboxes: the forks that exist all the same; :ivar errors: why the others do not"""

    default_code = "fork"

    def __init__(self, message: str, sandboxes: list[Any], errors: list[ApiError]) -> None:
        super().__init__(message)
        self.sandboxes = sandboxes
        self.errors = errors


BY_STATUS: Mapping[int, type[ApiError]] = {
    400: InvalidRequestError,
    401: UnauthorizedError,
    403: ForbiddenError,
    404: NotFoundError,
    409: ConflictError,
    413: TooLargeError,
    429: RateLimitedError,
    500: InternalError,
    502: GuestError,
    503: UnavailableError,
    504: ServerTimeoutError,
    507: DiskFullError,
}

BY_CODE: Mapping[str, type[ApiError]] = {
    # words of the platform that say more than their status
    "sandbox_not_found": SandboxNotFoundError,
    "template_not_found": TemplateNotFoundError,
    "sandbox_not_running": SandboxNotRunningError,
    "port_not_open": PortNotOpenError,
    # Connect codes, https://connectrpc.com/docs/protocol#error-codes
    "canceled": ServerTimeoutError,
    "unknown": InternalError,
    "invalid_argument": InvalidRequestError,
    "deadline_exceeded": ServerTimeoutError,
    "not_found": NotFoundError,
    "already_exists": ConflictError,
    "permission_denied": ForbiddenError,
    "resource_exhausted": RateLimitedError,
    "failed_precondition": ConflictError,
    "aborted": ConflictError,
    "out_of_range": InvalidRequestError,
    "unimplemented": InternalError,
    "internal": InternalError,
    "unavailable": UnavailableError,
    "data_loss": InternalError,
    "unauthenticated": UnauthorizedError,
}


class _Problem(msgspec.Struct):
    """The union of what answers an error: the platform's `error` object, Connect's and envd's flat bodies, the
    proxy's `{"sandboxId", "message", "code", "port"?}`."""

    message: str = ""
    code: str | int | None = None
    hint: str | None = None
    retryable: bool | None = None
    request_id: str | None = None
    sandboxId: str | None = None  # noqa: N815 the name on the wire


class _Body(_Problem):
    error: _Problem | None = None


def from_response(
    status: int, headers: Mapping[str, str], body: bytes, *, not_found: type[NotFoundError] = NotFoundError
) -> ApiError:
    """The exception that an answer stands for. Total: any status and any bytes give one.

    :param not_found: what a 404 without a more exact code means for this call
    """
    try:
        flat = msgspec.json.decode(body, type=_Body)
        problem = flat.error or flat
    except (msgspec.DecodeError, UnicodeDecodeError):
        problem = _Problem()
    code = problem.code if isinstance(problem.code, str) else None
    kind = BY_CODE.get(code or "") or BY_STATUS.get(status) or (InternalError if status >= 500 else ApiError)
    if kind is NotFoundError:
        kind = not_found
    elif kind is GuestError and problem.sandboxId is not None:
        kind = _proxy_kind(problem)
    text = (
        problem.message or f"the server answered {status} {httpx2.codes.get_reason_phrase(status)}".rstrip()
    )
    return kind(
        text,
        code=code,
        hint=problem.hint,
        retryable=problem.retryable,
        status=status,
        request_id=problem.request_id or headers.get("x-request-id"),
    )


def _proxy_kind(problem: _Problem) -> type[GuestError]:
    """The proxy's bodies are those that E2B's SDKs know: only the text tells them apart."""
    if "port is not open" in problem.message:
        return PortNotOpenError
    return SandboxNotRunningError if "not found" in problem.message else GuestError


def from_connect(code: str, message: str, *, not_found: type[NotFoundError] = NotFoundError) -> ApiError:
    """The exception for an error that came at the end of a stream, which has HTTP status 200."""
    kind = BY_CODE.get(code, InternalError)
    return (not_found if kind is NotFoundError else kind)(message or code, code=code)


@contextmanager
def mapped(doing: str, base_url: str) -> Generator[None]:
    """Turns the transport's exceptions into ours, at the one place where they can come up.

    :param doing: for the message, e.g. `"POST /v1/sandboxes"`
    """
    try:
        yield
    except (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.ProxyError) as exc:
        raise ServerUnreachableError(
            f"cannot reach {base_url}: {str(exc) or 'no answer'}",
            hint="is the platform running there? `wrenn up` starts one on this machine; "
            "WRENN_BASE_URL (or base_url=) chooses another",
        ) from exc
    except httpx2.TimeoutException as exc:
        raise RequestTimeoutError(f"no answer from {base_url} in time: {doing}") from exc
    except (httpx2.TransportError, httpx2.StreamError) as exc:
        raise ConnectionLostError(f"the connection to {base_url} broke during {doing}: {exc}") from exc


# Tracebacks and documentation name the place that users import from.
for _cls in [
    cls for cls in list(globals().values()) if isinstance(cls, type) and issubclass(cls, WrennError)
]:
    _cls.__module__ = "wrenn"
