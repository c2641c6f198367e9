"""Sandboxes through E2B's API: made, looked at, ended; what their answers hold."""

from datetime import UTC, datetime, timedelta
from typing import Any

import httpx2
import pytest

from support.e2b import E2b, client
from support.simulated import World, control_plane
from wrenn_server.controlplane import bootstrap
from wrenn_server.hostagent.simulated import SimulatedAgent
from wrenn_server.model.ids import new_sandbox_id


async def seconds_left(e2b: E2b, sandbox: dict[str, Any]) -> float:
    info = (await e2b.get(f"/sandboxes/{sandbox['sandboxID']}")).json()
    return (datetime.fromisoformat(info["endAt"]) - datetime.now(UTC)).total_seconds()


async def test_create_with_as_little_as_can_be(e2b: E2b, host: SimulatedAgent) -> None:
    made = await e2b.new()
    held = host.host.held[made["sandboxID"]]
    assert made["envdAccessToken"] == held.access_token
    assert made["trafficAccessToken"] is None
    assert made["domain"] is None
    assert (made["alias"], made["envdVersion"]) == ("base", "0.6.13")
    assert isinstance(made["clientID"], str)
    assert made["templateID"].startswith("tpl_")
    assert 290 < await seconds_left(e2b, made) <= 300
    assert held.report.vcpus == 1


async def test_the_first_version_lives_for_15_seconds_by_default(e2b: E2b, host: SimulatedAgent) -> None:
    made = (await e2b.post("/sandboxes", {"templateID": "base"})).json()
    assert 5 < await seconds_left(e2b, made) <= 15


@pytest.mark.parametrize("path", ["/sandboxes", "/v2/sandboxes"])
async def test_create_with_everything(e2b: E2b, host: SimulatedAgent, path: str) -> None:
    body = {
        "templateID": "base", "timeout": 77, "autoPause": True, "autoResume": {"enabled": True}, "secure": True,
        "allow_internet_access": False, "metadata": {"a": "ü"}, "envVars": {"A": "b"}, "mcp": None, "iam": {},
        "volumeMounts": [], "unknown": {"x": 1},
        "network": {
            "allowPublicTraffic": False, "allowOut": ["1.1.1.1"], "denyOut": ["0.0.0.0/0"], "maskRequestHost": "x:${PORT}",
            "dnsServers": ["9.9.9.9"], "egressProxy": None, "rules": {}, "httpsPorts": [],
        },
    }  # fmt: skip
    response = await e2b.post(path, body)
    assert response.status_code == 201, response.text
    made = response.json()
    held = host.host.held[made["sandboxID"]]
    assert held.envs == {"A": "b"}
    assert (held.on_timeout, held.pause_memory) == ("pause", True)
    assert held.network.internet is False
    info = (await e2b.get(f"/sandboxes/{made['sandboxID']}")).json()
    assert info["metadata"] == {"a": "ü"}
    assert (info["cpuCount"], info["memoryMB"], info["diskSizeMB"]) == (1, 512, 5120)
    assert (info["state"], info["alias"]) == ("running", "base")
    assert info["lifecycle"] == {"autoResume": True, "onTimeout": "pause"}
    assert info["allowInternetAccess"] is False
    assert info["network"] == {
        "allowPublicTraffic": False, "allowOut": ["1.1.1.1/32"] if "/32" in str(info) else ["1.1.1.1"],
        "denyOut": ["0.0.0.0/0"], "dnsServers": ["9.9.9.9"], "maskRequestHost": "x:${PORT}",
    }  # fmt: skip
    assert info["envdAccessToken"] == made["envdAccessToken"]
    assert len(made["trafficAccessToken"]) > 20
    assert 60 < await seconds_left(e2b, made) <= 77


async def test_old_sdks_send_the_key_as_a_bearer_and_the_id_with_a_client(
    world: World, e2b: E2b, host: SimulatedAgent
) -> None:
    made = await e2b.new()
    key = world.admin.api_key.replace("wrn_", "e2b_")
    async with httpx2.AsyncClient(base_url=world.url, trust_env=False) as http:
        path = f"/sandboxes/{made['sandboxID']}-{made['clientID']}"
        answer = await http.get(path, headers={"Authorization": f"Bearer {key}"})
    assert (answer.status_code, answer.json()["sandboxID"]) == (200, made["sandboxID"])


