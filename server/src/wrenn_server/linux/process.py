"""Running programs of the host: `run` for commands that end, `spawn` for programs that may outlive us."""

import asyncio
import contextlib
import ctypes
import fcntl
import os
import shlex
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from wrenn_server.linux import scheduler

_PR_SET_CHILD_SUBREAPER = 36  # prctl(2)
_SIGNALS_PYTHON_IGNORES = (signal.SIGPIPE, signal.SIGXFSZ)
OUTPUT_LIMIT = 64 * 1024 * 1024
_CLEAN_ENV = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LC_ALL": "C.UTF-8",
    "HOME": "/root",
}


@dataclass(frozen=True, slots=True)
class Completed:
    returncode: int
    stdout: bytes
    stderr: bytes


class CommandFailed(Exception):
    """A command ended with an error; the text can be pasted into a shell."""

    def __init__(self, argv: Sequence[str], returncode: int, stderr: bytes) -> None:
        last = b"\n".join(stderr.strip().splitlines()[-8:]).decode(errors="replace")
        super().__init__(f"`{shlex.join(argv)}` ended with {returncode}" + (f": {last}" if last else ""))
        self.argv = list(argv)
        self.returncode = returncode
        self.stderr = stderr


def clean_env(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of every program that we start: nothing of ours leaks into it but certificates and proxies
    that package managers need."""
    kept = {
        k: v
        for k, v in os.environ.items()
        if k.lower().endswith("_proxy") or k in {"SSL_CERT_FILE", "TMPDIR"}
    }
    return {**_CLEAN_ENV, **kept, **(extra or {})}


async def run(
    argv: Sequence[str],
    *,
    input: bytes | None = None,
    env: Mapping[str, str] | None = None,
    timeout: float | None = None,
    cwd: Path | None = None,
    check: bool = True,
    on_line: Callable[[str], None] | None = None,
) -> Completed:
    """Runs a command to its end in its own session.

    `env` is added to a clean environment. `on_line` gets every line of stderr and stdout as it comes.
    :raises CommandFailed: it ended with something else than 0 (unless `check` is false), or is not installed (127);
    :raises TimeoutError: it took longer than `timeout` seconds. Whatever ends the wait, the process group is dead then.
    """
    try:
        process = await asyncio.create_subprocess_exec(
            *argv,
            stdin=subprocess.PIPE if input is not None else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=clean_env(env),
            cwd=cwd,
            start_new_session=True,
        )
    except FileNotFoundError as error:
        raise CommandFailed(argv, 127, f"{argv[0]} is not installed".encode()) from error
    try:
        async with asyncio.timeout(timeout):
            assert process.stdout is not None  # noqa: S101 - a pipe, see above
            assert process.stderr is not None  # noqa: S101
            _, stdout, stderr, returncode = await asyncio.gather(
                _feed(process, input),
                _collect(process.stdout, on_line),
                _collect(process.stderr, on_line),
                process.wait(),
            )
    except BaseException:
        _kill_group(process.pid)
        await asyncio.shield(process.wait())
        raise
    if check and returncode != 0:
        raise CommandFailed(argv, returncode, stderr or stdout)
    return Completed(returncode, stdout, stderr)


async def _feed(process: asyncio.subprocess.Process, data: bytes | None) -> None:
    if process.stdin is None:
        return
    try:
        if data:
            process.stdin.write(data)
            await process.stdin.drain()
    except (BrokenPipeError, ConnectionResetError):
        pass  # the command did not want all of its input; its exit code tells whether that matters
    finally:
        process.stdin.close()


async def _collect(stream: asyncio.StreamReader, on_line: Callable[[str], None] | None) -> bytes:
    output = bytearray()
    pending = b""
    while chunk := await stream.read(65536):
        if len(output) < OUTPUT_LIMIT:
            output += chunk
        if on_line is not None:
            *lines, pending = (pending + chunk).split(b"\n")
            for line in lines:
                on_line(line.decode(errors="replace"))
            pending = pending[-4096:]
    if on_line is not None and pending:
        on_line(pending.decode(errors="replace"))
    return bytes(output)


def _kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, 9)


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """Whom a program runs as: no capabilities, no way to gain any."""

    uid: int
    gid: int
    groups: tuple[int, ...] = ()


def confined(argv: Sequence[str], *, user: User | None = None, cgroup: Sequence[Path] = ()) -> list[str]:
    """`argv` behind a chain of small programs that join the cgroups (`cgroup.procs` files), forbid core dumps and
    drop all privileges before the program itself starts. Pure."""
    script = ["ulimit -c 0", *(f"echo 0 > {shlex.quote(os.fspath(file))}" for file in cgroup), 'exec "$@"']
    chain = ["/bin/sh", "-c", " && ".join(script), "sh"]
    if user is not None:
        groups = (
            ["--groups", ",".join(str(gid) for gid in user.groups)] if user.groups else ["--clear-groups"]
        )
        chain += ["setpriv", "--reuid", str(user.uid), "--regid", str(user.gid), *groups,
                  "--no-new-privs", "--bounding-set=-all", "--inh-caps=-all"]  # fmt: skip
    return [*chain, *argv]


class Process:
    """A program that runs in its own session, held by pidfd: its number cannot be mistaken for another's."""

    def __init__(self, pid: int, pidfd: int, started: int) -> None:
        self.pid = pid
        self.started = started
        """Start time in clock ticks since boot; with the pid it names the process as long as the host is up."""
        self._pidfd = pidfd
        self._ended: asyncio.Future[int | None] | None = None

    @classmethod
    def open(cls, pid: int, started: int | None = None) -> "Process":
        """Holds a running process.

        :raises ProcessLookupError: it does not exist, has ended, or is another one than `started` says.
        """
        pidfd = os.pidfd_open(pid)
        try:
            found = start_time(pid)
            if started is not None and found != started:
                raise ProcessLookupError(f"process {pid} is not the one that was started at {started}")
        except BaseException:
            os.close(pidfd)
            raise
        return cls(pid, pidfd, found)

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Sends a signal; nothing happens when the process has ended."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, number)

    async def wait(self) -> int | None:
        """Waits for the end, as often and by as many tasks as wanted. The exit code, `-n` for signal n, None when
        the process is not our child and only its parent knows."""
        if self._ended is None:
            loop = asyncio.get_running_loop()
            self._ended = loop.create_future()
            loop.add_reader(self._pidfd, self._reap)
        return await asyncio.shield(self._ended)

    def _reap(self) -> None:
        assert self._ended is not None  # noqa: S101 - set before the reader is added
        asyncio.get_running_loop().remove_reader(self._pidfd)
        self._ended.set_result(reap(self._pidfd))

    def close(self) -> None:
        """Lets go of the process, which goes on if it still runs. Idempotent."""
        if self._ended is not None and not self._ended.done():
            asyncio.get_running_loop().remove_reader(self._pidfd)
            self._ended.cancel()
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1


def spawn(
    argv: Sequence[str],
    *,
    fds: Mapping[int, int],
    env: Mapping[str, str] | None = None,
    turn: float | None = None,
) -> Process:
    """Starts a program in its own session; it outlives us.

    `fds` maps its file descriptors to ours; everything else is closed, an absent 0, 1 or 2 is /dev/null. Its
    environment is `env` and nothing else. It inherits the namespaces of the calling thread. Blocks for 1 ms or so.
    `turn`: seconds, as `scheduler.batch`.
    :raises OSError: the program cannot be executed.
    """
    with contextlib.ExitStack() as stack:
        null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        stack.callback(os.close, null)
        wanted = {0: null, 1: null, 2: null, **fds}
        # Python's own descriptors are closed by exec; those that we were started with may not be.
        actions: list[tuple[int, int] | tuple[int, int, int]] = [
            (os.POSIX_SPAWN_CLOSE, fd) for fd in _inheritable() if fd not in wanted
        ]
        for target, source in wanted.items():
            # Lifted above every target first, so that no dup2 in the child overwrites a source still needed.
            lifted = fcntl.fcntl(source, fcntl.F_DUPFD_CLOEXEC, max(wanted) + 1)
            stack.callback(os.close, lifted)
            actions.append((os.POSIX_SPAWN_DUP2, lifted, target))
        if turn is not None:
            stack.enter_context(scheduler.batch(turn))
        pid = os.posix_spawnp(argv[0], list(argv), dict(env or {"PATH": _CLEAN_ENV["PATH"]}), file_actions=actions,
                              setsid=True, setsigmask=(), setsigdef=_SIGNALS_PYTHON_IGNORES)  # fmt: skip
    # Not `open`: the child may have ended already, and its exit code is still to be had.
    return Process(pid, os.pidfd_open(pid), _stat(pid)[1])


def _inheritable() -> list[int]:
    found: list[int] = []
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # the listing's own descriptor is gone
            if os.get_inheritable(int(name)):
                found.append(int(name))
    return found


def start_time(pid: int) -> int:
    """In clock ticks since boot.

    :raises ProcessLookupError: no such process, or only its zombie is left.
    """
    state, started = _stat(pid)
    if state in {b"Z", b"X"}:
        raise ProcessLookupError(f"process {pid} has ended")
    return started


def _stat(pid: int) -> tuple[bytes, int]:
    try:
        # The name in parentheses may contain anything, so fields count from its end (proc(5)).
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError) as error:
        raise ProcessLookupError(f"process {pid} does not exist") from error
    return fields[0], int(fields[19])


def reap(pidfd: int) -> int | None:
    """The exit code of an ended child (`-n` for signal n), None for what is not our child. Never blocks."""
    try:
        result = os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG)
    except ChildProcessError:
        return None
    if result is None:
        return None
    return result.si_status if result.si_code == os.CLD_EXITED else -result.si_status


def become_subreaper() -> None:
    """Orphans among our descendants become our children, so that their exit codes reach us (prctl(2))."""
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        code = ctypes.get_errno()
        raise OSError(code, f"prctl(PR_SET_CHILD_SUBREAPER): {os.strerror(code)}")
