"""The object store that the hosts of an installation share: a folder, or whatever obstore knows by its URL.

Small on purpose: whole objects by name, bounded reads, and a put that is durable when it returns.
"""

import asyncio
import os
import secrets
from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import unquote, urlsplit

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import LocalStore, ObjectStore, from_url

from wrenn_server.linux import files
from wrenn_server.model.errors import Unavailable

IDENTITY = "store-id"
_TIMEOUT = "60s"
_AT_ONCE = 500
"""Names in one listing or deletion."""


@dataclass(frozen=True, slots=True)
class Met:
    """An object that a listing found."""

    name: str
    written_at: datetime


class Objects:
    """:raises Unavailable: `store_unavailable`, of all its methods: the store cannot be reached, or refuses"""

    def __init__(self, store: ObjectStore, folder: Path | None) -> None:
        self._store = store
        self._folder = folder

    @classmethod
    def open(cls, url: str) -> "Objects":
        """:param url: `/folder`, `file:///folder`, or `s3://bucket/prefix` and its like, with credentials from the
        usual variables (AWS_ACCESS_KEY_ID, AWS_ENDPOINT…)
        :raises ValueError: it is none of these; :raises OSError: the folder cannot be made"""
        parts = urlsplit(url)
        if parts.scheme in {"", "file"}:
            folder = Path(unquote(parts.path))
            if not folder.is_absolute() or parts.netloc:
                raise ValueError(
                    "expected the absolute path of a folder, or a URL such as s3://bucket/prefix"
                )
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            return cls(LocalStore(folder), folder)
        try:
            endpoints = (os.environ.get(name, "") for name in ("AWS_ENDPOINT", "AWS_ENDPOINT_URL"))
            plain = any(
                endpoint.startswith("http://") for endpoint in endpoints
            )  # whoever wrote that means it
            return cls(from_url(url, client_options={"timeout": _TIMEOUT, "allow_http": plain}), None)
        except (BaseError, ValueError) as error:
            reason = str(error).partition("\n")[0]
            raise ValueError(f"the object store cannot be used: {reason}") from error

    async def identity(self) -> str:
        """Of the store itself, made by whoever comes first: two hosts with the same one see the same objects."""
        with suppress(FileNotFoundError):
            return (await self.get(IDENTITY, 256)).decode()
        with _told("making its identity"):
            with suppress(AlreadyExistsError, FileExistsError):  # somebody was faster
                await obstore.put_async(self._store, IDENTITY, secrets.token_hex(8).encode(), mode="create")
        return (await self.get(IDENTITY, 256)).decode()

    async def put(self, name: str, data: bytes) -> None:
        """In place of one that may be there. Durable when it returns."""
        with _told(f"writing {name}"):
            await obstore.put_async(self._store, name, data)
            if self._folder is not None:
                await asyncio.to_thread(self._flush, self._folder / name)

    async def get(self, name: str, limit: int) -> bytes:
        """:raises FileNotFoundError: :raises Unavailable: also when it has more than `limit` bytes"""
        with _told(f"reading {name}"):
            found = await obstore.get_async(self._store, name)
            if found.meta["size"] > limit:
                raise Unavailable(f"object {name} of the store is too large", code="store_unavailable")
            return bytes(await found.bytes_async())

    async def age(self, name: str) -> float | None:
        """Seconds since it was written; None: there is none."""
        with _told(f"looking for {name}"):
            try:
                meta = await obstore.head_async(self._store, name)
            except FileNotFoundError:
                return None
            return (datetime.now(UTC) - meta["last_modified"]).total_seconds()

    async def names(self, prefix: str) -> AsyncGenerator[Met]:
        """:param prefix: whole components: `chunks`, `sandboxes/sb…`"""
        with _told(f"listing {prefix}"):
            found = obstore.list(self._store, prefix, chunk_size=_AT_ONCE)  # pyright: ignore[reportUnknownMemberType] - its other forms give tables of a library that is not installed
            async for batch in found:
                for meta in batch:
                    yield Met(meta["path"], meta["last_modified"])

    async def delete(self, names: Sequence[str]) -> None:
        """Idempotent."""
        for start in range(0, len(names), _AT_ONCE):
            with _told("deleting objects"):
                try:
                    await obstore.delete_async(self._store, list(names[start : start + _AT_ONCE]))
                except FileNotFoundError:
                    for name in names[start : start + _AT_ONCE]:
                        await self._delete_one(name)

    async def _delete_one(self, name: str) -> None:
        with suppress(FileNotFoundError):
            await obstore.delete_async(self._store, name)

    def _flush(self, path: Path) -> None:
        files.fsync_file(path)
        folder = path.parent
        while folder != self._folder:
            files.fsync_directory(folder)
            folder = folder.parent
        files.fsync_directory(folder)


@contextmanager
def _told(doing: str) -> Generator[None]:
    try:
        yield
    except FileNotFoundError:
        raise
    except (BaseError, OSError, ValueError) as error:
        reason = (
            os.strerror(error.errno)
            if isinstance(error, OSError) and error.errno
            else str(error).partition("\n")[0][:300]
        )
        raise Unavailable(
            f"the object store failed at {doing}: {reason}", code="store_unavailable"
        ) from error
