"""Agents renew certificate and token: the agent's own code against a whole control plane, by a clock that tests set."""

import asyncio
import contextlib
import ssl
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from support.certificates import self_signed
from support.simulated import World, control_plane, eventually
from wrenn_server.controlplane.keys import HostClaims, server_name
from wrenn_server.db import hosts as db_hosts
from wrenn_server.edge.listener import Listener
from wrenn_server.edge.target import Answer, Limits, Peer, Target
from wrenn_server.hostagent import credentials as saved
from wrenn_server.hostagent import renewal as renewals
from wrenn_server.hostagent import tunnel
from wrenn_server.hostagent.control_plane import ControlPlane
from wrenn_server.hostagent.credentials import Credentials
from wrenn_server.hostagent.heartbeat import Content, Heart
from wrenn_server.hostagent.registration import signing_request
from wrenn_server.hostagent.renewal import Renewal, due
from wrenn_server.hostagent.sandbox.clock import WallClock
from wrenn_server.hostagent.simulated import SPECS, SimulatedAgent
from wrenn_server.model.errors import WrennError
from wrenn_server.wire import agent as wire
from wrenn_server.wire.head import Head

DAY = 24 * 3600.0


class Dial(WallClock):
    def __init__(self, at: float) -> None:
        self.at = at

    def now(self) -> float:
        return self.at


class Line(ControlPlane):
    """A control plane whose answers to renewals pass through `change`."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.asked = 0
        self.change: Callable[[bytes], bytes] = lambda answer: answer

    async def post(self, path: str, value: msgspec.Struct, **options: Any) -> bytes:
        answer = await super().post(path, value, **options)
        if not path.endswith("/renew"):
            return answer
        self.asked += 1
        return self.change(answer)


def nothing(_: Credentials) -> None:
    pass


def never(_: Credentials) -> None:
    raise AssertionError("it must not be used")


def overdue(
    host: SimulatedAgent,
    file: Path,
    line: ControlPlane | None = None,
    *,
    clock: Dial | None = None,
    present: Callable[[Credentials], None] = nothing,
) -> Renewal:
    return Renewal(
        line or host.control_plane,
        host.credentials,
        file=file,
        address=host.address,
        installation=host.installation,
        clock=clock or Dial(due(host.credentials)),
        present=present,
    )


async def code(world: World, credentials: Credentials, what: str = "renew", **changes: Any) -> str:
    """Of the refusal of a call with those credentials."""
    body = {"csr_pem": signing_request(ec.generate_private_key(ec.SECP256R1()), None), **changes}
    answer = await world.api.anonymous().post(
        f"/v1/hosts/{credentials.host_id}/{what}",
        body,
        headers={"X-Host-Token": credentials.token},
        wrong=True,
    )
    return f"{answer.status_code} {answer.json()['error']['code']}" if answer.is_error else "good"


def as_before(host: SimulatedAgent) -> Credentials:
    return msgspec.structs.replace(host.credentials)


@asynccontextmanager
async def connected(
    world: World, host_id: str, port: str
) -> AsyncGenerator[tuple[int, Callable[[], Any]], None]:
    """A connection as the control plane makes it: the serial number of the certificate, and what sends a request."""
    context = world.cp.keys.client_context()
    name = server_name(host_id)
    reader, writer = await asyncio.open_connection("127.0.0.1", int(port), ssl=context, server_hostname=name)
    tls: ssl.SSLObject = writer.get_extra_info("ssl_object")
    presented = x509.load_der_x509_certificate(tls.getpeercert(binary_form=True) or b"")

    async def ask() -> bytes:
        writer.write(b"GET / HTTP/1.1\r\nHost: agent\r\n\r\n")
        return await reader.readuntil(b"here")

    yield presented.serial_number, ask
    writer.transport.abort()


async def test_a_running_agent_renews_and_connections_go_on(
    world: World, host: SimulatedAgent, tmp_path: Path
) -> None:
    """Heartbeats, file, real TLS: everything of it but the VMs."""
    file, before = tmp_path / "host-token", as_before(host)
    context = tunnel.server_context(before.cert_pem, before.key_pem, tmp_path)
    clock = Dial(due(before) - 1)

    def present(fresh: Credentials) -> None:
        assert saved.load(file) == fresh, "it is safe before it is used"
        tunnel.present(context, fresh.cert_pem, fresh.key_pem, tmp_path)

    renewal = overdue(host, file, clock=clock, present=present)
    await renewal.keep()
    assert host.credentials == before, "not a second too early"

    async def route(head: Head, peer: Peer) -> Target:
        return Answer(status=200, body=b"here")

    async def specs() -> wire.HostSpecs:
        return SPECS

    async with Listener("127.0.0.1:0", route, ssl=context, limits=Limits(grace=0.2)) as listener:
        port = listener.address.rpartition(":")[2]
        async with connected(world, host.host_id, port) as (first, ask):
            await ask()
            clock.at += 1
            content = Content(
                address=host.address, started_at=time.time(), specs=specs, sandboxes=list, templates=list
            )
            beating = asyncio.create_task(Heart(host.control_plane, host.credentials, content, renewal).run())

            async def used() -> bool:
                row = await db_hosts.get(world.cp.db, host.host_id)
                return row is not None and row.token_epoch == row.renewed_epoch

            await eventually(used)
            await ask()
            async with connected(world, host.host_id, port) as (second, ask_anew):
                await ask_anew()
            beating.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await beating
    assert first == x509.load_pem_x509_certificate(before.cert_pem.encode()).serial_number
    assert second == x509.load_pem_x509_certificate(host.credentials.cert_pem.encode()).serial_number
    assert first != second
    assert saved.load(file) == host.credentials
    assert file.stat().st_mode & 0o777 == 0o600
    assert host.credentials.key_pem != before.key_pem
    assert await code(world, before) == "401 token_replaced"


async def test_a_lost_answer_costs_nothing(
    world: World, host: SimulatedAgent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(renewals, "PAUSE", 0.0)
    file, before = tmp_path / "host-token", as_before(host)
    line = Line(world.url)
    renewal = overdue(host, file, line)

    def lose(answer: bytes) -> bytes:
        raise TimeoutError

    line.change = lose
    for _ in range(2):
        await renewal.keep()
        assert (host.credentials, saved.load(file)) == (before, None)
        await host.beat()
    line.change = lambda answer: answer
    await renewal.keep()
    assert line.asked == 3
    # Written, not used yet: an agent that dies now, or one that is given an older copy of the file, is still known.
    assert host.credentials != before
    assert await code(world, before) == "good"
    await asyncio.gather(host.beat(), host.send([]))
    assert await code(world, before) == "401 token_replaced"
    assert await code(world, host.credentials) == "good"
    await host.beat()


@pytest.mark.parametrize("fails", [True, False])
async def test_it_does_not_ask_at_every_heartbeat(
    world: World, host: SimulatedAgent, tmp_path: Path, fails: bool
) -> None:
    """Neither after a failure nor when the host's clock is so wrong that what is new is due."""
    line = Line(world.url)
    if fails:
        line.change = lambda answer: b"{}"
    renewal = overdue(host, tmp_path / "host-token", line, clock=Dial(time.time() + 4000 * DAY))
    for _ in range(3):
        await renewal.keep()
    assert line.asked == 1


