"""One client connection: requests one after the other, each with its own target.

```
 idle ──first byte──► head ──complete──► busy ──response whole, kept──► idle
  │ FIN, limits.idle    │ limits.head: 408     │ else
  ▼                     ▼                      ▼
closed ◄───────────────────────────────── finishing (what is buffered is delivered, unread input discarded)
```
One task a connection; it is cancelled when the client goes away while it is busy.
"""

import asyncio
import logging
import time
from collections.abc import Callable

import msgspec

from wrenn_server.edge import answers
from wrenn_server.edge import head as heads
from wrenn_server.edge.exchange import Broken, Passage
from wrenn_server.edge.pool import Pool
from wrenn_server.edge.target import (
    Again,
    Answer,
    Exchange,
    Limits,
    Peer,
    Refused,
    Route,
    Target,
    Tunnel,
    Upstream,
)
from wrenn_server.model.errors import WrennError
from wrenn_server.model.ids import new_request_id
from wrenn_server.wire.body import BadBody
from wrenn_server.wire.head import (
    BadHead,
    Framing,
    Head,
    ResponseHead,
    parse_request,
    request_framing,
    wants_close,
)
from wrenn_server.wire.stream import Stream

_FINISH = 10.0  # seconds for a client to take the end of its last response
_DISCARD = 4 * 1024 * 1024  # bytes of unread input, so that the answer is not lost to a RST
_FOREVER = float("inf")
_INTERNAL = answers.internal()

logger = logging.getLogger(__name__)


class Service(msgspec.Struct, kw_only=True):
    """What all connections of a listener share."""

    route: Route
    limits: Limits
    pool: Pool
    trusted: Callable[[Peer], bool]
    observe: Callable[[Exchange], None] | None
    moving: Callable[[str], None] | None
    stopping: bool = False


