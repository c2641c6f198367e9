"""More changes of files than can be told, with a stream and a poller on them."""

import asyncio
import contextlib
import http.client
import json
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

from support.survival import Messages
from support.vm_places import Guest

T = TypeVar("T")

CHURN = """
import os, sys, time
folder, rate, seconds = sys.argv[1], 10_000, 10
names = [folder + "/a", folder + "/b"]
for name in names:
    open(name, "w").close()
began, done = time.monotonic(), 0
while (passed := time.monotonic() - began) < seconds:
    for _ in range(min(int(passed * rate) - done, 100)):
        os.chmod(names[done % 2], 0o600 + done % 2)
        done += 1
    time.sleep(0.001)
print(done / passed)
"""
"""Wants 10,000 changes a second, and prints how many it had."""


@dataclass
class Told:
    polled: int = 0
    refused: int = 0
    """Polls that were told that events were lost."""
    streamed: int = 0
    end: dict[str, Any] | None = None
    """The error that ended the stream by itself."""

    def holds(self) -> None:
        """Who falls behind is told so, and nothing else goes wrong."""
        assert self.polled + self.refused > 0
        assert self.streamed > 0
        assert self.end is None or "events were lost" in self.end["message"]


async def watched(guest: Guest, folder: str, work: Coroutine[Any, Any, T]) -> tuple[T, Told]:
    """What `work` gives, and what was told of it meanwhile."""
    headers = {"Content-Type": "application/json", "Connect-Protocol-Version": "1"}
    told = Told()

    def call(method: str, message: dict[str, Any]) -> dict[str, Any]:
        body = json.dumps(message).encode()
        return json.loads(guest.request("POST", f"/filesystem.Filesystem/{method}", body, headers))

    def read(stream: Messages) -> None:
        with contextlib.suppress(AssertionError, OSError, http.client.HTTPException):  # it is ended below
            for _ in stream:
                told.streamed += 1

    request = {"path": folder, "recursive": True}
    watcher = call("CreateWatcher", request)["watcherId"]
    with contextlib.closing(
        Messages(guest, "/filesystem.Filesystem/WatchDir", request, user="root")
    ) as stream:
        reading = asyncio.create_task(asyncio.to_thread(read, stream))
        working = asyncio.create_task(work)
        while not working.done():
            try:
                answer = await asyncio.to_thread(call, "GetWatcherEvents", {"watcherId": watcher})
                told.polled += len(answer.get("events", []))
            except AssertionError as error:
                assert "events were lost" in str(error)  # noqa: PT017 - one of the two is expected
                told.refused += 1
            await asyncio.sleep(0.2)
        result = await working
        told.end = stream.error
        stream.end()
        await reading
    return result, told
