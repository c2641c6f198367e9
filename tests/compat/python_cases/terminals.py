"""PTYs."""

import asyncio
from typing import Any

from .kit import Sdk, case, e2b, raises, until


class Terminal:
    """A PTY of either half, with what it has shown."""

    def __init__(self, sdk: Sdk, sandbox: Any) -> None:
        self.sdk = sdk
        self.sandbox = sandbox
        self.shown = b""
        self.handle: Any = None
        self._waiting: asyncio.Task[Any] | None = None

    def show(self, data: bytes) -> None:
        self.shown += data

    async def create(self, cols: int = 80, rows: int = 24, **options: Any) -> "Terminal":
        if self.sdk.is_async:
            options["on_data"] = self.show
        size = e2b.PtySize(rows=rows, cols=cols)
        self.handle = await self.sdk(self.sandbox.pty.create, size, **({"timeout": 0} | options))
        return self

    async def connect(self, pid: int) -> "Terminal":
        options: dict[str, Any] = {"on_data": self.show} if self.sdk.is_async else {}
        self.handle = await self.sdk(self.sandbox.pty.connect, pid, **options)
        return self

    def read(self) -> asyncio.Task[Any]:
        """The synchronous half shows only while it waits, and cannot disconnect any more once it does."""
        if self._waiting is None:
            options: dict[str, Any] = {} if self.sdk.is_async else {"on_pty": self.show}
            self._waiting = self.sdk.start(self.handle.wait, **options)
        return self._waiting

    async def type(self, text: str) -> None:
        await self.sdk(self.sandbox.pty.send_stdin, self.handle.pid, text.encode())

    async def shows(self, text: str) -> None:
        async def shown() -> bool:
            return text.encode() in self.shown

        self.read()
        try:
            await until(shown, seconds=15)
        except AssertionError:
            raise AssertionError(f"{text!r} is not in {self.shown!r}") from None

    async def result(self) -> Any:
        return await self.read()

    async def kill(self) -> None:
        await self.sdk(self.sandbox.pty.kill, self.handle.pid)
        await asyncio.gather(self.result(), return_exceptions=True)


@case(
    "pty.create",
    "a terminal of the size asked for, which runs what is typed",
    also=("pty.send_stdin",),
    domain=True,
)
async def create(sdk: Sdk) -> None:
    terminal = await Terminal(sdk, await sdk.shared()).create(cols=101, rows=33)
    await terminal.type("stty size; echo $TERM $((6*7)); tty; exit 0\n")
    result = await terminal.result()
    assert result.exit_code == 0
    for text in ("33 101", "xterm-256color 42", "/dev/pts/"):
        assert text.encode() in terminal.shown, terminal.shown


@case("pty.create", "user, cwd, envs")
async def options(sdk: Sdk) -> None:
    sandbox = await sdk.shared()
    terminal = await Terminal(sdk, sandbox).create(user="root", cwd="/usr", envs={"COLOUR": "blue"})
    await terminal.type("echo $(whoami)-$(pwd)-$COLOUR\n")
    await terminal.shows("root-/usr-blue")
    await terminal.kill()


@case("pty.create", "the exit code comes back")
async def exit_code(sdk: Sdk) -> None:
    terminal = await Terminal(sdk, await sdk.shared()).create()
    await terminal.type("exit 9\n")
    with raises(e2b.CommandExitException) as raised:
        await terminal.result()
    assert raised.error.exit_code == 9


@case("pty.create", "control characters: ^C interrupts, ^D ends")
async def control(sdk: Sdk) -> None:
    terminal = await Terminal(sdk, await sdk.shared()).create()
    # Printed by who is interrupted: a shell that has yet to hand the terminal over would lose the ^C.
    await terminal.type("sh -c 'echo $((1+1))-begun; exec sleep 300'\n")
    await terminal.shows("2-begun")
    await terminal.type("\x03")
    # At a prompt the shell has the terminal in raw mode; a ^D before that is an end of a line that nobody reads.
    await terminal.type("PS1=at''prompt; echo $((40+2))\n")
    await terminal.shows("42")
    await terminal.shows("atprompt")
    await terminal.type("\x04")
    await asyncio.gather(terminal.result(), return_exceptions=True)


@case("pty.resize", "the new size is seen inside", domain=True)
async def resize(sdk: Sdk) -> None:
    sandbox = await sdk.shared()
    terminal = await Terminal(sdk, sandbox).create(cols=80, rows=24)
    await sdk(sandbox.pty.resize, terminal.handle.pid, e2b.PtySize(rows=44, cols=133))
    await terminal.type("stty size\n")
    await terminal.shows("44 133")
    await terminal.kill()
    with raises(e2b.NotFoundException):
        await sdk(sandbox.pty.resize, 999_999, e2b.PtySize(rows=44, cols=133))


@case("pty.kill", "True and the shell is gone at once; then False")
async def kill(sdk: Sdk) -> None:
    sandbox = await sdk.shared()
    terminal = await Terminal(sdk, sandbox).create()
    pid = terminal.handle.pid
    assert await sdk(sandbox.pty.kill, pid) is True
    assert (
        await sdk(sandbox.commands.run, f"kill -0 {pid} 2>/dev/null || echo gone", user="root")
    ).stdout == "gone\n"
    with raises(e2b.CommandExitException):
        await terminal.result()
    assert await sdk(sandbox.pty.kill, pid) is False


@case("pty.connect", "a second client shows and types; the first goes on", domain=True)
async def connect(sdk: Sdk) -> None:
    sandbox = await sdk.shared()
    first = await Terminal(sdk, sandbox).create()
    await first.type("echo $((1+1))-first\n")
    await first.shows("2-first")
    other = await sdk(sdk.Sandbox.connect, sandbox.sandbox_id)
    second = await Terminal(sdk, other).connect(first.handle.pid)
    await second.type("echo $((1+2))-second\n")
    await second.shows("3-second")
    await first.shows("3-second")
    await first.kill()
    await asyncio.gather(second.result(), return_exceptions=True)
    with raises(e2b.NotFoundException):
        await Terminal(sdk, sandbox).connect(999_999)


@case("pty.connect", "after a disconnect: the shell went on")
async def reconnect(sdk: Sdk) -> None:
    sandbox = await sdk.shared()
    first = await Terminal(sdk, sandbox).create()
    await first.type("COLOUR=blue\n")
    await sdk(first.handle.disconnect)
    second = await Terminal(sdk, sandbox).connect(first.handle.pid)
    await second.type("echo $COLOUR-$((1+2))\n")
    await second.shows("blue-3")
    await second.kill()


@case("pty.stream_input", "many pieces over one stream", since=(2, 63))
async def stream_input(sdk: Sdk) -> None:
    sandbox = await sdk.shared()
    terminal = await Terminal(sdk, sandbox).create()
    pieces = ["echo ", "$((", "40", "+", "2", "))-piece", "\n"]
    if sdk.is_async:
        async with sandbox.pty.stream_input(terminal.handle.pid) as stream:
            for piece in pieces:
                await stream.send(piece)
    else:
        await sdk(sandbox.pty.stream_input, terminal.handle.pid, pieces)
    await terminal.shows("42-piece")
    await terminal.kill()
