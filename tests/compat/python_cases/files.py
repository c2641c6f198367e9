"""Files and directories in the sandbox."""

import gzip
import hashlib
import io
import os
import time
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from typing import Any

from .kit import Sdk, case, chunks, e2b, fetch, raises


@case("files.write", "text, bytes, nothing; replaces; makes directories", also=("files.read",), domain=True)
async def write(sdk: Sdk) -> None:
    sandbox = await sdk.shared()
    info = await sdk(sandbox.files.write, "w/new/ä ü.txt", "long text ä\n")
    assert (info.name, info.path, info.type) == ("ä ü.txt", "/home/user/w/new/ä ü.txt", e2b.FileType.FILE)
    assert await sdk(sandbox.files.read, "w/new/ä ü.txt") == "long text ä\n"
    await sdk(sandbox.files.write, "w/new/ä ü.txt", b"\0\xff")
    assert bytes(await sdk(sandbox.files.read, "w/new/ä ü.txt", format="bytes")) == b"\0\xff"
    await sdk(sandbox.files.write, "w/new/ä ü.txt", "")
    assert await sdk(sandbox.files.read, "w/new/ä ü.txt") == ""
    assert (await sdk(sandbox.commands.run, "stat -c '%U %G %a' w/new 'w/new/ä ü.txt'")).stdout == (
        "user user 755\nuser user 644\n"
    )


@case("files.write", "from an open file", domain=True)
async def write_file(sdk: Sdk) -> None:
    sandbox = await sdk.shared()
    data = os.urandom(300_000)
    await sdk(sandbox.files.write, "/tmp/from-file", io.BytesIO(data))
    assert bytes(await sdk(sandbox.files.read, "/tmp/from-file", format="bytes")) == data
    await sdk(sandbox.files.write, "/tmp/from-file", io.StringIO("text ä"))
    assert await sdk(sandbox.files.read, "/tmp/from-file") == "text ä"


@case("files.write", "from an iterator of bytes", since=(2, 63), domain=True)
async def write_iterator(sdk: Sdk) -> None:
    sandbox = await sdk.shared()
    pieces = [os.urandom(100_000) for _ in range(5)]

    async def give() -> AsyncIterator[bytes]:
        for piece in pieces:
            yield piece

    def give_at_once() -> Iterator[bytes]:
        yield from pieces

    await sdk(sandbox.files.write, "/tmp/from-iterator", give() if sdk.is_async else give_at_once())
    assert bytes(await sdk(sandbox.files.read, "/tmp/from-iterator", format="bytes")) == b"".join(pieces)


@case("files.write", "as a form, as octets, packed (gzip)", also=("files.read",))
async def encodings(sdk: Sdk) -> None:
    sandbox = await sdk.shared()
    data = b"0123456789" * 20_000
    for number, options in enumerate(
        ({}, {"use_octet_stream": False}, {"use_octet_stream": True}, {"gzip": True})
    ):
        path = f"/tmp/encoded-{number}"
        await sdk(sandbox.files.write, path, data, **options)
        assert bytes(await sdk(sandbox.files.read, path, format="bytes")) == data
        assert bytes(await sdk(sandbox.files.read, path, format="bytes", gzip=True)) == data
    await sdk(sandbox.files.write, "/tmp/packed.gz", gzip.compress(data))
    assert gzip.decompress(await sdk(sandbox.files.read, "/tmp/packed.gz", format="bytes")) == data


@case("files.write", "metadata: shown by get_info and list, replaced by each write", also=("files.get_info",))
async def metadata(sdk: Sdk) -> None:
    sandbox = await sdk.shared()
    for octets in (False, True):
        info = await sdk(
            sandbox.files.write,
            "/tmp/meta/file",
            "x",
            metadata={"kind": "a b", "more": "1"},
            use_octet_stream=octets,
        )
        assert info.metadata == {"kind": "a b", "more": "1"}
        assert (await sdk(sandbox.files.get_info, "/tmp/meta/file")).metadata == {"kind": "a b", "more": "1"}
        [entry] = await sdk(sandbox.files.list, "/tmp/meta")
        assert entry.metadata == {"kind": "a b", "more": "1"}
        await sdk(
            sandbox.files.write, "/tmp/meta/file", "x", metadata={"other": "2"}, use_octet_stream=octets
        )
        assert (await sdk(sandbox.files.get_info, "/tmp/meta/file")).metadata == {"other": "2"}
        await sdk(sandbox.files.write, "/tmp/meta/file", "x", use_octet_stream=octets)
        assert not (await sdk(sandbox.files.get_info, "/tmp/meta/file")).metadata