async def test_what_cannot_be_written_is_not_used(world: World, host: SimulatedAgent, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    before = as_before(host)
    await overdue(host, tmp_path / "file" / "host-token", present=never).keep()
    assert host.credentials == before
    await host.beat()


@pytest.mark.parametrize("what", ["another key", "another authority", "another host", "no token", "nothing"])
async def test_an_answer_of_no_use_replaces_nothing(
    world: World, host: SimulatedAgent, tmp_path: Path, what: str
) -> None:
    before, line = as_before(host), Line(world.url)
    changes = {
        "another key": {"cert_pem": before.cert_pem},
        "another authority": {"cert_pem": self_signed(tmp_path, "x").certificate.read_text()},
        "another host": {"token": world.cp.keys.host_token(HostClaims("host_" + "b" * 20, 1))},
        "no token": {"token": "x"},
    }

    def change(answer: bytes) -> bytes:
        return b"" if what == "nothing" else msgspec.json.encode(msgspec.json.decode(answer) | changes[what])

    line.change = change
    await overdue(host, tmp_path / "host-token", line, present=never).keep()
    assert line.asked == 1
    assert (host.credentials, saved.load(tmp_path / "host-token")) == (before, None)
    await host.beat()


async def test_who_may_not_renew(world: World, host: SimulatedAgent, tmp_path: Path) -> None:
    before = as_before(host)
    assert await code(world, before, csr_pem="x") == "400 invalid_request"
    async with world.host() as other:
        stranger = msgspec.structs.replace(before, token=other.credentials.token)
        assert await code(world, stranger) == "403 forbidden"
    host.installation = "original"
    await host.beat()
    assert await code(world, before, installation="copy") == "409 identity_in_use"
    assert await code(world, before, installation="original") == "good"
    # Registered anew while a renewed token is under way: neither that one nor the one before counts any more.
    await overdue(host, tmp_path / "host-token").keep()
    token = (await world.user.post(f"/v1/hosts/{host.host_id}/token")).json()["registration_token"]
    specs = {name: getattr(SPECS, name) for name in SPECS.__struct_fields__}
    csr = signing_request(ec.generate_private_key(ec.SECP256R1()), None)
    body = {"token": token, "address": host.address, "csr_pem": csr, "specs": specs}
    anew = (await world.api.anonymous().post("/v1/hosts/register", body)).json()["token"]
    for old in (before, host.credentials):
        assert await code(world, old) == "401 token_replaced"
    now = msgspec.structs.replace(before, token=anew)
    assert await code(world, now) == "good"
    assert (await world.user.delete(f"/v1/hosts/{host.host_id}")).status_code == 204
    assert await code(world, now) == "401 host_removed"
    with pytest.raises(WrennError):
        await host.beat()


async def test_renewals_are_on_record(world: World, host: SimulatedAgent, tmp_path: Path) -> None:
    await overdue(host, tmp_path / "host-token").keep()
    row = await world.cp.db.fetchrow("SELECT * FROM audit_logs WHERE operation = 'renewHost'")
    assert row is not None
    assert (row["actor_type"], row["actor_id"], row["status"]) == ("host", host.host_id, 200)


async def test_the_earlier_end_counts(database_url: str) -> None:
    for days, when in ((3, 2 * DAY), (3000, 365 * DAY * 2 / 3)):
        async with control_plane(database_url, certificate_days=days) as world, world.host() as host:
            left = due(host.credentials) - time.time()
            assert abs(left - when) < 3700, "certificates begin an hour before"
            assert due(msgspec.structs.replace(host.credentials, token="x")) == 0
            assert due(msgspec.structs.replace(host.credentials, cert_pem="x")) == 0
