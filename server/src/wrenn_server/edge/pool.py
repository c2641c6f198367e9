"""Connections to upstreams that wait for a next request, and the groups that are aborted together."""

from collections import defaultdict
from collections.abc import Hashable
from typing import Protocol

import msgspec

from wrenn_server.wire.stream import Stream

_PER_KEY = 64


class Abortable(Protocol):
    def abort(self) -> None: ...


class Idle(msgspec.Struct):
    stream: Stream
    group: Hashable | None
    until: float


class Pool:
    """Only a stream whose last response was complete and well framed may be put here."""

    def __init__(self) -> None:
        self._idle: dict[Hashable, list[Idle]] = {}
        self._groups: defaultdict[Hashable, set[Abortable]] = defaultdict(set)

    def take(self, key: Hashable, now: float) -> Stream | None:
        """The connection used last that is still good. Its owner calls `put` or `drop` afterwards."""
        idle = self._idle.get(key)
        while idle:
            entry = idle.pop()
            stream = entry.stream
            stream.on_end = None
            if entry.until > now and not (stream.eof or stream.lost or stream.buffered):
                return stream
            self.drop(entry.group, stream)  # closed by the upstream, or it spoke without being asked
        self._idle.pop(key, None)
        return None

    def put(self, key: Hashable, group: Hashable | None, stream: Stream, until: float) -> None:
        idle = self._idle.setdefault(key, [])
        if stream.eof or stream.lost or stream.buffered or len(idle) >= _PER_KEY:
            self.drop(group, stream)
            return
        entry = Idle(stream, group, until)
        idle.append(entry)

        def discard() -> None:
            stream.on_end = None
            if entry in idle:
                idle.remove(entry)
            self.drop(group, stream)

        stream.on_end = discard

    def join(self, group: Hashable | None, member: Abortable) -> None:
        if group is not None:
            self._groups[group].add(member)

    def leave(self, group: Hashable | None, member: Abortable) -> None:
        members = self._groups.get(group)
        if members is not None:
            members.discard(member)
            if not members:
                del self._groups[group]

    def drop(self, group: Hashable | None, stream: Stream) -> None:
        """Ends a connection that is not to be used again."""
        stream.abort()
        self.leave(group, stream)

    def abort(self, group: Hashable) -> None:
        for member in self._groups.pop(group, ()):
            member.abort()

    def expire(self, now: float) -> None:
        for key, idle in list(self._idle.items()):
            for entry in [entry for entry in idle if entry.until <= now]:
                if entry.stream.on_end is not None:
                    entry.stream.on_end()
            if not idle:
                del self._idle[key]

    def close(self) -> None:
        self.expire(float("inf"))
