"""`wrenn cp`: a file into a sandbox or out of it."""

from __future__ import annotations

import sys
from pathlib import Path, PurePosixPath
from typing import Annotated

from cyclopts import Parameter

from wrenn import Sandbox
from wrenn.cli.sandboxes import HERE
from wrenn.cli.settings import Connection
from wrenn.errors import PathNotFoundError

TAR_HINT = "for a directory: `tar c DIR | wrenn exec -i ID -- tar x`, or `wrenn exec ID -- tar c DIR | tar x`"


Place = Annotated[str, Parameter(allow_leading_hyphen=True)]
"""`-` is one."""


def cp(source: Place, target: Place, /, *, connection: Connection = HERE) -> None:
    """Copy a file: `wrenn cp data.csv ID:data.csv`, `wrenn cp ID:/etc/os-release .`

    `-` is this command's input or output.

    :param source: A file here, or ID:PATH.
    :param target: A file or directory here, or ID:PATH.
    """
    here, there = split(source), split(target)
    if (here is None) == (there is None):
        raise ValueError("one of the two is in a sandbox: ID:PATH")
    with connection.client() as client:
        if there is not None:
            upload(source, Sandbox.connect(there[0], client=client), there[1])
        elif here is not None:
            download(Sandbox.connect(here[0], client=client), here[1], target)


def split(place: str) -> tuple[str, str] | None:
    """`ID:PATH` in its parts; None for a path here. A path with a colon is written `./a:b`."""
    sandbox_id, colon, path = place.partition(":")
    return (sandbox_id, path) if colon and sandbox_id.isalnum() else None


def upload(source: str, sandbox: Sandbox, path: str) -> None:
    if source == "-":
        sandbox.files.write(path, sys.stdin.buffer)
        return
    file = Path(source)
    if file.is_dir():
        raise ValueError(f"{source} is a directory; {TAR_HINT}")
    if not path or path.endswith("/") or is_directory(sandbox, path):
        path = str(PurePosixPath(path) / file.name)
    with file.open("rb") as content:
        sandbox.files.write(path, content)


def download(sandbox: Sandbox, path: str, target: str) -> None:
    if is_directory(sandbox, path):
        raise ValueError(f"{path} is a directory; {TAR_HINT}")
    if target == "-":
        sandbox.files.download(path, sys.stdout.buffer)
        sys.stdout.buffer.flush()
        return
    file = Path(target)
    if file.is_dir():
        file /= PurePosixPath(path).name
    partial = file.with_name(file.name + ".part")
    try:
        with partial.open("wb") as content:
            sandbox.files.download(path, content)
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)


def is_directory(sandbox: Sandbox, path: str) -> bool:
    try:
        return sandbox.files.stat(path).is_dir
    except PathNotFoundError:
        return False
