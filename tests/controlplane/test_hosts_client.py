"""Calls to agents: TLS with certificates of ours alone, and failures told apart by whether the host may have acted."""

import asyncio
import ssl
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from support.postgres import TEMPLATE, fresh
from wrenn_server.controlplane import hosts_client
from wrenn_server.controlplane.hosts_client import Host, HostsClient, Uncertain, Unreachable
from wrenn_server.controlplane.keys import Keys, load
from wrenn_server.db import pool
from wrenn_server.db.pool import Database
from wrenn_server.edge.listener import Listener
from wrenn_server.edge.target import Answer, Limits, Peer, Target
from wrenn_server.hostagent.tunnel import server_context
from wrenn_server.model.address import Address
from wrenn_server.model.ids import new_host_id
from wrenn_server.wire.head import Head

HEALTH = b'{"version":"1","vmm":"qemu","vmm_version":"7","accelerated":false,"sandboxes":0}'


@pytest.fixture
async def keys(db: Database) -> Keys:
    return await load(db)


@pytest.fixture
async def client(keys: Keys, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[HostsClient]:
    monkeypatch.setattr(Address, "is_loopback", property(lambda _: False))  # as if it were another machine
    async with hosts_client.connect(keys) as connected:
        yield connected


def certified(keys: Keys, host_id: str) -> ssl.SSLContext:
    """As an agent does it: key and request made there, certificate from us."""
    key = ec.generate_private_key(ec.SECP256R1())
    request = x509.CertificateSigningRequestBuilder().subject_name(
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "agent")])
    )
    pem = request.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
    with tempfile.TemporaryDirectory() as directory:
        return server_context(keys.certify(pem, host_id, None), private, Path(directory))


@asynccontextmanager
async def agent(context: ssl.SSLContext | None, answer: Answer) -> AsyncGenerator[Address]:
    async def route(head: Head, peer: Peer) -> Target:
        assert (head.get("authorization") or "").startswith("Bearer ")
        return answer

    async with Listener("127.0.0.1:0", route, ssl=context, limits=Limits(grace=0.2)) as listener:
        yield Address.parse(listener.address)


async def test_tls_with_the_hosts_own_certificate(keys: Keys, client: HostsClient) -> None:
    host_id = new_host_id()
    async with agent(certified(keys, host_id), Answer(status=200, body=HEALTH)) as address:
        assert (await client.health(Host(host_id, address))).vmm == "qemu"


async def test_another_hosts_certificate_is_refused(keys: Keys, client: HostsClient) -> None:
    async with agent(certified(keys, new_host_id()), Answer(status=200, body=HEALTH)) as address:
        with pytest.raises(Unreachable):
            await client.health(Host(new_host_id(), address))


async def test_a_certificate_of_another_authority_is_refused(
    keys: Keys, client: HostsClient, postgres: str
) -> None:
    host_id = new_host_id()
    async with fresh(postgres, TEMPLATE) as other, pool.connect(other) as db:
        stranger = await load(db)
    async with agent(certified(stranger, host_id), Answer(status=200, body=HEALTH)) as address:
        with pytest.raises(Unreachable):
            await client.health(Host(host_id, address))


async def test_plain_http_is_refused_outside_of_loopback(client: HostsClient) -> None:
    async with agent(None, Answer(status=200, body=HEALTH)) as address:
        with pytest.raises(Unreachable):
            await client.health(Host(new_host_id(), address))


async def test_nobody_listens(client: HostsClient) -> None:
    with pytest.raises(Unreachable):
        await client.kill(Host(new_host_id(), Address("127.0.0.1", 1)), "sb" + "a" * 20, 1)


async def test_an_answer_that_never_comes_or_makes_no_sense(
    keys: Keys, client: HostsClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    host_id = new_host_id()
    context = certified(keys, host_id)
    for body in (b"", b"nonsense", b'{"version": 1}'):
        async with agent(context, Answer(status=200, body=body)) as address:
            with pytest.raises(Uncertain):
                await client.health(Host(host_id, address))

    async def drop(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.close()

    server = await asyncio.start_server(drop, "127.0.0.1", 0, ssl=context)
    async with server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(Uncertain):
            await client.health(Host(host_id, Address("127.0.0.1", port)))
    monkeypatch.setattr(hosts_client, "ASK_TIMEOUT", 0.2)

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(hang, "127.0.0.1", 0, ssl=context)
    async with server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(Uncertain):
            await client.health(Host(host_id, Address("127.0.0.1", port)))


async def test_a_strange_404_is_no_missing_sandbox(keys: Keys, client: HostsClient) -> None:
    """Something in between may answer 404; a sandbox must not fail by that."""
    host_id = new_host_id()
    async with agent(certified(keys, host_id), Answer(status=404, body=b"<html>not found</html>")) as address:
        with pytest.raises(Uncertain):
            await client.get(Host(host_id, address), "sb" + "a" * 20)


async def test_a_hosts_401_is_not_told_to_our_caller(keys: Keys, client: HostsClient) -> None:
    host_id = new_host_id()
    async with agent(certified(keys, host_id), Answer(status=401)) as address:
        with pytest.raises(Exception, match="refuses our calls") as refused:
            await client.health(Host(host_id, address))
        assert getattr(refused.value, "status", None) == 503


async def test_replicas_have_the_same_keys(db: Database, keys: Keys) -> None:
    loaded = await asyncio.gather(*(load(db) for _ in range(5)))
    assert {other.ca_pem for other in loaded} == {keys.ca_pem}
    assert {other.signing_public_pem for other in loaded} == {keys.signing_public_pem}
