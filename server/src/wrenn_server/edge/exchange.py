"""One request through one upstream: connect or reuse, send, stream the response back.

```
client ──head──► rewrite, outgoing ──► upstream        upload: inline when it is here already, else a task
client ◄─head── delivered, rewrite ◄── upstream      the connection's own task streams the response
```
The client's disconnect cancels the connection's task, and the `finally` below resets the upstream. The upstream's
death surfaces as ConnectionError: before the response an answer is sent, within it the client's connection ends
without the final chunk, so that no client takes half a body for a whole one.
"""

import asyncio

from wrenn_server.edge import answers
from wrenn_server.edge import head as heads
from wrenn_server.edge.pool import Pool
from wrenn_server.edge.splice import splice
from wrenn_server.edge.target import Answer, Refused, Tunnel, Upstream
from wrenn_server.model.errors import WrennError
from wrenn_server.wire.body import LAST_CHUNK, BadBody, Body, chunk
from wrenn_server.wire.head import (
    BadHead,
    Framing,
    Head,
    ResponseHead,
    parse_response,
    response_framing,
    wants_close,
    wants_upgrade,
)
from wrenn_server.wire.stream import Stream

_IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE", "TRACE"})
_REFUSED_DELAYS = (0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.25)  # seconds, 1.03 in all
_MAX_INTERIM = 16


