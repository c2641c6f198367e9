"""What sandboxes may reach: rules as written, and changing them at hosts."""

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.simulated import Gate, World
from wrenn_server.controlplane.services import egress, network, sandboxes
from wrenn_server.hostagent.sandbox.lifecycle import Command
from wrenn_server.hostagent.simulated import SimulatedAgent
from wrenn_server.model.errors import Conflict, Internal, InvalidRequest, Unavailable
from wrenn_server.wire.agent import Network

ALL = egress.EVERYTHING


@pytest.mark.parametrize(
    ("entry", "canonical"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("192.0.2.1/32", "192.0.2.1"),
        ("192.0.2.77/24", "192.0.2.0/24"),
        ("0.0.0.0/0", "0.0.0.0/0"),
        ("pypi.org", "pypi.org"),
        ("PyPI.ORG.", "pypi.org"),
        ("*.Example.com", "*.example.com"),
        ("a_b.example.com", "a_b.example.com"),
        ("xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("1.example.com", "1.example.com"),
        ("example.c0m", "example.c0m"),
    ],
)
def test_what_may_be_allowed(entry: str, canonical: str) -> None:
    assert egress.checked(Network(internet=False, allow_out=[entry])).allow_out == [canonical]


@pytest.mark.parametrize(
    "entry",
    [
        "", " ", "*", "*.", "localhost", "*.com", "a..b.example", ".example.com", "-a.example.com", "a-.example.com",
        "exa mple.com", "example.com:443", "https://example.com", "example.com/x", "*.*.example.com", "a.*.example.com",
        "bücher.example", "300.1.1.1", "1.2.3", "1.2.3.4.5", "192.0.2.1/33", "192.0.2.0/-1", "192.0.2.1-192.0.2.9",
        "01.2.3.4", "0x7f.0.0.1", "::1", "2001:db8::/32", "192.0.2.1\n", "example.com\n", "a" * 64 + ".example",
        ".".join(["a" * 60] * 5) + ".example", "192.0.2.0/24/24", "192.0.2.0/255.255.255.0x",
    ],
)  # fmt: skip
def test_what_may_not(entry: str) -> None:
    for rules in ({"allow_out": [entry]}, {"deny_out": [entry]}, {"dns_servers": [entry]}):
        with pytest.raises(InvalidRequest, match=next(iter(rules))):
            egress.checked(Network(internet=False, **rules))


@given(st.text(max_size=300))
def test_no_text_breaks_the_rules(text: str) -> None:
    """Whatever is let through means the same when it is read again."""
    try:
        once = egress.checked(Network(internet=False, allow_out=[text]))
    except InvalidRequest:
        return
    assert egress.checked(once) == once
    assert once.allow_out[0].isascii()


def test_names_and_servers_are_not_denied() -> None:
    with pytest.raises(InvalidRequest, match=r"deny_out 'example.com': expected an IPv4 address or a CIDR"):
        egress.checked(Network(deny_out=["example.com"]))
    with pytest.raises(InvalidRequest, match=r"dns_servers '192.0.2.0/24'"):
        egress.checked(Network(dns_servers=["192.0.2.0/24"]))


def test_names_need_everything_else_to_be_closed() -> None:
    with pytest.raises(InvalidRequest) as caught:
        egress.checked(Network(allow_out=["example.com"]))
    beginning = "When specifying allowed domains in allow out, you must include 'ALL_TRAFFIC' in deny out"
    assert caught.value.message.startswith(beginning)
    for closed in (
        Network(internet=False, allow_out=["example.com"]),
        Network(allow_out=["example.com"], deny_out=[ALL]),
    ):
        assert egress.checked(closed).allow_out == ["example.com"]
    assert egress.checked(Network(allow_out=["192.0.2.1"])).allow_out == ["192.0.2.1"], "addresses do not"


def test_every_entry_counts_once_and_there_are_not_too_many() -> None:
    twice = Network(deny_out=["192.0.2.9/24", "192.0.2.0/24", "198.51.100.1", "198.51.100.1/32"])
    assert egress.checked(twice).deny_out == ["192.0.2.0/24", "198.51.100.1"]
    many = [f"198.51.{n >> 8}.{n & 255}" for n in range(egress.RULES_MAX)]
    assert len(egress.checked(Network(deny_out=many)).deny_out) == egress.RULES_MAX
    for too_many in (
        Network(deny_out=[*many, "192.0.2.1"]),
        Network(allow_out=[*many, "192.0.2.1"]),
        Network(dns_servers=many[: egress.DNS_SERVERS_MAX + 1]),
    ):
        with pytest.raises(InvalidRequest, match="at most"):
            egress.checked(too_many)


@pytest.mark.parametrize(
    "mask_host", ["localhost", "localhost:${PORT}", "${PORT}.example.com", "a-b.example:80", None]
)
def test_a_host_to_be_told(mask_host: str | None) -> None:
    assert egress.checked_mask_host(mask_host) == mask_host


@pytest.mark.parametrize(
    "mask_host",
    ["", ":80", "a b", "a\r\nX: y", "a\n", "localhost:", "a:b", "${HOST}", "a/b", "ä", "u@h", "a" * 300, "a:123456"]
)  # fmt: skip
def test_no_host_to_be_told(mask_host: str) -> None:
    with pytest.raises(InvalidRequest, match="mask_host"):
        egress.checked_mask_host(mask_host)


async def test_a_create_tells_its_host(world: World, host: SimulatedAgent) -> None:
    rules = {"internet": False, "allow_out": ["PyPI.org", "192.0.2.9/24"], "dns_servers": ["192.0.2.53"]}
    made = await world.new_sandbox(network=rules, private=True, mask_host="localhost:${PORT}")
    canonical = Network(internet=False, allow_out=["pypi.org", "192.0.2.0/24"], dns_servers=["192.0.2.53"])
    assert host.host.held[made["id"]].network == canonical
    assert made["network"]["allow_out"] == ["pypi.org", "192.0.2.0/24"]
    assert (made["private"], made["mask_host"]) == (True, "localhost:${PORT}")
    assert len(made["traffic_token"]) == 48
    listed = (await world.api.get("/v1/sandboxes")).json()[0]
    assert listed["private"] is True
    assert "traffic_token" not in listed
    fork = (await world.api.post(f"/v1/sandboxes/{made['id']}/fork")).json()[0]["sandbox"]
    assert (fork["network"], fork["mask_host"]) == (made["network"], made["mask_host"])
    assert fork["traffic_token"] not in (made["traffic_token"], None)


@pytest.mark.parametrize(
    "wrong",
    [
        {"network": {"allow_out": ["example.com"]}},
        {"network": {"deny_out": ["example.com"]}},
        {"network": {"deny_out": ["1.2.3.4"] * 1001}},
        {"network": {"deny_out": ["x" * 257]}},
        {"network": {"egress": True}},
        {"network": None},
        {"mask_host": "a b"},
        {"private": "yes"},
    ],
)
async def test_wrong_rules_make_nothing(world: World, host: SimulatedAgent, wrong: dict[str, Any]) -> None:
    answer = await world.api.request("POST", "/v1/sandboxes", json=wrong, wrong=True)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_request")
    assert host.host.calls == []


async def test_rules_of_a_running_one_are_replaced(world: World, host: SimulatedAgent) -> None:
    made = await world.new_sandbox(network={"deny_out": ["192.0.2.1"]})
    path = f"/v1/sandboxes/{made['id']}/network"
    changed = await world.api.request("PUT", path, json={"internet": False, "allow_out": ["pypi.org"]})
    assert changed.status_code == 200
    assert changed.json()["network"] == {
        "internet": False, "allow_out": ["pypi.org"], "deny_out": [], "dns_servers": [],
    }  # fmt: skip
    assert host.host.held[made["id"]].network == Network(internet=False, allow_out=["pypi.org"])
    assert (await world.api.request("PUT", path, json={})).json()["network"]["internet"] is True
    assert host.host.held[made["id"]].network == Network()


async def test_rules_of_a_paused_one_come_with_its_resume(world: World, host: SimulatedAgent) -> None:
    made = await world.new_sandbox()
    path = f"/v1/sandboxes/{made['id']}"
    await world.api.post(f"{path}/pause")
    assert (await world.api.request("PUT", f"{path}/network", json={"internet": False})).status_code == 200
    assert host.host.held[made["id"]].network == Network()
    await world.api.post(f"{path}/resume")
    assert host.host.held[made["id"]].network == Network(internet=False)


async def test_a_host_that_fails_leaves_the_rules(world: World, host: SimulatedAgent) -> None:
    made = await world.new_sandbox()

    async def fail(command: Command, sandbox_id: str) -> None:
        if command is Command.REWIRE:
            raise Internal("nft failed", code="rewire_failed")

    host.host.before = fail
    path = f"/v1/sandboxes/{made['id']}"
    answer = await world.api.request("PUT", f"{path}/network", json={"internet": False})
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "agent_error")
    assert (await world.api.get(path)).json()["network"]["internet"] is True


