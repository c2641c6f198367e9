"""A process that goes on in the background after its starter ends."""

import asyncio
import os
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path


async def launch(argv: Callable[[int], Sequence[str]], *, log: Path) -> asyncio.StreamReader:
    """Starts `argv(fd)` in its own session with output to `log`; what it writes to `fd` can be read here. The end of
    the stream means that it closed the descriptor or ended."""
    read, write = os.pipe()
    try:
        with log.open("ab") as output:
            # Popen, not asyncio: the event loop must not wait for a process that outlives it.
            process = subprocess.Popen(  # noqa: ASYNC220 - starting it takes a millisecond
                list(argv(write)),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                pass_fds=(write,),
                cwd="/",
            )
    finally:
        os.close(write)
    process.returncode = 0  # it is not ours to wait for; spares the destructor's warning
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(read, "rb", buffering=0)
    )
    return reader


async def wait(pid: int) -> None:
    """Returns when the process, ours or not, has ended."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(descriptor, ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)
