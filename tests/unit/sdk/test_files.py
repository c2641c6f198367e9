"""Files over `/files` and `filesystem.Filesystem`."""

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from unit.sdk.fake_platform import Exchange, Platform

import wrenn
from wrenn import Sandbox

ENTRY = {
    "name": "a.txt",
    "type": "FILE_TYPE_FILE",
    "path": "/home/user/a.txt",
    "size": "5",
    "mode": 420,
    "permissions": "-rw-r--r--",
    "owner": "user",
    "group": "user",
    "modifiedTime": "2026-11-23T23:47:31.123456789Z",
    "symlinkTarget": "/etc/x",
}


def answering(status: int, body: object) -> Callable[[Exchange], Any]:
    async def script(to: Exchange) -> None:
        await to.answer(status, body)

    return script


def test_what_was_written_is_read(platform: Platform, sandbox: Sandbox, tmp_path: Path) -> None:
    binary = os.urandom(1_000_000)
    assert sandbox.files.write("/tmp/ä b+c&d.txt", "text €") == "/tmp/ä b+c&d.txt"
    assert sandbox.files.read("/tmp/ä b+c&d.txt") == "text €"
    sandbox.files.write("b", binary, user="root")
    request = platform.requests[-1]
    assert (request.query, request.headers["content-type"]) == (
        {"path": "b", "username": "root"},
        "application/octet-stream",
    )
    assert sandbox.files.read_bytes("b") == binary
    sandbox.files.write("c", io.BytesIO(binary))
    assert platform.requests[-1].headers["transfer-encoding"] == "chunked"
    copy = tmp_path / "copy"
    with copy.open("wb") as file:
        assert sandbox.files.download("c", file) == len(binary)
    assert copy.read_bytes() == binary
    with sandbox.files.stream("c") as content:
        assert b"".join(content) == binary
    sandbox.files.write("empty", b"")
    assert sandbox.files.read_bytes("empty") == b""
    assert platform.accepted == 1


def test_reading_what_is_not_there_or_not_text(sandbox: Sandbox) -> None:
    with pytest.raises(wrenn.PathNotFoundError, match="path 'x' does not exist") as caught:
        sandbox.files.read("x")
    assert isinstance(caught.value, wrenn.NotFoundError)
    with pytest.raises(wrenn.PathNotFoundError):
        sandbox.files.download("x", io.BytesIO())
    sandbox.files.write("x", b"\xff")
    with pytest.raises(UnicodeDecodeError):
        sandbox.files.read("x")


def test_entries(platform: Platform, sandbox: Sandbox) -> None:
    service = "POST /filesystem.Filesystem/"
    directory = {"name": "d", "type": "FILE_TYPE_DIRECTORY", "path": "/d"}
    platform.routes[service + "ListDir"] = answering(200, {"entries": [ENTRY, directory]})
    platform.routes[service + "Stat"] = answering(200, {"entry": ENTRY})
    platform.routes[service + "MakeDir"] = answering(200, {"entry": directory})
    platform.routes[service + "Remove"] = answering(200, {})
    platform.routes[service + "Move"] = answering(200, {"entry": ENTRY})
    file, folder = sandbox.files.list("/home/user", depth=2)
    assert platform.requests[-1].body == b'{"path":"/home/user","depth":2}'
    assert (file.name, file.size, file.mode, file.type, file.is_dir) == ("a.txt", 5, 0o644, "file", False)
    assert (file.owner, file.symlink_target) == ("user", "/etc/x")
    assert file.modified_at is not None
    assert file.modified_at.second == 31
    assert (folder.size, folder.is_dir) == (0, True)
    assert sandbox.files.stat("a.txt") == file
    assert sandbox.files.exists("a.txt")
    assert sandbox.files.make_dir("d", user="root")
    assert platform.requests[-1].headers["authorization"] == "Basic cm9vdDo="
    assert sandbox.files.rename("a.txt", "b.txt") == file
    sandbox.files.remove("a.txt")
    platform.routes[service + "Stat"] = answering(404, {"code": "not_found", "message": "file not found: x"})
    assert not sandbox.files.exists("x")
    with pytest.raises(wrenn.PathNotFoundError, match="file not found: x"):
        sandbox.files.stat("x")
    platform.routes[service + "MakeDir"] = answering(409, {"code": "already_exists", "message": "m"})
    assert not sandbox.files.make_dir("d")
    platform.routes[service + "ListDir"] = answering(400, {"code": "invalid_argument", "message": "m"})
    with pytest.raises(wrenn.InvalidRequestError):
        sandbox.files.list("file")
    with pytest.raises(ValueError, match="at least 1"):
        sandbox.files.list("d", depth=0)


def test_a_hostile_size(platform: Platform, sandbox: Sandbox) -> None:
    platform.routes["POST /filesystem.Filesystem/Stat"] = answering(200, {"entry": {**ENTRY, "size": "1e9"}})
    with pytest.raises(wrenn.ProtocolError):
        sandbox.files.stat("x")


def test_a_full_disk(platform: Platform, sandbox: Sandbox) -> None:
    platform.routes["POST /files"] = answering(507, {"code": 507, "message": "not enough space"})
    with pytest.raises(wrenn.DiskFullError, match="not enough space"):
        sandbox.files.write("x", b"x")
