"""Traffic to the sandbox's ports, and out of it."""

import asyncio
import time
from datetime import timedelta
from typing import Any

from .kit import Sdk, case, e2b, get, json_of, outside, port_url, raises, until, websocket_echo


async def reaches_outside(sdk: Sdk, sandbox: Any) -> bool:
    host, port = outside()
    line = f"timeout 3 bash -c 'cat </dev/tcp/{host}/{port}' 2>/dev/null || true"
    return (await sdk(sandbox.commands.run, line)).stdout == "outside"


@case("Sandbox.get_host", "a user's port answers", domain=True)
async def port(sdk: Sdk) -> None:
    sandbox = await sdk.serving()
    host = sandbox.get_host(8080)
    assert host.startswith(f"8080-{sandbox.sandbox_id}.{sandbox.sandbox_domain}")
    answer = await get(sandbox, 8080, "/some/path?query=1")
    assert answer.status_code == 200
    assert json_of(answer)["path"] == "/some/path?query=1"


@case("Sandbox.get_host", "a server that listens on 127.0.0.1 alone answers", domain=True)
async def loopback_port(sdk: Sdk) -> None:
    sandbox = await sdk.serving()
    assert (await get(sandbox, 8081)).status_code == 200


@case("Sandbox.get_host", "a WebSocket", domain=True)
async def websocket(sdk: Sdk) -> None:
    sandbox = await sdk.serving()
    assert await asyncio.to_thread(websocket_echo, sandbox, 8080, "hello ä") == "hello ä"


@case("Sandbox.get_host", "a closed port: 502 with the sandbox's id and the port", domain=True)
async def closed_port(sdk: Sdk) -> None:
    sandbox = await sdk.shared()
    answer = await get(sandbox, 9999)
    assert answer.status_code == 502
    assert json_of(answer) == {
        "sandboxId": sandbox.sandbox_id,
        "message": "The sandbox is running but port is not open",
        "port": 9999,
        "code": 502,
    }


@case("Sandbox.get_host", "a killed sandbox: 502 with the sandbox's id", domain=True)
async def killed(sdk: Sdk) -> None:
    async with sdk.sandbox() as sandbox:
        await sdk(sandbox.kill)
        answer = await get(sandbox, 8080)
        assert answer.status_code == 502
        assert json_of(answer) == {
            "sandboxId": sandbox.sandbox_id,
            "message": "The sandbox was not found",
            "code": 502,
        }


@case(
    "Sandbox.get_host", "the server sees the public name, and none of the platform's credentials", domain=True
)
async def headers(sdk: Sdk) -> None:
    sandbox = await sdk.serving()
    url, routing = port_url(sandbox, 8080)
    seen = json_of(await get(sandbox, 8080, headers={"X-Mine": "1", "X-API-KEY": "e2b_" + "0" * 40}))[
        "headers"
    ]
    seen = {name.lower(): value for name, value in seen.items()}
    assert seen["x-mine"] == "1"
    assert seen["host"] == url.split("/")[2] if not routing else seen["host"]
    assert "x-access-token" not in seen
    assert "e2b-traffic-access-token" not in seen


@case(
    "Sandbox.traffic_access_token",
    "allow_public_traffic=False: 403 without the token, answers with it; envd needs none",
    domain=True,
)
async def private(sdk: Sdk) -> None:
    async with sdk.sandbox(network={"allow_public_traffic": False}) as sandbox:
        token = sandbox.traffic_access_token
        assert token
        await sdk.serve(sandbox, "0.0.0.0:8080")
        for given in ({}, {"e2b-traffic-access-token": "wrong"}):
            answer = await get(sandbox, 8080, headers=given)
            assert answer.status_code == 403
            assert json_of(answer)["sandboxId"] == sandbox.sandbox_id
        answer = await get(sandbox, 8080, headers={"e2b-traffic-access-token": token})
        assert answer.status_code == 200
        assert "e2b-traffic-access-token" not in {name.lower() for name in json_of(answer)["headers"]}
        other = await sdk(sdk.Sandbox.connect, sandbox.sandbox_id)
        assert other.traffic_access_token == token


@case("Sandbox.traffic_access_token", "None for a public sandbox")
async def public(sdk: Sdk) -> None:
    assert (await sdk.shared()).traffic_access_token is None


@case("Sandbox.create", "network: mask_request_host is what the server sees", domain=True)
async def mask(sdk: Sdk) -> None:
    async with sdk.sandbox(network={"mask_request_host": "my-host:${PORT}"}) as sandbox:
        await sdk.serve(sandbox, "0.0.0.0:8080")
        seen = json_of(await get(sandbox, 8080))["headers"]
        assert {name.lower(): value for name, value in seen.items()}["host"] == "my-host:8080"


@case("Sandbox.create", "allow_internet_access: on by default, False shuts everything")
async def internet(sdk: Sdk) -> None:
    assert await reaches_outside(sdk, await sdk.shared())
    async with sdk.sandbox(allow_internet_access=False) as sandbox:
        assert not await reaches_outside(sdk, sandbox)
        assert (await sdk(sandbox.get_info)).allow_internet_access is False