async def test_a_chunked_body(e2b: E2b, host: SimulatedAgent) -> None:
    async def body() -> Any:
        yield b'{"templateID":'
        yield b' "base"}'

    answer = await e2b.request(
        "POST", "/v2/sandboxes", content=body(), headers={"Content-Type": "application/json"}
    )
    assert answer.status_code == 201


async def test_the_domain_is_the_one_that_is_set(database_url: str) -> None:
    async with (
        control_plane(database_url, proxy_domain="sandboxes.test:8443") as world,
        world.host(),
        httpx2.AsyncClient(base_url=world.url, trust_env=False) as http,
    ):
        made = await client(world, http).new()
        info = (await client(world, http).get(f"/sandboxes/{made['sandboxID']}")).json()
    assert made["domain"] == info["domain"] == "sandboxes.test:8443"


@pytest.mark.parametrize(
    "body",
    [
        {}, {"templateID": None}, {"templateID": 1}, {"templateID": ""}, {"templateID": ":x"}, {"templateID": "a\0b"},
        {"timeout": 0}, {"timeout": -1}, {"timeout": 10**9}, {"timeout": 10**30}, {"timeout": "60"}, {"timeout": 1.5},
        {"metadata": {"a": 1}}, {"metadata": []}, {"envVars": {"A=B": "c"}}, {"envVars": {"A": None}},
        {"autoPause": "yes"}, {"autoResume": True}, {"autoPauseMemory": False},
        {"autoPauseMemory": False, "autoPause": False},
        {"autoPauseMemory": False, "autoPause": True, "autoResume": {"enabled": True}},
        {"network": {"denyOut": ["example.com"]}}, {"network": {"allowOut": ["example.com"]}},
        {"network": {"allowOut": "1.1.1.1"}}, {"network": {"allowOut": ["::1"]}}, {"network": []},
        {"network": {"maskRequestHost": "a b"}}, {"network": {"dnsServers": ["dns.example.com"]}},
    ],
)  # fmt: skip
async def test_bad_requests(e2b: E2b, host: SimulatedAgent, body: dict[str, Any]) -> None:
    given = body if not body or "templateID" in body else {"templateID": "base", **body}
    answer = await e2b.post("/v2/sandboxes", given)
    assert answer.status_code == 400, answer.text
    assert host.host.held == {}


async def test_domains_are_only_let_out_of_what_is_closed(e2b: E2b, host: SimulatedAgent) -> None:
    refused = await e2b.post(
        "/v2/sandboxes", {"templateID": "base", "network": {"allowOut": ["*.example.com"]}}
    )
    assert refused.status_code == 400
    beginning = "When specifying allowed domains in allow out, you must include 'ALL_TRAFFIC' in deny out"
    assert refused.json()["message"].startswith(beginning)
    await e2b.new(network={"allowOut": ["*.example.com"], "denyOut": ["0.0.0.0/0"]})
    await e2b.new(network={"allowOut": ["*.example.com"]}, allow_internet_access=False)


@pytest.mark.parametrize(
    "body",
    [
        {"mcp": {"github": {}}}, {"iam": {"tokens": {"aws": {}}}}, {"volumeMounts": [{"name": "v", "path": "/v"}]},
        {"network": {"egressProxy": {"address": "x:1080"}}}, {"network": {"rules": {"example.com": []}}},
        {"network": {"httpsPorts": [443]}},
    ],
)  # fmt: skip
async def test_what_does_not_exist_here_is_not_passed_over(
    e2b: E2b, host: SimulatedAgent, body: dict[str, Any]
) -> None:
    answer = await e2b.post("/v2/sandboxes", {"templateID": "base", **body})
    assert (answer.status_code, answer.json()["error_code"]) == (501, "not_supported")
    assert host.host.held == {}


async def test_a_private_sandbox_is_a_secure_one(e2b: E2b, host: SimulatedAgent) -> None:
    body = {"templateID": "base", "secure": False, "network": {"allowPublicTraffic": False}}
    assert (await e2b.post("/sandboxes", body)).status_code == 400
    made = (await e2b.post("/sandboxes", {"templateID": "base", "secure": False})).json()
    assert made["envdAccessToken"], "all of them are secure"


async def test_a_template_that_is_not_there(e2b: E2b, host: SimulatedAgent) -> None:
    answer = await e2b.post("/v2/sandboxes", {"templateID": "nothing"})
    assert (answer.status_code, answer.json()["error_code"]) == (404, "template_not_found")


