"""Connections to PostgreSQL, and the one place where the driver's errors become ours."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import asyncpg
import msgspec

from wrenn_server.model.errors import InvalidRequest, Unavailable
from wrenn_server.model.pool import Capacity, PoolExhausted

if TYPE_CHECKING:
    PgConnection = asyncpg.Connection[asyncpg.Record]
    PgPool = asyncpg.Pool[asyncpg.Record]

T = TypeVar("T")

CONNECT_TIMEOUT = 10.0
STATEMENT_TIMEOUT = 15.0
"""Seconds. Every statement here touches few rows; one that takes longer waits for a lock that should not be held."""


class DatabaseUnavailable(Unavailable):
    """PostgreSQL cannot be reached, is starting or stopping, or has no connection left."""

    default_code = "database_unavailable"


class Connection:
    """One connection; statements on it are one transaction when it comes from `Database.transaction`."""

    def __init__(self, raw: "PgConnection") -> None:
        self._raw = raw

    async def fetch(self, sql: str, *args: object) -> list[asyncpg.Record]:
        with _mapped():
            return await self._raw.fetch(sql, *args)

    async def fetchrow(self, sql: str, *args: object) -> asyncpg.Record | None:
        with _mapped():
            return await self._raw.fetchrow(sql, *args)

    async def fetchval(self, sql: str, *args: object) -> Any:
        with _mapped():
            return await self._raw.fetchval(sql, *args)

    async def execute(self, sql: str, *args: object) -> str:
        with _mapped():
            return await self._raw.execute(sql, *args)


class Database:
    """A pool. Every call borrows a connection for one statement, prepared on first use.

    All methods raise `DatabaseUnavailable`, `InvalidRequest` for text that PostgreSQL cannot store, and `PoolExhausted`
    for a sandbox that the team's pool has no room for.
    """

    def __init__(self, pool: "PgPool") -> None:
        self._pool = pool

    async def fetch(self, sql: str, *args: object) -> list[asyncpg.Record]:
        with _mapped():
            return await self._pool.fetch(sql, *args)

    async def fetchrow(self, sql: str, *args: object) -> asyncpg.Record | None:
        with _mapped():
            return await self._pool.fetchrow(sql, *args)

    async def fetchval(self, sql: str, *args: object) -> Any:
        with _mapped():
            return await self._pool.fetchval(sql, *args)

    async def execute(self, sql: str, *args: object) -> str:
        with _mapped():
            return await self._pool.execute(sql, *args)

    async def answers(self, seconds: float) -> None:
        """:raises DatabaseUnavailable: it does not, within that time"""
        try:
            async with asyncio.timeout(seconds):
                await self.fetchval("SELECT 1")
        except TimeoutError as error:
            raise DatabaseUnavailable(f"the database has not answered within {seconds:g} s") from error

    @contextlib.asynccontextmanager
    async def transaction(self) -> AsyncGenerator[Connection, None]:
        """Committed when the block ends well. Nothing but statements belongs inside: no calls over the network."""
        with _mapped():
            async with self._pool.acquire() as raw, raw.transaction():
                yield Connection(raw)  # pyright: ignore[reportArgumentType] - the pool's proxy has every method

    @contextlib.asynccontextmanager
    async def listening(
        self, channel: str, heard: Callable[[str], None]
    ) -> AsyncGenerator[asyncio.Event, None]:
        """Calls `heard(payload)` for every NOTIFY. Gives an event that is set when the connection is lost: from then
        on notifications may have been missed."""
        lost = asyncio.Event()

        def ended(_: object) -> None:
            lost.set()

        def told(_connection: object, _pid: int, _channel: str, payload: object) -> None:
            heard(str(payload))

        with _mapped():
            raw = await self._pool.acquire(timeout=CONNECT_TIMEOUT)
        try:
            raw.add_termination_listener(ended)
            with _mapped():
                await raw.add_listener(channel, told)
            yield lost
        finally:
            with contextlib.suppress(asyncpg.InterfaceError):  # one that is lost has left the pool by itself
                raw.terminate()  # takes the listener with it
                await self._pool.release(raw)


Executor = Database | Connection


class _PlainConnection(asyncpg.Connection[asyncpg.Record] if TYPE_CHECKING else asyncpg.Connection):
    """We never change session state on pooled connections, so there is nothing to reset: saves a round trip."""

    def get_reset_query(self) -> str:
        return ""


@contextlib.asynccontextmanager
async def connect(url: str, *, min_size: int = 1, max_size: int = 16) -> AsyncGenerator[Database, None]:
    """
    :param url: `postgres://user:password@host:port/database?sslmode=…`, or `?host=/directory` for a Unix socket
    :raises DatabaseUnavailable:
    """
    with _mapped():
        pool: PgPool = await asyncpg.create_pool(
            url,
            min_size=min_size,
            max_size=max_size,
            timeout=CONNECT_TIMEOUT,
            command_timeout=STATEMENT_TIMEOUT,
            connection_class=_PlainConnection,
            init=_set_up,
            # Without `jit: off`, PostgreSQL may spend 100 ms compiling a statement that runs for 1 ms.
            server_settings={"application_name": "wrenn-cp", "jit": "off", "lock_timeout": "5s"},
        )
    try:
        yield Database(pool)
    finally:
        try:
            async with asyncio.timeout(5):
                await pool.close()
        except TimeoutError:
            pool.terminate()


def row(record: asyncpg.Record | None, kind: type[T]) -> T | None:
    """A record as a struct. Columns that the struct does not know are left out, so that a newer schema does no harm."""
    return None if record is None else msgspec.convert(dict(record.items()), kind)


def rows(records: Sequence[asyncpg.Record], kind: type[T]) -> list[T]:
    return [msgspec.convert(dict(record.items()), kind) for record in records]


async def _set_up(raw: "PgConnection") -> None:
    await raw.set_type_codec(
        "jsonb",
        schema="pg_catalog",
        format="binary",
        encoder=lambda value: b"\x01" + msgspec.json.encode(value),
        decoder=lambda data: msgspec.json.decode(data[1:]),
    )


@contextlib.contextmanager
def _mapped() -> Generator[None]:
    try:
        yield
    except (asyncpg.CharacterNotInRepertoireError, asyncpg.UntranslatableCharacterError) as error:
        raise InvalidRequest("a text contains a character that cannot be stored") from error
    except asyncpg.DataError as error:
        raise InvalidRequest("a value is out of the range that can be stored") from error
    except asyncpg.PostgresError as error:
        if isinstance(error, _UNAVAILABLE):
            raise DatabaseUnavailable(f"the database is not available: {error}") from error
        if error.sqlstate == _POOL_EXHAUSTED:
            raise _pool_exhausted(error.detail or "") from error
        raise
    except (asyncpg.InterfaceError, OSError, TimeoutError) as error:
        raise DatabaseUnavailable(
            f"the database is not available: {error or type(error).__name__}"
        ) from error


class _Lack(msgspec.Struct):
    """What the trigger `sandboxes_draw` tells; null where a cap has no bound."""

    vcpus: int | None
    memory_mb: int | None
    disk_mb: int | None
    never: bool
    ahead: int = 0
    cap: str | None = None


def _pool_exhausted(detail: str) -> PoolExhausted:
    lack = msgspec.json.decode(detail, type=_Lack)
    missing = Capacity(lack.vcpus or 0, lack.memory_mb or 0, lack.disk_mb or 0)
    return PoolExhausted(missing, ahead=lack.ahead, cap=lack.cap, never=lack.never)


_POOL_EXHAUSTED = "WRP01"
_UNAVAILABLE = (
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.TooManyConnectionsError,
    asyncpg.QueryCanceledError,
    asyncpg.LockNotAvailableError,
    asyncpg.DeadlockDetectedError,
    asyncpg.InvalidCatalogNameError,
    asyncpg.InvalidAuthorizationSpecificationError,
)
