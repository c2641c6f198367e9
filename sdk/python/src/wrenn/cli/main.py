"""The command line: its commands, and what becomes of errors."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Sequence
from typing import cast

from cyclopts import App, CycloptsError, Group

import wrenn
from wrenn.cli import copying, execution, output, sandboxes
from wrenn.errors import WrennError

SERVER = "wrenn_server.up.cli"
"""A module with `commands: list[tuple[str, Callable]]`: name and function, whose signature and docstring make the
command. An int that a function returns is the exit code. It is there when the distribution `wrenn-server` is."""

SANDBOXES = Group("Sandboxes", sort_key=1)
THIS_MACHINE = Group("This machine", sort_key=2)

COMMANDS: list[tuple[str, Callable[..., object]]] = [
    ("create", sandboxes.create),
    ("list", sandboxes.list_),
    ("get", sandboxes.get),
    ("exec", execution.exec_),
    ("run", execution.run),
    ("cp", copying.cp),
    ("pause", sandboxes.pause),
    ("resume", sandboxes.resume),
    ("snapshot", sandboxes.snapshot),
    ("rollback", sandboxes.rollback),
    ("fork", sandboxes.fork),
    ("timeout", sandboxes.timeout),
    ("url", sandboxes.url),
    ("kill", sandboxes.kill),
]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command. Returns the exit code: 2 for a command line that is none; see `output.EXIT_CODES`."""
    tokens = list(sys.argv[1:] if arguments is None else arguments)
    own = bool(tokens) and tokens[0] in dict(COMMANDS)
    try:
        # The server's commands take a while to import; ours do not need them.
        result = build([] if own else server_commands())(
            tokens, exit_on_error=False, result_action="return_value"
        )
        sys.stdout.flush()
    except CycloptsError:
        return 2  # said already
    except WrennError as exc:
        output.write_error(exc)
        return output.exit_code(exc)
    except (ValueError, OSError) as exc:
        if isinstance(exc, BrokenPipeError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return execution.BROKEN_PIPE
        sys.stderr.write(f"error: {exc}\n")
        return 2 if isinstance(exc, ValueError) else 1
    except KeyboardInterrupt:
        return output.INTERRUPTED
    return result if isinstance(result, int) and not isinstance(result, bool) else 0


def build(server: Sequence[tuple[str, Callable[..., object]]]) -> App:
    app = App(
        name="wrenn",
        help="Sandboxes: microVMs to run programs in.",
        version=wrenn.__version__,
        help_format="plaintext",
    )
    for group, commands in ((SANDBOXES, COMMANDS), (THIS_MACHINE, server)):
        for order, (name, function) in enumerate(commands):
            app.command(function, name=name, group=group, sort_key=order)
    return app


def server_commands() -> Sequence[tuple[str, Callable[..., object]]]:
    """What wrenn-server adds; nothing when it is not installed."""
    try:
        module = importlib.import_module(SERVER)
    except ImportError as exc:
        if not (isinstance(exc, ModuleNotFoundError) and exc.name and SERVER.startswith(exc.name)):
            sys.stderr.write(f"wrenn-server is installed but its commands cannot be loaded: {exc}\n")
        return []
    return cast("Sequence[tuple[str, Callable[..., object]]]", module.commands)


if __name__ == "__main__":
    sys.exit(main())
