"""A request that names itself with a key is carried out once, however often and wherever it arrives.

```
 claim ──► begin the work, and note with it what is being made ──► answer, kept for a day
   │
   └── the key is somebody's ──► its answer is there: the same again
                             ──► what it makes is there by now: the answer follows from that
                             ──► its owner is silent and nothing came of it: take over
```

The key's row is written first. What the work makes is noted in the same transaction as the thing itself
(`Claim.bind`), so after a crash the next request with the key finds either the thing or nothing. Failures are not
kept: the next request tries again. Answers hold secrets that are shown only once: they are kept sealed.
"""

import asyncio
import contextlib
import hashlib
import re
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from enum import Enum
from typing import Generic, TypeVar

import msgspec

from wrenn_server.controlplane.context import ControlPlane
from wrenn_server.db import idempotency as db_idempotency
from wrenn_server.db.pool import DatabaseUnavailable, Executor
from wrenn_server.model.errors import Conflict, InvalidRequest, WrennError

T = TypeVar("T")

EXPIRE_INTERVAL = 600.0
SIGN_SEC = db_idempotency.SILENCE_SEC / 3
"""Between signs of life of whoever carries a request out."""
_LOOK_SEC = 0.2
"""Repeated requests are rare, and whoever carries out the first may be another control plane."""
_WAIT_SEC = 300.0
_KEY = re.compile(r"[A-Za-z0-9_-]{1,255}", re.ASCII)


class Effect(Enum):
    """What became of what a request makes, when there is no answer to give."""

    PENDING = "pending"
    NOTHING = "nothing"


@dataclass(frozen=True, slots=True)
class Request:
    team_id: str
    key: str
    digest: bytes


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to carry a request out, until somebody has taken over."""

    request: Request
    generation: int

    async def bind(self, db: Executor, resource: str) -> None:
        """Notes the id of what is made; `db` is the transaction that makes it.

        :raises Superseded: somebody has taken over; nothing may be made
        """
        asked = self.request
        if not await db_idempotency.bind(db, asked.team_id, asked.key, self.generation, resource):
            raise Superseded("this request was taken over by another one with the same Idempotency-Key")


class Superseded(Conflict):
    pass


@dataclass(frozen=True, slots=True)
class Work(Generic[T]):
    """
    :ivar kind: of the answer, which is kept as JSON
    :ivar carry_out: gives the answer; without a claim when the request has no key
    :ivar recover: what is to be answered for the thing of this id, which an earlier request has begun to make
    :ivar is_failure: an answer that is not kept
    """

    kind: type[T]
    carry_out: Callable[[Claim | None], Awaitable[T]]
    recover: Callable[[str], Awaitable[T | Effect]]
    is_failure: Callable[[T], bool] = lambda _: False


def request(team_id: str, key: str | None, what: str, body: bytes) -> Request | None:
    """
    :param key: None: the request has none
    :param what: method and path
    :raises InvalidRequest: the key is none
    """
    if key is None:
        return None
    if not _KEY.fullmatch(key):
        raise InvalidRequest(
            "Idempotency-Key must be 1 to 255 letters, digits, - and _", code="invalid_idempotency_key"
        )
    return Request(team_id, key, hashlib.sha256(what.encode() + b"\0" + body).digest())


async def once(cp: ControlPlane, asked: Request | None, work: Work[T]) -> T:
    """The answer to the request, which is the same each time it comes with its key.

    :raises Conflict: `idempotency_key_reused` with another request; `idempotency_key_in_use` for too long
    :raises WrennError: of `carry_out`
    """
    if asked is None:
        return await work.carry_out(None)
    return await cp.work.finish(_once(cp, asked, work), f"idempotent {asked.key}")


async def expire(cp: ControlPlane) -> None:
    await db_idempotency.expire(cp.db)


async def _once(cp: ControlPlane, asked: Request, work: Work[T]) -> T:
    clock = asyncio.get_running_loop()
    deadline = clock.time() + _WAIT_SEC
    while clock.time() < deadline:
        generation = await db_idempotency.claim(cp.db, asked.team_id, asked.key, asked.digest)
        if generation is None:
            found = await _look(cp, asked, work)
            if isinstance(found, _Answer):
                return found.value
            generation = found
        if generation is not None:
            try:
                return await _carry_out(cp, Claim(asked, generation), work)
            except Superseded:
                continue  # another one is at it now; its answer is ours too
        await asyncio.sleep(_LOOK_SEC)
    raise Conflict(
        "the first request with this Idempotency-Key is still being carried out",
        code="idempotency_key_in_use",
        retryable=True,
    )


async def _look(cp: ControlPlane, asked: Request, work: Work[T]) -> "_Answer[T] | int | None":
    """The answer; a generation when we have taken over; None: wait."""
    held = await db_idempotency.get(cp.db, asked.team_id, asked.key)
    if held is None:
        return None
    if held.digest != asked.digest:
        raise Conflict(
            "this Idempotency-Key came with another request before",
            code="idempotency_key_reused",
            hint="use a new key for each new request",
        )
    if held.answer is not None:
        content = cp.keys.sealer.open(held.answer, _place(asked))
        return _Answer(msgspec.json.decode(content, type=work.kind))
    made = Effect.NOTHING if held.resource is None else await work.recover(held.resource)
    if not isinstance(made, Effect):
        await _keep(cp, Claim(asked, held.generation), made)
        return _Answer(made)
    if made is Effect.PENDING or not held.silent:
        return None
    return await db_idempotency.take_over(cp.db, asked.team_id, asked.key, held.generation)


@dataclass(frozen=True, slots=True)
class _Answer(Generic[T]):
    value: T


async def _carry_out(cp: ControlPlane, claim: Claim, work: Work[T]) -> T:
    try:
        async with _alive(cp, claim):
            answer = await work.carry_out(claim)
    except (Superseded, DatabaseUnavailable):
        raise  # what was begun may still come to something: the key goes on leading to it
    except WrennError:
        await _release(cp, claim)
        raise
    await (_release(cp, claim) if work.is_failure(answer) else _keep(cp, claim, answer))
    return answer


@contextlib.asynccontextmanager
async def _alive(cp: ControlPlane, claim: Claim) -> AsyncGenerator[None]:
    """Nobody takes over while the context lasts and we are there."""
    asked = claim.request

    async def show() -> None:
        while True:
            await asyncio.sleep(SIGN_SEC)
            with contextlib.suppress(DatabaseUnavailable):
                await db_idempotency.seen(cp.db, asked.team_id, asked.key, claim.generation)

    showing = asyncio.create_task(show(), name=f"keep {asked.key}")
    try:
        yield
    finally:
        showing.cancel()
        await asyncio.wait([showing])


async def _release(cp: ControlPlane, claim: Claim) -> None:
    asked = claim.request
    with contextlib.suppress(DatabaseUnavailable):  # then the key is taken over when its owner is silent
        await db_idempotency.release(cp.db, asked.team_id, asked.key, claim.generation)


async def _keep(cp: ControlPlane, claim: Claim, answer: object) -> None:
    asked = claim.request
    content = cp.keys.sealer.seal(msgspec.json.encode(answer), _place(asked))
    await db_idempotency.answer(cp.db, asked.team_id, asked.key, claim.generation, content)


def _place(asked: Request) -> str:
    return f"idempotency key {asked.key} of {asked.team_id}"
