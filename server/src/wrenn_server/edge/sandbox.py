"""A sandbox's port as an upstream: the tunnel's refusals become the bodies that E2B's SDKs expect."""

import re
from collections.abc import Callable

from wrenn_server.edge import answers, route
from wrenn_server.edge.target import Connect, Refused, Upstream
from wrenn_server.model.errors import WrennError
from wrenn_server.wire import envd
from wrenn_server.wire.head import Head
from wrenn_server.wire.stream import Stream

PORT_NOT_OPEN = "port_not_open"
SANDBOX_NOT_FOUND = "sandbox_not_found"
"""Codes with which an agent refuses a CONNECT."""

_HOST = re.compile(r"[A-Za-z0-9.\-_:\[\]]{1,255}", re.ASCII)
_ENVD_KEEP = 30.0  # less than our envd's 120 s; a pause resets them
_PORT_KEEP = 1.5  # less than gunicorn's 2 s, the shortest of the usual servers


def sandbox_upstream(
    sandbox_id: str, generation: int, port: int, dial: Connect, *, mask_host: str | None = None
) -> Upstream:
    """
    :param dial: opens the byte tunnel to this port, e.g. `wire.http1.connect_tunnel`; its WrennErrors, OSErrors and
        TimeoutErrors are turned into answers here
    :param mask_host: the Host that the server in the sandbox sees; `${PORT}` in it is replaced
    """

    async def connect() -> Stream:
        try:
            return await dial()
        except WrennError as error:
            if error.code == PORT_NOT_OPEN:
                raise Refused(answers.port_not_open(sandbox_id, port)) from error
            if error.code == SANDBOX_NOT_FOUND:
                raise Refused(answers.sandbox_not_found(sandbox_id)) from error
            raise Refused(answers.host_unreachable(sandbox_id)) from error
        except (OSError, TimeoutError) as error:
            raise Refused(answers.host_unreachable(sandbox_id)) from error

    return Upstream(
        connect=connect,
        key=(sandbox_id, generation, port),
        keep=_ENVD_KEEP if port == envd.PORT else _PORT_KEEP,
        group=sandbox_id,
        rewrite=_rewrite(mask_host, port),
        rewrite_response=route.from_sandbox,
        upgrade=port != envd.PORT,
        broken=answers.sandbox_broke_off(sandbox_id, port),
    )


def _rewrite(mask_host: str | None, port: int) -> Callable[[Head], Head]:
    if mask_host is None or port == envd.PORT:
        return route.for_sandbox
    host = mask_host.replace("${PORT}", str(port))
    if not _HOST.fullmatch(host):
        return route.for_sandbox
    return lambda head: route.masked(route.for_sandbox(head), host)