class Connection:
    def __init__(self, service: Service, stream: Stream, peer: Peer) -> None:
        self.service = service
        self.trusted = service.trusted(peer)
        self.stream = stream
        self.peer = peer
        self.task = asyncio.create_task(self._run(), name=f"edge {peer.host or 'unix'}")
        self._loop = asyncio.get_running_loop()
        self._busy = False
        self._in_head = False
        self._ending = False
        self._deadline = self._loop.time() + service.limits.head
        self._passage: Passage | None = None
        self._moved = 0
        self._unread = False  # the client may still be sending what nobody reads

    def expire(self, now: float) -> None:
        """Ends what has taken too long. Called about once a second."""
        if self._busy:
            upstream = self._passage.upstream if self._passage is not None else None
            moved = self.stream.received + (upstream.received if upstream is not None else 0)
            if moved != self._moved:
                self._moved = moved
                self._deadline = now + self.service.limits.silence
                if self._passage is not None and self.service.moving is not None:
                    self.service.moving(self._passage.head.target)
        if now < self._deadline:
            return
        if self._busy:
            self._deadline = _FOREVER
            self.task.cancel()
        elif self._ending:
            self.stream.abort()
        else:
            self._end_by(now + _FINISH)
            if self._in_head:
                self._refuse(answers.problem(408, "request_timeout", "the head of the request took too long"))
            # FIN: a reset may reach a slow client before it has seen that its connection was made.
            self.stream.close()

    def _end_by(self, deadline: float) -> None:
        """Nothing comes after this; what the client has not taken by then is dropped."""
        self._ending = True
        self._deadline = deadline

    def stop(self) -> None:
        """Closes it now if it is idle; a busy one ends after its request."""
        if not self._busy:
            self.stream.close()

    async def _run(self) -> None:
        try:
            while await self._one() and not self.service.stopping:
                self._deadline = self._loop.time() + self.service.limits.idle
            self._end_by(self._loop.time() + _FINISH)
            await self._finish()
        except (ConnectionError, asyncio.CancelledError):
            pass  # the client went away, was too slow, or the listener stops
        except Exception:
            logger.exception("a connection from %s failed", self.peer.host)
        finally:
            self.stream.abort()

    async def _one(self) -> bool:
        """One request; True when a next one may follow."""
        stream = self.stream
        if not await stream.readable():
            return False
        self._in_head = True
        self._deadline = min(self._deadline, self._loop.time() + self.service.limits.head)
        try:
            data = await stream.read_head()
            if data is None:
                return False
            head = parse_request(data)
            framing = request_framing(head)
            head = heads.admitted(head, self.peer, trusted=self.trusted)
        except BadHead as bad:
            self._unread = True
            code = "invalid_request" if bad.status == 400 else "unsupported"
            self._refuse(answers.problem(bad.status, code, bad.message))
            return False
        finally:
            self._in_head = False
        if stream.eof or stream.lost:
            return False
        self._busy = True
        self._moved = -1
        self._deadline = _FOREVER
        stream.on_end = self._gone
        try:
            return await self._serve(head, framing)
        finally:
            stream.on_end = None
            self._busy = False
            self._passage = None

    def _gone(self) -> None:
        """FIN counts as gone: it is how a closed client looks until something is written to it."""
        self.stream.on_end = None  # FIN, then the loss: a second cancel would interrupt the clean-up
        self.task.cancel()

    async def _serve(self, head: Head, framing: Framing) -> bool:
        started = time.perf_counter()  # uvloop rounds its own clock to milliseconds
        passage = Passage(self.stream, head, framing, self.service.pool, self.service.limits.connect)
        self._passage = passage
        target: Target = _INTERNAL
        try:
            target = await self._target(head)
            try:
                try:
                    await self._carry_out(passage, target)
                except Again:
                    target = await self._target(head)
                    await self._carry_out(passage, target)
            except Again:
                self._answer(passage, answers.upstream_down())
            except Broken as broken:
                self._answer(passage, broken.answer)
            self._unread = not passage.request.done
            return passage.keep
        finally:
            if self.service.observe is not None:
                self.service.observe(
                    Exchange(
                        method=head.method,
                        target=head.target,
                        peer=self.peer,
                        request_id=head.fields.get("x-request-id", ""),
                        to=target,
                        status=passage.status,
                        aborted=not passage.whole,
                        seconds=time.perf_counter() - started,
                        received=passage.received,
                        sent=passage.sent,
                    )
                )

    async def _carry_out(self, passage: Passage, target: Target) -> None:
        """:raises Again: before anything was sent to an upstream; :raises Broken: before anything was sent to the client"""
        if isinstance(target, Upstream):
            await passage.forward(target)
        elif isinstance(target, Tunnel):
            await passage.tunnel(target)
        else:
            self._answer(passage, target)

    async def _target(self, head: Head) -> Target:
        try:
            target = await self.service.route(head, self.peer)
        except Refused as refused:
            return refused.answer
        except WrennError as error:
            return answers.from_error(error)
        except Exception:
            logger.exception("the route of %s %s failed", head.method, head.path)
            return _INTERNAL
        if isinstance(target, Answer) or isinstance(target, Tunnel) == (head.method == "CONNECT"):
            return target
        return answers.problem(405, "method_not_allowed", "CONNECT is not for this address")

    def _answer(self, passage: Passage, answer: Answer) -> None:
        try:
            while passage.request.take():
                pass  # a small body is here already and may be thrown away
        except BadBody:
            answer = answers.bad_body()
        head = passage.head
        if answer.text and heads.is_navigation(head):
            answer = answers.page(answer)
        answer = answers.numbered(answer, head.fields["x-request-id"])
        keep = passage.request.done and not wants_close(head) and head.method != "CONNECT"
        passage.status = answer.status
        passage.whole = True
        passage.keep = keep
        passage.sent = len(answer.body)
        self._write(answer, head, keep)

    def _refuse(self, answer: Answer) -> None:
        """What no request could be made of."""
        self._write(answers.numbered(answer, new_request_id()), None, False)

    def _write(self, answer: Answer, head: Head | None, keep: bool) -> None:
        lines = list(answer.headers)
        if answer.status not in (204, 304):
            lines.append(("Content-Length", str(len(answer.body))))
        if not keep:
            lines.append(("Connection", "close"))
        data = ResponseHead(tuple(lines), {}, answer.status, answers.reason(answer.status)).encode()
        self.stream.write(data if head is not None and head.method == "HEAD" else data + answer.body)

    async def _finish(self) -> None:
        """Lets the client have what was written. A close with unread input would reset the connection and lose it."""
        stream = self.stream
        if self._unread:
            stream.write_eof()
            discarded = 0
            while discarded < _DISCARD and (data := await stream.read()):
                discarded += len(data)
        stream.close()
        await stream.wait_closed()
