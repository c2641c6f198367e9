"""Two streams as one: what comes out of either goes into the other, until both directions have ended."""

import asyncio

from wrenn_server.wire.stream import Stream


async def splice(one: Stream, other: Stream) -> bool:
    """Returns True for a regular end (FIN in both directions), False when a side broke; a break is passed on as RST.

    No task moves the bytes: `Stream.relay` does, with back-pressure. Half-closed streams go on in the other
    direction. Both streams are closed afterwards; when cancelled, reset.
    """
    ended = asyncio.get_running_loop().create_future()

    def check() -> None:
        if not ended.done() and (one.lost or other.lost or (one.eof and other.eof)):
            ended.set_result(None)

    one.on_end = other.on_end = check
    one.relay(other)
    other.relay(one)
    check()
    try:
        await ended
    except BaseException:
        one.abort()
        other.abort()
        raise
    one.close()
    other.close()
    return one.eof and other.eof