class Broken(Exception):
    """No response came; `answer` says so to the client."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.status)
        self.answer = answer


class _Stale(Exception):
    pass


class Passage:
    """
    :ivar status: what the client got; 0 before
    :ivar whole: the response was delivered to its end
    :ivar keep: the client's connection can take a next request
    :ivar received: bytes of the request's body
    :ivar sent: bytes of the response's body
    :ivar upstream: the stream in use; its end ends the passage
    """

    def __init__(
        self, client: Stream, head: Head, framing: Framing, pool: Pool, connect_timeout: float
    ) -> None:
        self.client = client
        self.head = head
        self.framing = framing
        self.pool = pool
        self.connect_timeout = connect_timeout
        self.request = Body(client, framing)
        self.status = 0
        self.whole = False
        self.keep = False
        self.received = 0
        self.sent = 0
        self.upstream: Stream | None = None
        self._upload: asyncio.Task[None] | None = None
        self._bad_body = False

    async def tunnel(self, target: Tunnel) -> None:
        """:raises Broken:"""
        upstream = self.upstream = await self._connect(target)
        try:
            self.status = 200
            self.client.write(b"HTTP/1.1 200 OK\r\n\r\n")
            await self._splice(upstream)
        finally:
            self.pool.drop(target.group, upstream)

    async def forward(self, target: Upstream) -> None:
        """:raises Broken: before anything was sent to the client"""
        head = self.head if target.rewrite is None else target.rewrite(self.head)
        upgrade = _upgrade(self.head, self.framing) if target.upgrade else None
        data = heads.outgoing(head, self.framing, upgrade=upgrade, reusable=target.key is not None)
        replayable = self.framing.kind == "none" and head.method in _IDEMPOTENT
        now = asyncio.get_running_loop().time
        stream = self.pool.take(target.key, now()) if target.key is not None and not upgrade else None
        response = None
        if stream is not None:
            try:
                response = await self._attempt(stream, target, data, may_be_stale=replayable)
            except _Stale:
                stream = None
        if stream is None:
            stream = await self._connect(target)
        if response is None:
            response = await self._attempt(stream, target, data, may_be_stale=False)
        try:
            if response.status == 101:
                await self._switch(stream, response, upgrade)
                return
            reusable = await self._deliver(stream, response, target)
        except BaseException:
            self.pool.drop(target.group, stream)
            raise
        finally:
            if self._upload is not None:
                await self._end_upload()
            else:
                self.received = self.request.received
        if reusable and target.key is not None:
            self.pool.put(target.key, target.group, stream, now() + target.keep)
        else:
            self.pool.drop(target.group, stream)

    async def _connect(self, target: Upstream | Tunnel) -> Stream:
        """A new connection, a member of its group from the first attempt on."""
        try:
            async with asyncio.timeout(self.connect_timeout) as limit:
                attempt = _Attempt(limit)
                self.pool.join(target.group, attempt)
                try:
                    stream = await _dial(target)
                finally:
                    self.pool.leave(target.group, attempt)
            if attempt.aborted:
                stream.abort()
                raise ConnectionAbortedError  # between the connection's success and this task's turn
            self.pool.join(target.group, stream)
            return stream
        except Refused as refused:
            raise Broken(refused.answer) from refused
        except WrennError as error:
            raise Broken(answers.from_error(error)) from error
        except ConnectionRefusedError as error:
            raise Broken(target.refused or target.broken or answers.upstream_down()) from error
        except TimeoutError as error:
            raise Broken(target.broken or answers.upstream_slow()) from error
        except OSError as error:
            raise Broken(target.broken or answers.upstream_down()) from error

    async def _attempt(
        self, stream: Stream, target: Upstream, data: bytes, *, may_be_stale: bool
    ) -> ResponseHead:
        """Sends the request and waits for the response's head.

        :raises _Stale: a reused connection turned out dead before anything came back
        :raises Broken:
        """
        self.upstream = stream
        before = stream.received
        try:
            self._send(stream, data)
            return await self._response(stream)
        except (ConnectionError, BadHead) as error:
            await self._end_upload()
            self.pool.drop(target.group, stream)
            if may_be_stale and stream.received == before and isinstance(error, ConnectionError):
                raise _Stale from error
            if self._bad_body:
                raise Broken(answers.bad_body()) from error
            raise Broken(target.broken or answers.upstream_broke_off()) from error
        except BadBody as error:
            self.pool.drop(target.group, stream)
            raise Broken(answers.bad_body()) from error
        except BaseException:
            self.pool.drop(target.group, stream)
            await self._end_upload()
            raise

    async def _response(self, stream: Stream) -> ResponseHead:
        for _ in range(_MAX_INTERIM):
            data = await stream.read_head()
            if data is None:
                raise ConnectionResetError("the upstream closed the connection instead of answering")
            response = parse_response(data)
            if response.status >= 200 or response.status == 101:
                return response
            if self.head.minor:  # 100 Continue, 103 Early Hints
                self.client.write(heads.delivered(response, chunked=False, close=False))
        raise BadHead("too many interim responses")

    async def _deliver(self, stream: Stream, response: ResponseHead, target: Upstream) -> bool:
        """Streams the response; True when the upstream's connection can be used again."""
        client = self.client
        try:
            framing = response_framing(self.head.method, response)
        except BadHead as error:
            raise Broken(target.broken or answers.upstream_broke_off()) from error
        shown = response if target.rewrite_response is None else target.rewrite_response(response)
        open_ended = framing.kind in ("chunked", "close")
        chunked = open_ended and self.head.minor == 1
        keep = not wants_close(self.head) and (chunked or not open_ended)
        if not self.request.done and "expect" in self.head.fields:
            keep = False  # nobody asked for the body, and the client may or may not send it now
        body = Body(stream, framing)
        try:
            piece = body.take()
        except BadBody as error:
            raise Broken(target.broken or answers.upstream_broke_off()) from error
        # What is here already leaves with the head: one system call and one packet for a small response.
        self.status = response.status
        client.write(
            heads.delivered(shown, chunked=chunked, close=not keep)
            + _framed(piece, chunked=chunked, last=body.done)
        )
        try:
            while not body.done:
                if not client.writable:
                    await client.drain()
                if not await body.carry(client):
                    piece = body.take() or await body.read()
                    client.write(_framed(piece, chunked=chunked, last=body.done))
        except (ConnectionError, BadBody):
            # Chunked or with a length, the missing end speaks for itself, and what came before it is delivered.
            if open_ended and not chunked:
                client.abort()
            else:
                client.close()
            return False
        finally:
            self.sent = body.received
        self.whole = True
        self.keep = keep and self.request.done
        return framing.kind != "close" and not wants_close(response) and self.request.done

    async def _switch(self, stream: Stream, response: ResponseHead, upgrade: str | None) -> None:
        if upgrade is None:
            raise Broken(answers.upstream_broke_off())
        self.status = 101
        self.client.write(heads.switched(response))
        await self._splice(stream)

    async def _splice(self, upstream: Stream) -> None:
        client = self.client
        received, sent = client.received - client.buffered, upstream.received - upstream.buffered
        try:
            self.whole = await splice(client, upstream)
        finally:
            self.received, self.sent = client.received - received, upstream.received - sent

    def _send(self, stream: Stream, head: bytes) -> None:
        """What is here of the body goes out with the head; a task sends the rest.

        :raises BadBody:
        """
        body = self.request
        if body.done:
            stream.write(head)
            return
        chunked = self.framing.kind == "chunked"
        data = [head]
        while piece := body.take():
            data.append(_framed(piece, chunked=chunked, last=False))
        if body.done:
            data.append(_framed(b"", chunked=chunked, last=True))
        else:
            self._upload = asyncio.create_task(self._send_rest(stream), name="edge upload")
        stream.write(b"".join(data))

    async def _send_rest(self, stream: Stream) -> None:
        chunked = self.framing.kind == "chunked"
        try:
            await stream.drain()
            while not self.request.done:
                if not await self.request.carry(stream):
                    piece = await self.request.read()
                    stream.write(_framed(piece, chunked=chunked, last=self.request.done))
                if not stream.writable:
                    await stream.drain()
        except BadBody:
            self._bad_body = True
            stream.abort()
        except ConnectionError:
            pass  # the client's end cancels the passage; the upstream may have answered before it closed

    async def _end_upload(self) -> None:
        task, self._upload = self._upload, None
        if task is not None and not task.done():
            task.cancel()
            await asyncio.wait([task])
        self.received = self.received or self.request.received


class _Attempt:
    """A connection that does not exist yet, as a member of its group."""

    def __init__(self, limit: asyncio.Timeout) -> None:
        self.aborted = False
        self._limit = limit

    def abort(self) -> None:
        self.aborted = True
        self._limit.reschedule(0)


async def _dial(target: Upstream | Tunnel) -> Stream:
    for delay in _REFUSED_DELAYS if target.retry_refused else ():
        try:
            return await target.connect()
        except ConnectionRefusedError:
            await asyncio.sleep(delay)
    return await target.connect()


def _framed(piece: bytes, *, chunked: bool, last: bool) -> bytes:
    """:param last: the body ends with this piece, which may be empty"""
    if not chunked:
        return piece
    data = chunk(piece) if piece else b""
    return data + LAST_CHUNK if last else data


def _upgrade(head: Head, framing: Framing) -> str | None:
    """h2c would carry requests past the edge's eyes; an upgrade with a body is nobody's real request."""
    upgrade = wants_upgrade(head)
    return None if upgrade is None or "h2c" in upgrade or framing.kind != "none" else upgrade
