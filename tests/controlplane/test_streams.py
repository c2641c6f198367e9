"""Output of programs through WebSockets."""

import os

import pytest

from support.simulated import eventually
from support.sockets import Place, message, place, rest, run, send, text_of
from wrenn_server.controlplane.api.streams import Text

__all__ = ["place"]


@pytest.mark.parametrize("noun", ["sandboxes", "capsules"])
async def test_output_as_it_comes(place: Place, noun: str) -> None:
    async with place.open("exec/stream", noun=noun) as socket:
        await run(socket, "echo out; echo err >&2; read x; exit 3")
        began, *told = await rest(socket)
    assert (began["type"], began["pid"] > 0) == ("start", True)
    assert (text_of(told, "stdout"), text_of(told, "stderr")) == ("out\n", "err\n")
    assert told[-1] == {"type": "exit", "exit_code": 3}
    assert socket.close_code == 1000


async def test_it_is_told_before_the_program_ends(place: Place) -> None:
    async with place.open("exec/stream") as socket:
        await run(socket, "echo first; sleep 300")
        assert (await message(socket))["type"] == "start"
        assert await message(socket) == {"type": "stdout", "data": "first\n"}
        await send(socket, type="stop")
        assert await rest(socket) == [{"type": "exit", "exit_code": -1}]


async def test_variables_directory_and_no_shell(place: Place, tmp_path: os.PathLike[str]) -> None:
    async with place.open("exec/stream") as socket:
        await send(
            socket, type="start", cmd="sh", args=["-c", 'echo "$A" $(pwd)'], envs={"A": "$B"}, cwd=str(tmp_path),
            unknown=1,
        )  # fmt: skip
        assert text_of(await rest(socket), "stdout") == f"$B {tmp_path}\n"


async def test_no_character_is_torn(place: Place) -> None:
    async with place.open("exec/stream") as socket:
        await run(
            socket,
            r"for i in 1 2 3; do printf '\342'; sleep 0.1; printf '\202\254'; sleep 0.1; done; printf '\342'",
        )
        assert text_of(await rest(socket), "stdout") == "€€€\N{REPLACEMENT CHARACTER}"


async def test_much_output_arrives_whole(place: Place) -> None:
    async with place.open("exec/stream") as socket:
        await run(socket, "head -c 20000000 /dev/zero | tr '\\0' x")
        assert len(text_of(await rest(socket), "stdout")) == 20_000_000


async def test_a_client_that_goes_away_takes_its_program_along(place: Place) -> None:
    async with place.open("exec/stream") as socket:
        await run(socket, "sleep 300")
        pid = (await message(socket))["pid"]
        assert pid in await place.pids()

    async def gone() -> bool:
        return pid not in await place.pids()

    await eventually(gone)


@pytest.mark.parametrize("process", ["pid", "tag"])
async def test_a_program_in_the_background_is_followed_and_left(place: Place, process: str) -> None:
    started = await place.world.api.post(
        f"/v1/sandboxes/{place.id}/exec",
        {
            "cmd": "sh",
            "args": ["-c", "while :; do echo on; sleep 0.1; done"],
            "background": True,
            "tag": "loop",
        },
    )
    pid = started.json()["pid"]
    path = f"processes/{pid if process == 'pid' else 'loop'}/stream"
    for _ in range(2):
        async with place.open(path) as socket:
            assert await message(socket) == {"type": "start", "pid": pid}
            assert (await message(socket))["data"].startswith("on\n")
    assert pid in await place.pids()
    async with place.open(path) as socket:
        assert (await message(socket))["type"] == "start"
        await place.world.api.delete(f"/v1/sandboxes/{place.id}/processes/{pid}")
        assert (await rest(socket))[-1] == {"type": "exit", "exit_code": -1}


@pytest.mark.parametrize(
    ("first", "why"),
    [
        ('{"type":"start","cmd":"/no/such"}', "no such file"),
        ('{"type":"start","cmd":"true","cwd":"/no/such"}', "/no/such"),
        ('{"type":"start","cmd":"true","user":"nobody at all"}', "user"),
        ('{"type":"start","cmd":"a\\u0000b"}', ""), ('{"type":"start"}', "cmd"), ('{"type":"stop"}', "stop"), ("{}", "cmd"),
        ("[]", "expected"), ("x", "not as expected"), ('{"type":"start","cmd":1}', "expected"), (b"bytes", "bytes"),
        ("[" * 100_000, "not as expected"),
    ],
)  # fmt: skip
async def test_starts_that_make_no_sense(place: Place, first: str | bytes, why: str) -> None:
    async with place.open("exec/stream") as socket:
        await socket.send(first)
        [told] = await rest(socket)
    assert told["type"] == "error"
    assert why in told["data"].lower()
    assert socket.close_code == 1008
    assert await place.pids() == []


@pytest.mark.parametrize("other", [{"type": "again"}, {}])
async def test_another_message_than_stop_ends_the_program(place: Place, other: dict[str, str]) -> None:
    async with place.open("exec/stream") as socket:
        await run(socket, "sleep 300")
        assert (await message(socket))["type"] == "start"
        await send(socket, **other)
        assert (await message(socket))["type"] == "error"

    async def gone() -> bool:
        return await place.pids() == []

    await eventually(gone)


def test_text() -> None:
    text = Text()
    assert [text.take(b) for b in (b"\xe2", b"\x82", b"\xac\xff", b"\xe2\x82")] == [
        "",
        "",
        "€\N{REPLACEMENT CHARACTER}",
        "",
    ]
    assert (text.rest(), text.rest()) == ("\N{REPLACEMENT CHARACTER}", "")
