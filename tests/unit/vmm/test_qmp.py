"""The QMP client against a scripted peer."""

import asyncio
import contextlib
import json
import os
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Any

import pytest

from wrenn_server.hostagent.vmm.base import VmmError
from wrenn_server.hostagent.vmm.qmp import LINE_LIMIT, Qmp, QmpClosed, QmpError

GREETING = {"QMP": {"version": {"qemu": {"major": 7}}, "capabilities": []}}


class Peer:
    """QEMU's end of the socket."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self.socket = connection
        self.fds: list[int] = []
        self._pending = b""

    async def send(self, *messages: dict[str, Any]) -> None:
        data = b"".join(json.dumps(message).encode() + b"\r\n" for message in messages)
        await asyncio.get_running_loop().sock_sendall(self.socket, data)

    async def receive(self) -> dict[str, Any]:
        loop = asyncio.get_running_loop()
        while b"\n" not in self._pending:
            readable = asyncio.Event()
            loop.add_reader(self.socket, readable.set)
            await readable.wait()
            loop.remove_reader(self.socket)
            data, fds, _, _ = socket.recv_fds(self.socket, 65536, 4)
            assert data, "the client closed"
            self._pending += data
            self.fds += fds
        line, _, self._pending = self._pending.partition(b"\n")
        return json.loads(line)

    async def greet(self) -> None:
        await self.send(GREETING)
        command = await self.receive()
        assert command["execute"] == "qmp_capabilities"
        await self.send({"return": {}, "id": command["id"]})


@contextlib.asynccontextmanager
async def connected() -> AsyncGenerator[tuple[Qmp, Peer], None]:
    ours, theirs = socket.socketpair()
    peer = Peer(theirs)
    client = Qmp(ours)
    try:
        _, _ = await asyncio.gather(client.open(), peer.greet())
        yield client, peer
    finally:
        await client.close()
        theirs.close()


@pytest.fixture
async def pair() -> AsyncIterator[tuple[Qmp, Peer]]:
    async with connected() as both:
        yield both


async def answered(peer: Peer, answer: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    command = await peer.receive()
    await peer.send({**answer(command), "id": command["id"]})


async def test_a_command_gets_its_return(pair: tuple[Qmp, Peer]) -> None:
    client, peer = pair
    result, _ = await asyncio.gather(
        client.execute("query-status"), answered(peer, lambda _: {"return": {"status": "running"}})
    )
    assert result == {"status": "running"}


async def test_an_error_is_raised_with_its_class(pair: tuple[Qmp, Peer]) -> None:
    client, peer = pair
    refusal = {"error": {"class": "GenericError", "desc": "no such thing"}}
    with pytest.raises(QmpError, match="QMP cont: no such thing") as caught:
        await asyncio.gather(client.execute("cont"), answered(peer, lambda _: refusal))
    assert caught.value.kind == "GenericError"


async def test_several_commands_may_be_under_way(pair: tuple[Qmp, Peer]) -> None:
    client, peer = pair
    answers = [client.start(f"c{number}") for number in range(3)]
    commands = [await peer.receive() for _ in answers]
    assert [command["execute"] for command in commands] == ["c0", "c1", "c2"]
    await peer.send(*({"return": command["execute"], "id": command["id"]} for command in commands))
    assert await asyncio.gather(*answers) == ["c0", "c1", "c2"]


async def test_events_reach_their_handler_between_answers(pair: tuple[Qmp, Peer]) -> None:
    client, peer = pair
    seen: list[tuple[str, dict[str, Any]]] = []
    client.on_event = lambda name, data: seen.append((name, data))
    waiting = client.start("stop")
    command = await peer.receive()
    await peer.send(
        {"event": "STOP"},
        {"event": "MIGRATION", "data": {"status": "active"}},
        {"return": {}, "id": command["id"]},
    )
    await waiting
    assert seen == [("STOP", {}), ("MIGRATION", {"status": "active"})]


async def test_a_file_descriptor_goes_along(pair: tuple[Qmp, Peer]) -> None:
    client, peer = pair
    reader, writer = os.pipe()
    waiting = client.start("getfd", {"fdname": "state"}, fds=[writer])
    os.close(writer)
    command = await peer.receive()
    assert command["arguments"] == {"fdname": "state"}
    os.write(peer.fds[0], b"through")
    assert os.read(reader, 7) == b"through"
    os.close(reader)
    os.close(peer.fds[0])
    await peer.send({"return": {}, "id": command["id"]})
    await waiting


async def test_the_end_of_the_connection_ends_all_waiting(pair: tuple[Qmp, Peer]) -> None:
    client, peer = pair
    first, second = client.start("stop"), client.start("cont")
    await peer.receive()
    peer.socket.shutdown(socket.SHUT_RDWR)
    for waiting in (first, second):
        with pytest.raises(QmpClosed):
            await waiting
    with pytest.raises(QmpClosed):
        await client.execute("quit")


async def test_no_answer_is_a_timeout(pair: tuple[Qmp, Peer]) -> None:
    client, _ = pair
    with pytest.raises(VmmError, match=r"QMP stop: no answer within 0\.01 s"):
        await client.execute("stop", timeout=0.01)


@pytest.mark.parametrize(
    "garbage",
    [
        b"x" * (LINE_LIMIT + 2),
        b"not json\n",
        b"[1]\n",
        b'{"return": {}, "id": 99}\n',
        b'{"id": 1}\n',
        b"\xff\xfe\n",
    ],
    ids=["endless line", "no json", "no object", "unknown id", "no answer", "no text"],
)
async def test_garbage_ends_the_connection_and_nothing_else(garbage: bytes) -> None:
    async with connected() as (client, peer):
        waiting = client.start("stop")
        await peer.receive()
        with contextlib.suppress(ConnectionError):
            await asyncio.get_running_loop().sock_sendall(peer.socket, garbage)
        with pytest.raises(QmpClosed):
            await waiting


async def test_a_peer_that_ends_before_the_greeting() -> None:
    ours, theirs = socket.socketpair()
    client = Qmp(ours)
    theirs.close()
    with pytest.raises(QmpClosed):
        async with client:
            pass
