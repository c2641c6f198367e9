"""What is urgent goes first."""

import asyncio

import pytest

from wrenn_server.hostagent.sandbox import quiet
from wrenn_server.hostagent.sandbox.quiet import Quiet


async def returns(waiting: "asyncio.Task[None]") -> bool:
    """At once."""
    for _ in range(3):
        await asyncio.sleep(0)
    return waiting.done()


async def test_a_host_that_has_done_nothing_yet_rests() -> None:
    idle = Quiet()
    assert await returns(asyncio.create_task(idle.rest()))
    assert await returns(asyncio.create_task(idle.turn()))


async def test_a_turn_comes_with_the_end_of_the_last_urgent_thing() -> None:
    busy = Quiet()
    with busy.broken():
        turn = asyncio.create_task(busy.turn())
        with busy.broken():
            assert not await returns(turn)
        assert not await returns(turn)
    assert await returns(turn)


async def test_a_turn_comes_to_who_has_waited_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quiet, "PATIENCE", 0.01)
    busy = Quiet()
    with busy.broken():
        await busy.turn()


async def test_a_rest_comes_a_while_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quiet, "REST", 0.1)
    loop, busy = asyncio.get_running_loop(), Quiet()
    with busy.broken():
        rest = asyncio.create_task(busy.rest())
        await asyncio.sleep(0.15)
        assert not rest.done()
    assert not await returns(rest)
    with busy.broken():
        pass
    ended = loop.time()
    await rest
    assert loop.time() >= ended + 0.1
