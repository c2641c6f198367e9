"""Ports that a program has opened on its guest's own loopback alone: envd, which is in there, carries the bytes.

```
GET /tunnel?port=N   Connection: Upgrade, Upgrade: tcp, X-Access-Token   -> 101, then raw bytes, or 502: nobody listens
```
"""

import asyncio
from contextlib import AsyncExitStack

from wrenn_server.hostagent.guest.client import Connect
from wrenn_server.wire import http1
from wrenn_server.wire.head import BadHead, Head, parse_response
from wrenn_server.wire.stream import Stream, adopt

HEAD_LIMIT = 4096
"""Bytes; envd's answer has 100."""


async def connect(envd: Connect, token: str, port: int, timeout: float) -> Stream:
    """A connection to the port.

    :param envd: the way to the guest's envd
    :raises ConnectionRefusedError: nobody listens there either; :raises OSError: :raises TimeoutError: no answer"""
    async with asyncio.timeout(timeout), AsyncExitStack() as stack:
        stream = await stack.enter_async_context(await adopt(await envd(timeout)))
        wanted = [("Host", "envd"), ("Connection", "Upgrade"), ("Upgrade", "tcp"), ("X-Access-Token", token)]
        stream.write(Head.of("GET", f"/tunnel?port={port}", wanted).encode())
        try:
            data = await stream.read_head(HEAD_LIMIT)
            if data is None:
                raise http1.Broken("envd closed the connection instead of making it a tunnel")
            status = parse_response(data).status
        except BadHead as error:
            raise http1.Broken("envd does not speak HTTP/1.1") from error
        if status != 101:
            raise ConnectionRefusedError(f"envd reaches no port {port} on its loopback: {status}")
        stack.pop_all()  # the connection is the caller's
        return stream
