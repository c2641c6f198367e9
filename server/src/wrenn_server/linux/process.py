"""Running programs of the host. One function for commands that end; VMMs have their own (`spawn`)."""

import asyncio
import contextlib
import os
import shlex
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

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