@case("Sandbox.create", "network: deny_out shuts, allow_out wins over it; get_info tells")
async def rules(sdk: Sdk) -> None:
    host, _ = outside()
    network = {"deny_out": [e2b.ALL_TRAFFIC], "allow_out": [host]}
    async with sdk.sandbox(network=network) as sandbox:
        assert await reaches_outside(sdk, sandbox)
        told = (await sdk(sandbox.get_info)).network
        assert told["deny_out"] == ["0.0.0.0/0"]
        assert told["allow_out"] == [host]
    async with sdk.sandbox(network={"deny_out": [f"{host}/32"]}) as sandbox:
        assert not await reaches_outside(sdk, sandbox)


@case("Sandbox.create", "network: selectors as functions")
async def selectors(sdk: Sdk) -> None:
    def everything(context: Any) -> list[str]:
        return [context.all_traffic]

    async with sdk.sandbox(network={"deny_out": everything}) as sandbox:
        assert not await reaches_outside(sdk, sandbox)


NAMES = ("allowed.test", "deep.below.test", "other.test")


async def reached(sdk: Sdk, sandbox: Any) -> list[str]:
    """Which of NAMES the sandbox reaches by HTTP; outside, all of them are one server."""
    lines = [f"curl -s -m 3 http://{name}/ | grep -q outside && echo {name}" for name in NAMES]
    return (await sdk(sandbox.commands.run, "\n".join((*lines, "true")))).stdout.split()


@case(
    "Sandbox.create",
    "network: domain rules: an allowed name, a wildcard, nothing else; dns_servers",
    also=("Sandbox.update_network",),
    since=(2, 63),
)
async def domains(sdk: Sdk) -> None:
    host, _ = outside()
    names = {"deny_out": [e2b.ALL_TRAFFIC], "dns_servers": [host]}
    async with sdk.sandbox(network={**names, "allow_out": ["allowed.test", "*.below.test"]}) as sandbox:
        assert await reached(sdk, sandbox) == ["allowed.test", "deep.below.test"]
        await sdk(sandbox.update_network, {**names, "allow_out": ["other.test"]})
        assert await reached(sdk, sandbox) == ["other.test"]


@case("Sandbox.create", "network: allowed domains shut everything else; get_info tells")
async def closed_but_for_domains(sdk: Sdk) -> None:
    network = {"deny_out": [e2b.ALL_TRAFFIC], "allow_out": ["allowed.test"]}
    async with sdk.sandbox(network=network) as sandbox:
        assert not await reaches_outside(sdk, sandbox)
        assert (await sdk(sandbox.get_info)).network["allow_out"] == ["allowed.test"]


@case("Sandbox.create", "network: a domain without deny of everything, an address that is none: refused")
async def bad_rules(sdk: Sdk) -> None:
    for network in ({"allow_out": ["example.com"]}, {"deny_out": ["not an address"]}):
        with raises(e2b.SandboxException, saying="400"):
            await sdk(sdk.Sandbox.create, network=network)


@case(
    "Sandbox.update_network",
    "while it runs, instance and static; replaces all; an unknown sandbox is not found",
)
async def update(sdk: Sdk) -> None:
    async with sdk.sandbox() as sandbox:
        assert await reaches_outside(sdk, sandbox)
        await sdk(sandbox.update_network, {"deny_out": [e2b.ALL_TRAFFIC]})
        assert not await reaches_outside(sdk, sandbox)
        host, _ = outside()
        await sdk(
            sdk.Sandbox.update_network,
            sandbox.sandbox_id,
            {"deny_out": [e2b.ALL_TRAFFIC], "allow_out": [host]},
        )
        assert await reaches_outside(sdk, sandbox)
        await sdk(sandbox.update_network, {"allow_internet_access": False})
        assert not await reaches_outside(sdk, sandbox)
        await sdk(sandbox.update_network, {})
        assert await reaches_outside(sdk, sandbox)
        with raises(e2b.SandboxException, saying="400"):
            await sdk(sandbox.update_network, {"allow_out": ["example.com"]})
        await sdk(sandbox.kill)
        with raises(e2b.SandboxNotFoundException):
            await sdk(sandbox.update_network, {})


@case("Sandbox.get_mcp_url", "the address of the gateway's port")
async def mcp_url(sdk: Sdk) -> None:
    sandbox = await sdk.shared()
    assert sandbox.get_mcp_url().endswith(f"{sandbox.get_host(50005)}/mcp")


@case("Sandbox.get_mcp_token", "read from the gateway's file")
async def mcp_token(sdk: Sdk) -> None:
    sandbox = await sdk.shared()
    await sdk(sandbox.files.write, "/etc/mcp-gateway/.token", "the-token", user="root")
    assert await sdk(sandbox.get_mcp_token) == "the-token"


@case(
    "Sandbox.get_metrics",
    "a first sample within 30 s, instance and static; nothing before the start",
    seconds=90,
)
async def metrics(sdk: Sdk) -> None:
    sandbox = await sdk.shared()

    async def sampled() -> list[Any]:
        return await sdk(sandbox.get_metrics)

    began = time.monotonic()
    samples = await until(sampled, seconds=30)
    assert time.monotonic() - began < 30
    sample = samples[-1]
    assert sample.cpu_count >= 1
    assert sample.cpu_used_pct >= 0
    assert 0 < sample.mem_used < sample.mem_total
    assert 0 < sample.disk_used < sample.disk_total
    info = await sdk(sandbox.get_info)
    assert sample.timestamp >= info.started_at
    static = await sdk(sdk.Sandbox.get_metrics, sandbox.sandbox_id)
    assert len(static) >= len(samples)
    early = info.started_at - timedelta(days=365)
    assert await sdk(sandbox.get_metrics, start=early, end=early + timedelta(minutes=1)) == []