@case("files.write", "as root; a place that the user may not write to is refused")
async def as_root(sdk: Sdk) -> None:
    sandbox = await sdk.shared()
    await sdk(sandbox.files.write, "/etc/of-root", "x", user="root")
    info = await sdk(sandbox.files.get_info, "/etc/of-root")
    assert (info.owner, info.group) == ("root", "root")
    await sdk(sandbox.files.write, "of-root", "x", user="root")
    assert await sdk(sandbox.files.exists, "/root/of-root", user="root")


@case("files.write", "a directory, or a path below a file, is refused")
async def refused(sdk: Sdk) -> None:
    sandbox = await sdk.shared()
    with raises(e2b.SandboxException):
        await sdk(sandbox.files.write, "/tmp", "x")
    await sdk(sandbox.files.write, "/tmp/a-file", "x")
    with raises(e2b.SandboxException):
        await sdk(sandbox.files.write, "/tmp/a-file/below", "x")


@case("files.write", "a full disk raises NotEnoughSpaceException and leaves the old file")
async def full_disk(sdk: Sdk) -> None:
    async with sdk.sandbox() as sandbox:
        await sdk(sandbox.files.write, "/home/user/old", "old")
        fill = "fallocate -l $(($(stat -f -c %a /home) * $(stat -f -c %S /home) - 2000000)) /home/user/fill"
        await sdk(sandbox.commands.run, fill, user="root")
        with raises(e2b.NotEnoughSpaceException):
            await sdk(sandbox.files.write, "/home/user/old", os.urandom(8_000_000))
        assert await sdk(sandbox.files.read, "/home/user/old") == "old"
        assert (await sdk(sandbox.commands.run, "echo 1")).stdout == "1\n"


@case("files.write_files", "many at once; none makes no request", domain=True)
async def write_files(sdk: Sdk) -> None:
    sandbox = await sdk.shared()
    entries: list[dict[str, Any]] = [
        {"path": f"/tmp/many/{number}/file", "data": f"text {number}"} for number in range(10)
    ]
    entries.append({"path": "many-relative", "data": b"bytes"})
    infos = await sdk(sandbox.files.write_files, entries)
    assert [info.path for info in infos] == [
        *(f"/tmp/many/{number}/file" for number in range(10)),
        "/home/user/many-relative",
    ]
    for number in (0, 9):
        assert await sdk(sandbox.files.read, f"/tmp/many/{number}/file") == f"text {number}"
    assert await sdk(sandbox.files.read, "many-relative") == "bytes"
    assert await sdk(sandbox.files.write_files, []) == []


@case("files.read", "text, bytes, stream", domain=True)
async def read(sdk: Sdk) -> None:
    sandbox = await sdk.shared()
    await sdk(sandbox.files.write, "/tmp/read", "text ä")
    assert await sdk(sandbox.files.read, "/tmp/read") == "text ä"
    assert bytes(await sdk(sandbox.files.read, "/tmp/read", format="bytes")) == "text ä".encode()
    stream = await sdk(sandbox.files.read, "/tmp/read", format="stream")
    assert b"".join(await chunks(stream)) == "text ä".encode()


@case("files.read", "20 MB both ways, whole and as a stream", also=("files.write",), domain=True)
async def large(sdk: Sdk) -> None:
    sandbox = await sdk.shared()
    data = os.urandom(20_000_000)
    await sdk(sandbox.files.write, "/tmp/large", data)
    digest = hashlib.sha256(data).hexdigest()
    assert (await sdk(sandbox.commands.run, "sha256sum /tmp/large")).stdout.split()[0] == digest
    assert hashlib.sha256(await sdk(sandbox.files.read, "/tmp/large", format="bytes")).hexdigest() == digest
    stream = await sdk(sandbox.files.read, "/tmp/large", format="stream")
    pieces = await chunks(stream)
    assert len(pieces) > 1
    assert hashlib.sha256(b"".join(pieces)).hexdigest() == digest
    await sdk(sandbox.files.remove, "/tmp/large")


