"""Files of a sandbox."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import BinaryIO

from wrenn._async._envd import AsyncEnvd
from wrenn._concurrency import async_pieces
from wrenn._wire import (
    Empty,
    EntriesAnswer,
    EntryAnswer,
    ListRequest,
    MoveRequest,
    PathRequest,
    Written,
    decode,
)
from wrenn.errors import (
    ConflictError,
    ConnectionLostError,
    GuestError,
    PathNotFoundError,
    ProtocolError,
    TooLargeError,
    mapped,
)
from wrenn.models import FileInfo

MAX_READ = 1024 * 1024 * 1024
"""Bytes that `read` takes into memory."""


class AsyncFiles:
    """`sandbox.files`.

    Paths are absolute, start with `~`, or are relative to the user's home. `user` is whom to act as; the template's
    user when not given.

    ```python
    await sandbox.files.write("data/in.csv", "a,b\\n1,2\\n")
    for entry in await sandbox.files.list("data"):
        print(entry.name, entry.size)
    text = await sandbox.files.read("data/in.csv")
    with open("results.zip", "wb") as file:
        await sandbox.files.download("results.zip", file)
    ```
    """

    def __init__(self, envd: AsyncEnvd) -> None:
        self._envd = envd

    async def read(self, path: str, *, user: str | None = None) -> str:
        """A file's text.

        :raises PathNotFoundError: there is no such file
        :raises InvalidRequestError: it is a directory, or may not be read
        :raises UnicodeDecodeError: it is not UTF-8: use `read_bytes`
        :raises TooLargeError: more than 1 GiB: use `download`
        """
        return (await self.read_bytes(path, user=user)).decode()

    async def read_bytes(self, path: str, *, user: str | None = None) -> bytes:
        """A file's bytes; raises as `read` does."""
        try:
            content, _ = await self._envd.client.transport.fetch(
                "GET",
                "/files",
                params=_query(path, user),
                headers=self._envd.headers(),
                idempotent=True,
                not_found=PathNotFoundError,
                limit=MAX_READ,
            )
        except TooLargeError as exc:
            raise TooLargeError(f"{path} has more than {MAX_READ} bytes", hint="use download()") from exc
        except (GuestError, ConnectionLostError) as exc:
            raise await self._envd.explained(exc) from exc
        return content

    async def download(self, path: str, to: BinaryIO, *, user: str | None = None) -> int:
        """Copies a file of any size into one that is open for writing here; gives the number of bytes.

        :raises PathNotFoundError: there is no such file
        """
        size = 0
        async with self.stream(path, user=user) as content:
            async for piece in content:
                to.write(piece)
                size += len(piece)
        return size

    @asynccontextmanager
    async def stream(self, path: str, *, user: str | None = None) -> AsyncGenerator[AsyncIterator[bytes]]:
        """A file's bytes as they come.

        ```python
        async with sandbox.files.stream("big.bin") as content:
            async for piece in content:
                digest.update(piece)
        ```

        :raises PathNotFoundError: there is no such file
        """
        transport = self._envd.client.transport
        async with transport.stream(
            "GET",
            "/files",
            params=_query(path, user),
            headers=self._envd.headers(),
            timeout=transport.config.timeouts.request,
            not_found=PathNotFoundError,
        ) as response:
            with mapped(f"download of {path}", transport.config.base_url):
                yield response.aiter_raw()

    async def write(
        self, path: str, data: str | bytes | bytearray | memoryview | BinaryIO, *, user: str | None = None
    ) -> str:
        """Writes a file, replacing what was there; makes the directories above it. Gives its absolute path.

        :param data: text, bytes, or a file open for reading bytes, which is sent from where it stands without being
            taken into memory
        :raises InvalidRequestError: the path is a directory, or may not be written
        :raises DiskFullError: no space in the sandbox
        """
        content: bytes | AsyncIterable[bytes]
        if isinstance(data, str):
            content = data.encode()
        elif isinstance(data, bytes | bytearray | memoryview):
            content = bytes(data)
        else:
            content = async_pieces(data)
        try:
            answer, _ = await self._envd.client.transport.fetch(
                "POST",
                "/files",
                content,
                params=_query(path, user),
                headers={**self._envd.headers(), "Content-Type": "application/octet-stream"},
            )
        except (GuestError, ConnectionLostError) as exc:
            raise await self._envd.explained(exc) from exc
        written = decode(answer, list[Written])
        if not written:
            raise ProtocolError("the sandbox's agent did not say what it wrote")
        return written[0].path

    async def list(self, path: str = "", *, depth: int = 1, user: str | None = None) -> list[FileInfo]:
        """The entries of a directory, with `depth` > 1 also those below, depth first.

        :raises PathNotFoundError: there is no such directory
        :raises InvalidRequestError: it is not a directory
        """
        if depth < 1:
            raise ValueError("depth must be at least 1")
        answer = await self._envd.unary(
            f"{_SERVICE}/ListDir",
            ListRequest(path, depth),
            EntriesAnswer,
            user=user,
            idempotent=True,
            not_found=PathNotFoundError,
        )
        return [entry.info() for entry in answer.entries]

    async def stat(self, path: str, *, user: str | None = None) -> FileInfo:
        """:raises PathNotFoundError: there is no such entry"""
        answer = await self._envd.unary(
            f"{_SERVICE}/Stat",
            PathRequest(path),
            EntryAnswer,
            user=user,
            idempotent=True,
            not_found=PathNotFoundError,
        )
        return answer.entry.info()

    async def exists(self, path: str, *, user: str | None = None) -> bool:
        try:
            await self.stat(path, user=user)
        except PathNotFoundError:
            return False
        return True

    async def make_dir(self, path: str, *, user: str | None = None) -> bool:
        """Makes a directory and those above it. False when it was there already."""
        try:
            await self._envd.unary(f"{_SERVICE}/MakeDir", PathRequest(path), EntryAnswer, user=user)
        except ConflictError:
            return False
        return True

    async def rename(self, old: str, new: str, *, user: str | None = None) -> FileInfo:
        """Moves a file or directory; makes the directories above its new place.

        :raises PathNotFoundError: there is no `old`
        """
        answer = await self._envd.unary(
            f"{_SERVICE}/Move",
            MoveRequest(old, new),
            EntryAnswer,
            user=user,
            not_found=PathNotFoundError,
        )
        return answer.entry.info()

    async def remove(self, path: str, *, user: str | None = None) -> None:
        """Removes a file, or a directory with everything in it. One that is not there is not an error."""
        await self._envd.unary(f"{_SERVICE}/Remove", PathRequest(path), Empty, user=user, idempotent=True)


_SERVICE = "filesystem.Filesystem"


def _query(path: str, user: str | None) -> Mapping[str, str]:
    return {"path": path, **({"username": user} if user else {})}
