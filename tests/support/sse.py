"""A reader of Server-Sent Events."""

import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx2


@dataclass(frozen=True, slots=True)
class Frame:
    event: str
    data: dict[str, Any]
    id: str | None


class Reader:
    """Frames as they come; `None` at the stream's end."""

    def __init__(self, lines: AsyncIterator[str]) -> None:
        self._lines = lines
        self.comments: list[str] = []
        self.retry: str | None = None

    async def next(self) -> Frame | None:
        fields: dict[str, str] = {}
        async for line in self._lines:
            if line.startswith(":"):
                self.comments.append(line[1:].strip())
            elif line:
                name, _, value = line.partition(": ")
                fields[name] = value
            elif "retry" in fields:
                self.retry = fields.pop("retry")
            elif fields:
                return Frame(fields["event"], json.loads(fields["data"]), fields.get("id"))
        return None

    async def until(self, event: str) -> Frame:
        while (frame := await self.next()) is not None:
            if frame.event == event:
                return frame
        raise AssertionError(f"the stream ended before {event}")


@asynccontextmanager
async def events(url: str, headers: dict[str, str]) -> AsyncGenerator[Reader, None]:
    """The stream, of which the first frame has been read."""
    async with (
        httpx2.AsyncClient(trust_env=False, timeout=30) as client,
        client.stream("GET", f"{url}/v1/events/stream", headers=headers) as response,
    ):
        assert response.status_code == 200, await response.aread()
        assert response.headers["content-type"].startswith("text/event-stream")
        reader = Reader(response.aiter_lines())
        first = await reader.next()
        assert first is not None
        assert (first.event, first.id) == ("connected", None)
        yield reader
