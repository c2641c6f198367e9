"""Where a request to the agent's port goes: `CONNECT {sandbox id}:{port}` into the sandbox, all else to the RPC.

A port that is refused on the guest's address may be open on its loopback: envd leads there. The listener splices the
bytes of a tunnel without a task of ours, with back-pressure and half-close.
"""

import socket
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path

from wrenn_server.edge import answers
from wrenn_server.edge.target import Peer, Refused, Route, Target, Tunnel, Upstream
from wrenn_server.hostagent.credentials import Verifier
from wrenn_server.hostagent.guest import loopback
from wrenn_server.hostagent.network.base import SlotPool
from wrenn_server.hostagent.sandbox.activity import Used
from wrenn_server.hostagent.sandbox.registry import Registry
from wrenn_server.model import ids
from wrenn_server.model.errors import Forbidden, GuestError, InvalidRequest, NotFound, WrennError
from wrenn_server.wire import envd
from wrenn_server.wire.head import Head
from wrenn_server.wire.stream import Stream, adopt, connect_unix

CONNECT_TIMEOUT = 5.0
"""Seconds. The guest is one virtual cable away; longer means that it does not answer."""
API_KEEP = 4.0
"""Seconds; uvicorn closes idle connections after 5."""


def routes(registry: Registry, slots: SlotPool, verifier: Verifier, api: str) -> Route:
    """:param api: unix socket of the RPC"""
    to_api = Upstream(connect=lambda: connect_unix(api), key=("rpc",), keep=API_KEEP)

    async def route(head: Head, peer: Peer) -> Target:
        if not peer.tls and not _is_loopback(peer.host):
            # A token on an open wire is everybody's token.
            return answers.from_error(Forbidden("plain HTTP is for loopback alone", code="tls_required"))
        if head.method != "CONNECT":
            return to_api
        try:
            verifier.check(head.get("authorization"))
            id, port = parse_target(head.target)
        except WrennError as error:
            return answers.from_error(error)

        async def connect() -> Stream:
            try:
                reach = registry.reach(id)
            except WrennError as error:
                # Whoever looks for a port cares that nothing is there, not in which of its states the sandbox is.
                raise Refused(
                    answers.from_error(NotFound(error.message, code="sandbox_not_found"))
                ) from error
            try:
                return await adopt(await slots.connect(reach.slot, port, CONNECT_TIMEOUT))
            except ConnectionRefusedError:
                if port == envd.PORT:
                    raise

            def to_envd(timeout: float) -> Awaitable[socket.socket]:
                return slots.connect(reach.slot, envd.PORT, timeout)

            return await loopback.connect(to_envd, reach.access_token, port, CONNECT_TIMEOUT)

        return Tunnel(
            connect=connect,
            group=id,
            retry_refused=True,
            refused=answers.from_error(GuestError(f"nothing listens on port {port}", code="port_not_open")),
            broken=answers.from_error(
                GuestError(f"the guest does not answer on port {port}", code="guest_unreachable")
            ),
        )

    return route


def noting(used: Used) -> Callable[[str], None]:
    """Notes the use of a sandbox: to be called with the target of a request that has moved bytes."""

    def note(target: str) -> None:
        try:
            id, port = parse_target(target)
        except WrennError:
            return  # not a tunnel
        used.note(id, port)

    return note


def parse_target(target: str) -> tuple[str, int]:
    """`{sandbox id}:{port}`.

    :raises NotFound: not the id of a sandbox; :raises InvalidRequest: not a port"""
    name, _, port = target.partition(":")
    id = ids.parse_sandbox_id(name)
    if id is None:
        raise NotFound("this host has no such sandbox", code="sandbox_not_found")
    if not port.isascii() or not port.isdigit() or len(port) > 5 or not 1 <= int(port) <= 65535:
        raise InvalidRequest("the port is not a number from 1 to 65535")
    return id, int(port)


def server_context(certificate_pem: str, key_pem: str, directory: Path) -> ssl.SSLContext:
    """For the certificate that the control plane signed."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    present(context, certificate_pem, key_pem, directory)
    return context


def present(context: ssl.SSLContext, certificate_pem: str, key_pem: str, directory: Path) -> None:
    """From now on, to those that connect; connections that exist go on as they are. The ssl module reads keys from files
    alone.

    :raises OSError: also when they do not belong together"""
    bundle = directory / "tls.pem"
    bundle.unlink(missing_ok=True)
    bundle.touch(mode=0o600)
    try:
        bundle.write_text(key_pem + certificate_pem)
        context.load_cert_chain(bundle)
    finally:
        bundle.unlink()


def _is_loopback(host: str) -> bool:
    return host in {"", "::1"} or host.startswith(("127.", "::ffff:127."))
