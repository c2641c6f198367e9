"""What a sandbox may reach, and who may reach it: E2B's fields as ours."""

from typing import Any

from litestar import put
from litestar.params import FromPath, JSONBody

from wrenn_server.controlplane.api.auth import Cp, Who
from wrenn_server.controlplane.e2b import read, schema
from wrenn_server.controlplane.e2b.find import of_living
from wrenn_server.controlplane.services import network
from wrenn_server.model.errors import NotSupported
from wrenn_server.wire import agent


@put("/sandboxes/{sandbox_id:str}/network", status_code=204)
async def update(
    cp: Cp, caller: Who, sandbox_id: FromPath[str], data: JSONBody[schema.NetworkUpdate | None] = None
) -> None:
    """In place of all rules that were; an empty body clears them."""
    id = read.sandbox_id(sandbox_id)
    given = data or schema.NetworkUpdate()
    wanted = egress(given, given.allow_internet_access)
    async with of_living(cp, caller, id):
        await network.update(cp, caller.team_id, id, wanted)


def egress(given: schema.NetworkConfig | schema.NetworkUpdate, internet: bool | None) -> agent.Network:
    """:raises NotSupported: a field that would change where traffic goes must not be passed over"""
    refuse("network.egressProxy", given.egress_proxy)
    refuse("network.rules", given.rules)
    return agent.Network(
        internet=internet is not False,
        allow_out=given.allow_out or [],
        deny_out=given.deny_out or [],
        dns_servers=given.dns_servers or [],
    )


def refuse(field: str, value: dict[str, Any] | list[Any] | None) -> None:
    """:raises NotSupported: it is there, and there is something in it"""
    if value:
        raise NotSupported(f"{field} is not supported on this platform yet", hint="leave it out")
