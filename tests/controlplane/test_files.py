"""Files of sandboxes through the API."""

import os
from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
import pytest

from support.simulated import World
from wrenn_server.hostagent.simulated import SimulatedAgent


@pytest.fixture
async def path(world: World, host_with_envd: SimulatedAgent) -> str:
    return f"/v1/sandboxes/{(await world.new_sandbox())['id']}/files"


async def write(world: World, path: str, target: str, content: bytes) -> httpx2.Response:
    return await world.api.post(f"{path}/write", data={"path": target}, files={"file": ("any", content)})


async def test_write_and_read_back(world: World, path: str, tmp_path: Path) -> None:
    content = os.urandom(3 * 1024 * 1024)
    target = tmp_path / "new/directory/with space & ü%2F.bin"
    assert (await write(world, path, str(target), content)).status_code == 204
    assert target.read_bytes() == content
    answer = await world.api.post(f"{path}/read", {"path": str(target)})
    assert answer.status_code == 200
    assert answer.content == content
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["content-length"] == str(len(content))


async def test_an_empty_file(world: World, path: str, tmp_path: Path) -> None:
    (tmp_path / "f").write_text("before")
    assert (await write(world, path, str(tmp_path / "f"), b"")).status_code == 204
    assert (tmp_path / "f").read_bytes() == b""
    assert (await world.api.post(f"{path}/read", {"path": str(tmp_path / "f")})).content == b""


async def test_a_file_whose_size_nobody_knows_before(world: World, path: str) -> None:
    answer = await world.api.post(f"{path}/read", {"path": "/proc/sys/kernel/random/boot_id"})
    assert len(answer.text) == 37


async def test_what_cannot_be_read(world: World, path: str, tmp_path: Path) -> None:
    missing = await world.api.post(f"{path}/read", {"path": str(tmp_path / "missing")})
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "file_not_found")
    directory = await world.api.post(f"{path}/read", {"path": str(tmp_path)})
    assert (directory.status_code, directory.json()["error"]["code"]) == (400, "invalid_request")
    device = await world.api.post(f"{path}/read", {"path": "/dev/zero"})
    assert device.status_code == 400


async def test_what_cannot_be_written(world: World, path: str, tmp_path: Path) -> None:
    assert (await write(world, path, str(tmp_path), b"x")).status_code == 400
    assert list(tmp_path.iterdir()) == []


async def test_list(world: World, path: str, tmp_path: Path) -> None:
    (tmp_path / "d/e").mkdir(parents=True)
    (tmp_path / "d/f").write_bytes(b"12345")
    (tmp_path / "d/f").chmod(0o640)
    (tmp_path / "link").symlink_to("d/f")
    flat = (await world.api.post(f"{path}/list", {"path": str(tmp_path)})).json()["entries"]
    assert [(entry["name"], entry["type"]) for entry in flat] == [("d", "directory"), ("link", "symlink")]
    assert flat[1]["symlink_target"].endswith("d/f")
    deep = (await world.api.post(f"{path}/list", {"path": str(tmp_path), "depth": 2})).json()["entries"]
    found = {entry["name"]: entry for entry in deep}
    assert set(found) == {"d", "e", "f", "link"}
    assert (found["f"]["size"], found["f"]["mode"], found["f"]["permissions"]) == (5, 0o640, "-rw-r-----")
    assert (found["f"]["owner"], found["f"]["path"]) == ("root", str(tmp_path / "d/f"))
    assert found["f"]["modified_at"].endswith("Z")


async def test_list_of_what_is_not_there(world: World, path: str, tmp_path: Path) -> None:
    missing = await world.api.post(f"{path}/list", {"path": str(tmp_path / "missing")})
    assert missing.status_code == 404
    (tmp_path / "f").touch()
    assert (await world.api.post(f"{path}/list", {"path": str(tmp_path / "f")})).status_code == 400


def part(name: str, content: bytes) -> bytes:
    return b'--x\r\nContent-Disposition: form-data; name="' + name.encode() + b'"\r\n\r\n' + content + b"\r\n"


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("application/json", b"{}"),
        ("multipart/form-data", b""),
        ("multipart/form-data; boundary=x", b""),
        ("multipart/form-data; boundary=x", b"no boundary anywhere"),
        ("multipart/form-data; boundary=x", part("path", b"/tmp/a") + b"--x--\r\n"),
        ("multipart/form-data; boundary=x", part("file", b"abc") + b"--x--\r\n"),
        ("multipart/form-data; boundary=x", part("other", b"abc") + b"--x--\r\n"),
        ("multipart/form-data; boundary=x", part("path", b"\xff") + b"--x--\r\n"),
        ("multipart/form-data; boundary=x", part("path", b"a\0b") + b"--x--\r\n"),
        ("multipart/form-data; boundary=x", part("path", b"a" * 5000) + b"--x--\r\n"),
    ],
)
async def test_forms_that_are_none(world: World, path: str, content_type: str, body: bytes) -> None:
    answer = await world.api.post(f"{path}/write", content=body, headers={"Content-Type": content_type})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_request")


async def test_a_form_that_breaks_off_in_the_file(world: World, path: str, tmp_path: Path) -> None:
    target = tmp_path / "f"
    body = part("path", str(target).encode()) + part("file", b"the beginning")
    answer = await world.api.post(
        f"{path}/write", content=body, headers={"Content-Type": "multipart/form-data; boundary=x"}
    )
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_request")


async def test_uploads_are_not_limited_like_json(world: World, path: str, tmp_path: Path) -> None:
    target = tmp_path / "big"

    async def form() -> AsyncIterator[bytes]:
        yield b'--x\r\nContent-Disposition: form-data; name="path"\r\n\r\n' + str(target).encode()
        yield b'\r\n--x\r\nContent-Disposition: form-data; name="file"\r\n\r\n'
        for _ in range(64):
            yield b"\0" * (1 << 20)
        yield b"\r\n--x--\r\n"

    answer = await world.api.post(
        f"{path}/write", content=form(), headers={"Content-Type": "multipart/form-data; boundary=x"}
    )
    assert answer.status_code == 204
    assert target.stat().st_size == 64 << 20