async def test_rules_of_what_is_killed_or_on_its_way(world: World, host: SimulatedAgent) -> None:
    made = await world.new_sandbox()
    path = f"/v1/sandboxes/{made['id']}"
    host.host.before = gate = Gate(Command.PAUSE)
    pause = asyncio.create_task(world.api.post(f"{path}/pause"))
    await gate.reached.wait()
    for _ in range(2):
        answer = await world.api.request("PUT", f"{path}/network", json={})
        assert (answer.status_code, answer.json()["error"]["code"]) == (409, "invalid_state")
        gate.open.set()
        await pause
        await world.api.delete(path)


async def test_rules_of_what_its_host_has_just_paused(world: World, host: SimulatedAgent) -> None:
    made = await world.new_sandbox(on_timeout="pause")
    host.host.expires(made["id"])
    row = await network.update(world.cp, world.admin.team_id, made["id"], Network(internet=False))
    assert (row.state, row.network.internet) == ("paused", False)


async def test_changes_at_once_leave_row_and_host_with_the_same_rules(
    world: World, host: SimulatedAgent
) -> None:
    made = await world.new_sandbox()
    for _ in range(4):
        await asyncio.gather(
            *(
                network.update(world.cp, world.admin.team_id, made["id"], Network(deny_out=[f"192.0.2.{n}"]))
                for n in range(6)
            )
        )
        row = await sandboxes.get(world.cp, world.admin.team_id, made["id"])
        assert row.network == host.host.held[made["id"]].network


async def test_its_host_is_away(world: World, host: SimulatedAgent) -> None:
    made = await world.new_sandbox()
    await world.cp.db.execute("UPDATE hosts SET status = 'unreachable'")
    with pytest.raises((Unavailable, Conflict)):
        await network.update(world.cp, world.admin.team_id, made["id"], Network())