@case("files.read", "missing files, directories; files of /proc")
async def read_odd(sdk: Sdk) -> None:
    sandbox = await sdk.shared()
    missing = getattr(e2b, "FileNotFoundException", e2b.NotFoundException)
    with raises(missing):
        await sdk(sandbox.files.read, "/no/such/file")
    with raises(e2b.SandboxException):
        await sdk(sandbox.files.read, "/tmp")
    assert len(await sdk(sandbox.files.read, "/proc/sys/kernel/random/boot_id")) == 37
    assert len(await sdk(sandbox.files.read, "/proc/sys/kernel/random/boot_id", gzip=True)) == 37
    assert "MemTotal" in await sdk(sandbox.files.read, "/proc/meminfo")


@case("files.read", "absolute, relative and ~ paths; as another user")
async def paths(sdk: Sdk) -> None:
    sandbox = await sdk.shared()
    await sdk(sandbox.files.write, "of-user", "user")
    for path in ("of-user", "~/of-user", "/home/user/of-user"):
        assert await sdk(sandbox.files.read, path) == "user"
    await sdk(sandbox.files.write, "of-user", "root", user="root")
    assert await sdk(sandbox.files.read, "/root/of-user", user="root") == "root"
    with raises(e2b.AuthenticationException):
        await sdk(sandbox.files.read, "of-user", user="nobody-of-that-name")


@case("files.list", "order, depth, fields; symbolic links have their target's type")
async def listing(sdk: Sdk) -> None:
    sandbox = await sdk.shared()
    line = (
        "mkdir -p l/b/deep l/a && echo hello >l/c && chmod 640 l/c && "
        "ln -s c l/link && ln -s b l/to-b && touch l/b/deep/x"
    )
    await sdk(sandbox.commands.run, line)
    entries = await sdk(sandbox.files.list, "l")
    assert [entry.name for entry in entries] == ["a", "b", "c", "link", "to-b"]
    file, directory = e2b.FileType.FILE, e2b.FileType.DIR
    assert [entry.type for entry in entries] == [directory, directory, file, file, directory]
    plain, link = entries[2], entries[3]
    assert (plain.path, plain.size, plain.mode, plain.permissions) == (
        "/home/user/l/c",
        6,
        0o640,
        "-rw-r-----",
    )
    assert (plain.owner, plain.group, plain.symlink_target) == ("user", "user", None)
    assert abs((datetime.now(UTC) - plain.modified_time.astimezone(UTC)).total_seconds()) < 60
    assert link.symlink_target == "/home/user/l/c"
    deep = await sdk(sandbox.files.list, "/home/user/l", depth=3)
    below = [entry.path.removeprefix("/home/user/l/") for entry in deep]
    assert below == ["a", "b", "b/deep", "b/deep/x", "c", "link", "to-b"]


@case("files.list", "missing, not a directory, depth 0")
async def listing_odd(sdk: Sdk) -> None:
    sandbox = await sdk.shared()
    with raises(e2b.NotFoundException):
        await sdk(sandbox.files.list, "/no/such/directory")
    with raises(e2b.InvalidArgumentException):
        await sdk(sandbox.files.list, "/etc/passwd")
    with raises(e2b.InvalidArgumentException):
        await sdk(sandbox.files.list, "/tmp", depth=0)
    await sdk(sandbox.files.make_dir, "/tmp/empty-directory")
    assert await sdk(sandbox.files.list, "/tmp/empty-directory") == []


@case("files.exists", "files, directories, nothing")
async def exists(sdk: Sdk) -> None:
    sandbox = await sdk.shared()
    assert await sdk(sandbox.files.exists, "/etc/passwd") is True
    assert await sdk(sandbox.files.exists, "/tmp") is True
    assert await sdk(sandbox.files.exists, "/no/such/file") is False


