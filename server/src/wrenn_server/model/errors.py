"""One exception tree for everything that a caller may see.

```
WrennError
├── InvalidRequest     400  the request cannot be carried out as written
├── Unauthorized       401  no or bad credentials
├── Forbidden          403
├── NotFound           404  also for ids of the wrong shape
├── Conflict           409  the state does not allow it now
├── TooLarge           413
├── RateLimited        429
├── Unavailable        503  no host, host unreachable, capacity
├── GuestError         502  the guest answered wrongly or not at all
├── TimedOut           504
├── Internal           500
└── NotSupported       501  the request is understood, and not built yet
```

`code` is the stable word for programs, `message` says what was being done to which thing, `hint` what to do next.
What only the log may see goes into `__cause__` (`raise … from exc`), never into `message`.
"""

from typing import ClassVar


class WrennError(Exception):
    status: ClassVar[int] = 500
    default_code: ClassVar[str] = "internal_error"
    retryable_by_default: ClassVar[bool] = False

    def __init__(
        self, message: str, *, code: str | None = None, hint: str | None = None, retryable: bool | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or self.default_code
        self.hint = hint
        self.retryable = self.retryable_by_default if retryable is None else retryable


class InvalidRequest(WrennError):
    status = 400
    default_code = "invalid_request"


class Unauthorized(WrennError):
    status = 401
    default_code = "unauthorized"


class Forbidden(WrennError):
    status = 403
    default_code = "forbidden"


class NotFound(WrennError):
    status = 404
    default_code = "not_found"


class Conflict(WrennError):
    status = 409
    default_code = "invalid_state"


class TooLarge(WrennError):
    status = 413
    default_code = "too_large"


class RateLimited(WrennError):
    status = 429
    default_code = "rate_limited"
    retryable_by_default = True


class GuestError(WrennError):
    status = 502
    default_code = "guest_error"


class Unavailable(WrennError):
    status = 503
    default_code = "host_unavailable"
    retryable_by_default = True


class TimedOut(WrennError):
    status = 504
    default_code = "timed_out"


class Internal(WrennError):
    status = 500
    default_code = "internal_error"


class NotSupported(WrennError):
    status = 501
    default_code = "not_supported"


BY_STATUS: dict[int, type[WrennError]] = {
    cls.status: cls
    for cls in (
        InvalidRequest,
        Unauthorized,
        Forbidden,
        NotFound,
        Conflict,
        TooLarge,
        RateLimited,
        GuestError,
        Unavailable,
        TimedOut,
        Internal,
        NotSupported,
    )
}
