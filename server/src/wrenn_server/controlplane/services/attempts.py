"""How often something may be tried, by whom. All control planes count together."""

from dataclasses import dataclass

from wrenn_server.controlplane.context import ControlPlane
from wrenn_server.db import attempts as db_attempts
from wrenn_server.model.errors import RateLimited

LONGEST_SEC = 24 * 3600.0
"""After which every bucket here is full."""


@dataclass(frozen=True, slots=True)
class Limit:
    """So many at once, and then one more every so many seconds."""

    what: str
    at_once: int
    every_sec: float

    def of(self, who: str) -> str:
        return f"{self.what} {who}"


LOGIN_FROM = Limit("login from", 60, 5)
LOGIN_OF = Limit("login of", 10, 90)
"""Wrong passwords for one account, from wherever: 10, then 40 an hour."""
SIGNUP_FROM = Limit("signup from", 20, 180)
MAIL_TO = Limit("mail to", 5, 600)
"""Mails that a stranger can have sent to somebody."""
RESET_FROM = Limit("reset from", 20, 180)
SECRET_FROM = Limit("secret from", 60, 5)
"""Guesses of secrets in links and of registration tokens."""


async def take(cp: ControlPlane, limit: Limit, who: str) -> None:
    """:raises RateLimited:"""
    if not await db_attempts.take(
        cp.db, limit.of(who), capacity=limit.at_once, per_second=1 / limit.every_sec
    ):
        raise RateLimited(
            "this was tried too often", hint=f"try again in {limit.every_sec:g} seconds", code="rate_limited"
        )


async def give_back(cp: ControlPlane, limit: Limit, who: str) -> None:
    """It was right: only failures count."""
    await db_attempts.give_back(cp.db, limit.of(who))


async def forget(cp: ControlPlane, limit: Limit, who: str) -> None:
    await db_attempts.forget(cp.db, limit.of(who))
