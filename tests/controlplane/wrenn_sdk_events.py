"""Run by the interpreter that has the published SDK: prints what it makes of each frame, as a line of JSON.

argv: base URL, number of events
"""

import asyncio
import itertools
import sys

from wrenn.client import AsyncWrennClient, WrennClient  # pyright: ignore - the published package, not ours

url, count = sys.argv[1], int(sys.argv[2])


def sync() -> None:
    with WrennClient(base_url=url) as client:
        for event in itertools.islice(client.events.stream(), count):
            print(event.model_dump_json(), flush=True)


async def other() -> None:
    left = count
    async with AsyncWrennClient(base_url=url) as client:
        async for event in client.events.stream():
            print(event.model_dump_json(), flush=True)
            left -= 1
            if not left:
                return


sync() if sys.argv[3] == "sync" else asyncio.run(other())
