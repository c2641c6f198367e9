"""The client and the sequences of calls, against a Firecracker that is strict about order and fields."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from support.fake_firecracker import AFTER, LOAD_AFTER_CONFIG, FakeFirecracker
from wrenn_server.hostagent.vmm.base import Place, VmmError, VmSpec
from wrenn_server.hostagent.vmm.firecracker import boot_requests
from wrenn_server.hostagent.vmm.firecracker_api import (
    ApiClosed,
    ApiState,
    FirecrackerApi,
    FirecrackerError,
    Version,
    load_request,
    parse_version,
)

VERSIONS: list[Version] = [(1, 12, 0), (1, 12, 1), (1, 13, 2), (1, 14, 4), (1, 15, 1), (1, 16, 1)]
SPEC = VmSpec(
    vcpus=2, memory_mb=256, kernel=Path("/k"), initrd=Path("/i"), root_image=Path("/r"), overlay=Path("/o")
)
PLACE = Place(
    id="sbx", directory=Path("/d"), uid=1, gid=1, netns=Path("/run/netns/x"), tap="vmtap0", cgroup="wrenn/sbx"
)


@contextlib.asynccontextmanager
async def talking(
    tmp_path: Path, version: Version = (1, 12, 1)
) -> AsyncGenerator[tuple[FakeFirecracker, FirecrackerApi], None]:
    fake = FakeFirecracker(version)
    path = tmp_path / "api.sock"
    async with fake.serving(path):
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(str(path))
        connection.setblocking(False)
        api = FirecrackerApi(connection)
        try:
            yield fake, api
        finally:
            await api.close()


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_life_in_every_version(tmp_path: Path, version: Version) -> None:
    async with talking(tmp_path, version) as (fake, api):
        assert await api.state() is ApiState.NOT_STARTED
        for path, body in boot_requests(SPEC, PLACE):
            await api.put(path, body)
        assert await api.state() is ApiState.RUNNING
        await api.patch("/vm", {"state": "Paused"})
        save: dict[str, Any] = {"snapshot_path": "/s", "mem_file_path": "/m"}
        await api.put("/snapshot/create", {**save, "snapshot_type": "Full"})
        await api.put("/snapshot/create", {**save, "snapshot_type": "Diff"})
        await api.patch("/vm", {"state": "Resumed"})
        assert fake.resources["/machine-config"]["mem_size_mib"] == 256
        assert fake.resources["/drives/rootfs"]["is_read_only"] is True


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_load_in_every_version_can_be_followed_by_a_diff(tmp_path: Path, version: Version) -> None:
    async with talking(tmp_path, version) as (fake, api):
        await api.put("/snapshot/load", load_request(version, state="/s", memory="/m"))
        assert await api.state() is ApiState.PAUSED
        await api.put(
            "/snapshot/create", {"snapshot_type": "Diff", "snapshot_path": "/s", "mem_file_path": "/m"}
        )
        assert fake.tracking


async def test_a_field_of_a_newer_version_is_refused_by_an_older_one(tmp_path: Path) -> None:
    async with talking(tmp_path, (1, 12, 1)) as (_, api):
        with pytest.raises(FirecrackerError, match="unknown field `track_dirty_pages`"):
            await api.put("/snapshot/load", load_request((1, 16, 1), state="/s", memory="/m"))


async def test_faults_carry_call_and_text(tmp_path: Path) -> None:
    async with talking(tmp_path) as (_, api):
        requests = boot_requests(SPEC, PLACE)
        for path, body in requests[:-1]:
            await api.put(path, body)
        with pytest.raises(FirecrackerError) as caught:
            await api.put("/snapshot/load", load_request((1, 12, 1), state="/s", memory="/m"))
        assert caught.value.fault == LOAD_AFTER_CONFIG
        assert caught.value.status == 400
        await api.put(*requests[-1])
        with pytest.raises(FirecrackerError, match="PUT /actions: 400"):
            await api.put(*requests[-1])
        with pytest.raises(FirecrackerError) as caught:
            await api.put(*requests[0])
        assert caught.value.fault == AFTER


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n{{{",
        b"HTTP/1.1 abc\r\n\r\n",
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 70000 + b"\r\n\r\n",
    ],
    ids=["huge", "negative", "no json", "no status", "no http", "endless head"],
)
async def test_a_hostile_answer_ends_the_connection(tmp_path: Path, answer: bytes) -> None:
    async with talking(tmp_path) as (fake, api):
        fake.answer_raw = answer
        with pytest.raises(ApiClosed):
            await api.state()
        with pytest.raises(ApiClosed):
            await api.state()


async def test_a_late_answer_is_not_taken_for_the_next_ones(tmp_path: Path) -> None:
    async with talking(tmp_path) as (fake, api):
        fake.hold = asyncio.Event()
        with pytest.raises(VmmError, match=r"PUT /entropy: no answer within 0\.05 s"):
            await api.put("/entropy", {}, timeout=0.05)
        fake.hold.set()
        with pytest.raises(ApiClosed):
            await api.state()


async def test_an_unknown_state_is_an_error(tmp_path: Path) -> None:
    async with talking(tmp_path) as (fake, api):
        fake.state = "Dancing"
        with pytest.raises(VmmError, match="unknown state 'Dancing'"):
            await api.state()


@pytest.mark.parametrize(
    ("text", "version"), [("1.12.1", (1, 12, 1)), ("v1.16.0\n", (1, 16, 0)), ("1.17.0-dev", (1, 17, 0))]
)
def test_versions(text: str, version: Version) -> None:
    assert parse_version(text) == version


@pytest.mark.parametrize("text", ["", "1.2", "a.b.c", "1.2.3.4"])
def test_no_versions(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - the text differs
        parse_version(text)