async def test_no_host(e2b: E2b) -> None:
    answer = await e2b.post("/v2/sandboxes", {"templateID": "base"})
    assert (answer.status_code, answer.json()["error_code"]) == (503, "no_hosts_available")
    assert answer.headers["should-retry"] == "true"


async def test_a_key_for_the_request(e2b: E2b, host: SimulatedAgent) -> None:
    key = {"Idempotency-Key": "abc-1"}
    first = await e2b.post("/v2/sandboxes", {"templateID": "base"}, headers=key)
    again = await e2b.post("/v2/sandboxes", {"templateID": "base"}, headers=key)
    assert first.status_code == again.status_code == 201
    assert first.json() == again.json()
    other = await e2b.post("/v2/sandboxes", {"templateID": "minimal"}, headers=key)
    assert (other.status_code, other.json()["error_code"]) == (409, "idempotency_key_reused")
    assert (
        await e2b.post("/v2/sandboxes", {"templateID": "base"}, headers={"Idempotency-Key": "a b"})
    ).status_code == 400
    assert len(host.host.held) == 1


async def test_kill(e2b: E2b, host: SimulatedAgent) -> None:
    path = f"/sandboxes/{(await e2b.new())['sandboxID']}"
    assert (await e2b.delete(path)).status_code == 204
    assert host.host.held == {}
    assert (await e2b.delete(path)).status_code == 404
    assert (await e2b.get(path)).status_code == 404


async def test_what_has_ended_is_not_there(world: World, e2b: E2b, host: SimulatedAgent) -> None:
    made = await e2b.new()
    id = made["sandboxID"]
    await e2b.delete(f"/sandboxes/{id}")
    calls = [
        ("GET", ""), ("DELETE", ""), ("POST", "/pause"), ("POST", "/connect"), ("POST", "/resume"), ("POST", "/fork"),
        ("POST", "/snapshots"), ("POST", "/refreshes"),
    ]  # fmt: skip
    for gone in (id, new_sandbox_id(), "x", "sb", "%00", "a%2Fb", "%ff"):
        for method, what in calls:
            answer = await e2b.request(method, f"/sandboxes/{gone}{what}")
            assert (answer.status_code, gone) == (404, gone), f"{method} {what}: {answer.text}"
        assert (await e2b.post(f"/sandboxes/{gone}/timeout", {"timeout": 5})).status_code == 404
        assert (await e2b.post(f"/sandboxes/{gone}/timeout", {"timeout": 0})).status_code == 404
        assert (await e2b.put(f"/sandboxes/{gone}/network", {})).status_code == 404
        assert (await e2b.post(f"/v2/sandboxes/{gone}/connect")).status_code == 404


async def test_another_teams_sandbox_is_not_there(world: World, e2b: E2b, host: SimulatedAgent) -> None:
    made = await e2b.new()
    other = await bootstrap.bootstrap(world.cp.db, "other@example.com", "another password")
    async with httpx2.AsyncClient(base_url=world.url, trust_env=False) as http:
        stranger = client(world, http, other.api_key)
        path = f"/sandboxes/{made['sandboxID']}"
        for method, what in (
            ("GET", ""),
            ("DELETE", ""),
            ("POST", "/pause"),
            ("POST", "/connect"),
            ("POST", "/fork"),
        ):
            assert (await stranger.request(method, path + what)).status_code == 404
        assert (await stranger.get("/v2/sandboxes")).json() == []
    assert (await e2b.get(path)).status_code == 200


async def test_one_that_never_ends_ends_far_away(world: World, e2b: E2b, host: SimulatedAgent) -> None:
    made = await world.new_sandbox()
    info = (await e2b.get(f"/sandboxes/{made['id']}")).json()
    assert datetime.fromisoformat(info["endAt"]) > datetime.now(UTC) + timedelta(days=365000)


async def test_logs_are_empty(e2b: E2b, host: SimulatedAgent) -> None:
    id = (await e2b.new())["sandboxID"]
    assert (await e2b.get(f"/sandboxes/{id}/logs?start=1&limit=5")).json() == {"logs": [], "logEntries": []}
    assert (await e2b.get(f"/v2/sandboxes/{id}/logs")).json()["logs"] == []
    assert (await e2b.get(f"/sandboxes/{new_sandbox_id()}/logs")).status_code == 404
