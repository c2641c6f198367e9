"""One TCP connection to a guest, from inside its namespace."""

import asyncio
import errno
import socket
from collections.abc import Awaitable, Callable

from wrenn_server.hostagent.network.base import GUEST_ADDRESS

FIRST_PATIENCE, LONGEST_PATIENCE = 0.03, 1.0
"""Seconds for one attempt, doubling. A guest that has just been restored may miss the first SYN, and the kernel
sends the second one only a whole second later: a new socket is faster."""


async def connect(
    make_socket: Callable[[], Awaitable[socket.socket]], port: int, timeout: float
) -> socket.socket:
    """:raises ConnectionRefusedError: the guest is there and says no; :raises TimeoutError: no answer within
    `timeout` seconds; :raises OSError: no way there"""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout
    patience = FIRST_PATIENCE
    while True:
        left = deadline - loop.time()
        if left <= 0:
            raise TimeoutError(errno.ETIMEDOUT, f"no answer from port {port} of the guest in {timeout:g} s")
        candidate = await make_socket()
        try:
            candidate.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            async with asyncio.timeout(min(patience, left)):
                await loop.sock_connect(candidate, (GUEST_ADDRESS, port))
        except TimeoutError:
            candidate.close()
            patience = min(patience * 2, LONGEST_PATIENCE)
        except BaseException:
            candidate.close()
            raise
        else:
            return candidate
