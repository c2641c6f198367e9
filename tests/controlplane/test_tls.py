"""The port that speaks TLS, beside the plain one."""

import asyncio
from pathlib import Path

import httpx2
import pytest

from support.certificates import self_signed
from support.simulated import control_plane
from wrenn_server.controlplane.config import Tls


async def test_both_ports_serve_the_same(database_url: str, tmp_path: Path) -> None:
    made = self_signed(tmp_path, "127.0.0.1")
    tls = Tls(made.certificate, made.key, "127.0.0.1:0")
    async with control_plane(database_url, tls=tls) as world:
        assert world.tls_url is not None
        async with httpx2.AsyncClient(verify=made.client(), trust_env=False) as client:
            secure = await client.get(f"{world.tls_url}/health")
            plain = await client.get(f"{world.url}/health")
        assert (secure.status_code, secure.json()) == (plain.status_code, plain.json()) == (200, plain.json())


@pytest.mark.parametrize("offered", [["h2", "http/1.1"], ["http/1.1"], ["h2"], []])
async def test_a_client_is_told_that_http_1_1_is_spoken(
    database_url: str, tmp_path: Path, offered: list[str]
) -> None:
    made = self_signed(tmp_path, "127.0.0.1")
    async with control_plane(database_url, tls=Tls(made.certificate, made.key, "127.0.0.1:0")) as world:
        assert world.tls_url is not None
        context = made.client()
        context.set_alpn_protocols(offered)
        port = int(world.tls_url.rpartition(":")[2])
        _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
        spoken = writer.get_extra_info("ssl_object").selected_alpn_protocol()
        writer.transport.abort()
        assert spoken == ("http/1.1" if "http/1.1" in offered else None)


async def test_without_a_certificate_there_is_no_second_port(database_url: str) -> None:
    async with control_plane(database_url) as world:
        assert world.tls_url is None