@case("files.get_info", "files, directories, links, nothing")
async def get_info(sdk: Sdk) -> None:
    sandbox = await sdk.shared()
    await sdk(sandbox.files.write, "/tmp/info/file", "hello")
    await sdk(sandbox.commands.run, "ln -sf file /tmp/info/link")
    info = await sdk(sandbox.files.get_info, "/tmp/info/file")
    assert (info.name, info.path, info.type, info.size) == ("file", "/tmp/info/file", e2b.FileType.FILE, 5)
    assert (info.mode, info.permissions, info.owner) == (0o644, "-rw-r--r--", "user")
    directory = await sdk(sandbox.files.get_info, "/tmp/info")
    assert (directory.type, directory.permissions) == (e2b.FileType.DIR, "drwxr-xr-x")
    assert directory.size > 0
    link = await sdk(sandbox.files.get_info, "/tmp/info/link")
    assert (link.type, link.symlink_target) == (e2b.FileType.FILE, "/tmp/info/file")
    with raises(e2b.NotFoundException):
        await sdk(sandbox.files.get_info, "/no/such/file")


@case("files.make_dir", "True with its parents, False when it exists; refused over a file")
async def make_dir(sdk: Sdk) -> None:
    sandbox = await sdk.shared()
    assert await sdk(sandbox.files.make_dir, "made/by/us") is True
    assert await sdk(sandbox.files.make_dir, "made/by/us") is False
    assert (await sdk(sandbox.files.get_info, "made/by")).owner == "user"
    with raises(e2b.InvalidArgumentException):
        await sdk(sandbox.files.make_dir, "/etc/passwd")


@case("files.rename", "files and directories; a missing one is not found")
async def rename(sdk: Sdk) -> None:
    sandbox = await sdk.shared()
    await sdk(sandbox.files.write, "/tmp/rename/old", "x")
    info = await sdk(sandbox.files.rename, "/tmp/rename/old", "/tmp/rename/deep/new")
    assert (info.name, info.path, info.size) == ("new", "/tmp/rename/deep/new", 1)
    assert not await sdk(sandbox.files.exists, "/tmp/rename/old")
    await sdk(sandbox.files.rename, "/tmp/rename/deep", "/tmp/rename/other")
    assert await sdk(sandbox.files.read, "/tmp/rename/other/new") == "x"
    with raises(e2b.NotFoundException):
        await sdk(sandbox.files.rename, "/tmp/rename/old", "/tmp/rename/x")


@case("files.remove", "files, whole directories, nothing")
async def remove(sdk: Sdk) -> None:
    sandbox = await sdk.shared()
    await sdk(sandbox.files.write, "/tmp/remove/deep/file", "x")
    await sdk(sandbox.files.remove, "/tmp/remove/deep/file")
    assert not await sdk(sandbox.files.exists, "/tmp/remove/deep/file")
    await sdk(sandbox.files.remove, "/tmp/remove")
    assert not await sdk(sandbox.files.exists, "/tmp/remove")
    await sdk(sandbox.files.remove, "/tmp/remove")


@case("Sandbox.download_url", "signed; with an end; past it; of another file; by a plain client", domain=True)
async def download_url(sdk: Sdk) -> None:
    sandbox = await sdk.shared()
    await sdk(sandbox.files.write, "signed ä.txt", "signed text")
    url = await sdk(sandbox.download_url, "signed ä.txt")
    answer = await fetch(url)
    assert (answer.status_code, answer.text) == (200, "signed text")
    answer = await fetch(
        await sdk(sandbox.download_url, "signed ä.txt", user="user", use_signature_expiration=60)
    )
    assert (answer.status_code, answer.text) == (200, "signed text")
    answer = await fetch(await sdk(sandbox.download_url, "signed ä.txt", use_signature_expiration=-60))
    assert (answer.status_code, answer.json()) == (
        401,
        {"code": 401, "message": "signature is already expired"},
    )
    answer = await fetch(url.replace("signed%20", "other%20").replace("signed+", "other+"))
    assert answer.status_code == 401, answer.text


@case("Sandbox.upload_url", "signed, as a form; with an end; past it", domain=True)
async def upload_url(sdk: Sdk) -> None:
    sandbox = await sdk.shared()
    for options in ({}, {"use_signature_expiration": 60}, {"user": "user"}):
        name = f"uploaded-{time.monotonic_ns()}"
        url = await sdk(sandbox.upload_url, name, **options)
        answer = await fetch(url, method="POST", files={"file": (name, b"uploaded")})
        assert answer.status_code == 200, answer.text
        assert await sdk(sandbox.files.read, name) == "uploaded"
    url = await sdk(sandbox.upload_url, "uploaded", use_signature_expiration=-60)
    answer = await fetch(url, method="POST", files={"file": ("uploaded", b"x")})
    assert answer.status_code == 401, answer.text
