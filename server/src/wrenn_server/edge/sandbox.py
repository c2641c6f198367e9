"""A sandbox's port as an upstream: the tunnel's refusals become the bodies that E2B's SDKs expect."""

from wrenn_server.edge import answers, route
from wrenn_server.edge.target import Connect, Refused, Upstream
from wrenn_server.model.errors import WrennError
from wrenn_server.wire import envd
from wrenn_server.wire.stream import Stream

PORT_NOT_OPEN = "port_not_open"
SANDBOX_NOT_FOUND = "sandbox_not_found"
"""Codes with which an agent refuses a CONNECT."""

_ENVD_KEEP = 30.0  # less than our envd's 120 s; a pause resets them
_PORT_KEEP = 1.5  # less than gunicorn's 2 s, the shortest of the usual servers


def sandbox_upstream(sandbox_id: str, generation: int, port: int, dial: Connect) -> Upstream:
    """
    :param dial: opens the byte tunnel to this port, e.g. `wire.http1.connect_tunnel`; its WrennErrors, OSErrors and
        TimeoutErrors are turned into answers here
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
        rewrite=route.for_sandbox,
        rewrite_response=route.from_sandbox,
        upgrade=port != envd.PORT,
        broken=answers.sandbox_broke_off(sandbox_id, port),
    )
