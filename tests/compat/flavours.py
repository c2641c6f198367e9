"""The SDKs that are checked, and the two ways of reaching a platform."""

from dataclasses import dataclass
from enum import StrEnum

PINNED = "2.45.1"
"""An old version in wide use: v1 endpoints, another RPC library."""
PYTHON, JAVASCRIPT = "2.63.0", "2.51.0"
"""The newest at the time of writing."""
PYTHON_INTERPRETER, JAVASCRIPT_INTERPRETER = "2.11.5", "2.8.0"


class Mode(StrEnum):
    LOOPBACK = "loopback"
    """One plain-HTTP port; E2B_API_URL and E2B_SANDBOX_URL name it."""
    DOMAIN = "domain"
    """TLS under a wildcard domain; E2B_DOMAIN names it."""


class Suite(StrEnum):
    SDK = "sdk"
    CODE_INTERPRETER = "code-interpreter"


@dataclass(frozen=True, slots=True, kw_only=True)
class Flavour:
    """One column of the table: an SDK as one program uses it."""

    name: str
    suite: Suite
    requirements: str | None = None
    """File in `sdks/`; None: JavaScript."""
    half: str | None = None
    """"sync" or "async" of the Python SDK."""
    differing: tuple[Mode, ...] = (Mode.DOMAIN,)
    """Modes in which only those cases run that depend on the mode."""


def _python(version: str, half: str, *, differing: tuple[Mode, ...] = (Mode.DOMAIN,)) -> Flavour:
    name = f"Python {version} {half}"
    return Flavour(
        name=name, suite=Suite.SDK, requirements=f"e2b-{version}.txt", half=half, differing=differing
    )


def _interpreter(half: str) -> Flavour:
    return Flavour(
        name=f"Python {PYTHON_INTERPRETER} {half}",
        suite=Suite.CODE_INTERPRETER,
        requirements=f"e2b-code-interpreter-{PYTHON_INTERPRETER}.txt",
        half=half,
    )


FLAVOURS = (
    _python(PINNED, "sync"),
    _python(PINNED, "async"),
    _python(PYTHON, "sync"),
    _python(PYTHON, "async"),
    Flavour(name=f"JavaScript {JAVASCRIPT}", suite=Suite.SDK),
    _interpreter("sync"),
    _interpreter("async"),
    Flavour(name=f"JavaScript {JAVASCRIPT_INTERPRETER}", suite=Suite.CODE_INTERPRETER),
)
