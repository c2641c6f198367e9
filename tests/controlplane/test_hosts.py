"""Hosts: the specification's registration, heartbeats, and what is believed of them."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import httpx2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from support.simulated import World, eventually
from wrenn_server.controlplane.keys import server_name
from wrenn_server.controlplane.reconcile import hosts as reconcile_hosts
from wrenn_server.hostagent.simulated import SPECS, SimulatedAgent
from wrenn_server.hostagent.simulated_host import SimulatedHost
from wrenn_server.model.errors import Unauthorized, WrennError
from wrenn_server.model.sandbox import Reason


def csr(**names: str) -> str:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names.get("name", "agent"))])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject)
    if "dns" in names:
        request = request.add_extension(
            x509.SubjectAlternativeName([x509.DNSName(names["dns"])]), critical=False
        )
    return request.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()


def registration(token: str, **changes: Any) -> dict[str, Any]:
    specs = {name: getattr(SPECS, name) for name in SPECS.__struct_fields__}
    return {"token": token, "address": "10.0.1.5:50051", "csr_pem": csr(), "specs": specs, **changes}


async def new_host(world: World) -> tuple[str, str]:
    answer = await world.user.post("/v1/hosts", {"type": "regular"})
    assert answer.status_code == 201
    return answer.json()["host"]["id"], answer.json()["registration_token"]


async def register(world: World, body: dict[str, Any], **options: Any) -> httpx2.Response:
    return await world.api.anonymous().post("/v1/hosts/register", body, **options)


async def test_a_new_host_is_pending(world: World) -> None:
    host_id, token = await new_host(world)
    assert len(token) > 40
    host = (await world.user.get(f"/v1/hosts/{host_id}")).json()
    assert (host["status"], host["type"]) == ("pending", "regular")
    assert [h["id"] for h in (await world.user.get("/v1/hosts")).json()] == [host_id]


async def test_registration_gives_credentials_of_its_own(world: World) -> None:
    host_id, token = await new_host(world)
    answer = await register(world, registration(token, csr_pem=csr(dns="evil.example")))
    assert answer.status_code == 200
    given = answer.json()
    assert given["host_id"] == host_id
    certificate = x509.load_pem_x509_certificate(given["cert_pem"].encode())
    authority = x509.load_pem_x509_certificate(given["ca_cert_pem"].encode())
    certificate.verify_directly_issued_by(authority)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == [server_name(host_id)]
    assert [str(a) for a in names.get_values_for_type(x509.IPAddress)] == ["10.0.1.5"]
    assert "PUBLIC KEY" in given["control_plane_key_pem"]
    host = (await world.user.get(f"/v1/hosts/{host_id}")).json()
    assert (host["address"], host["cpus"], host["status"]) == ("10.0.1.5:50051", SPECS.cpus, "pending")


async def test_a_wrong_a_used_and_an_expired_token(world: World) -> None:
    host_id, token = await new_host(world)
    wrong = await register(world, registration("reg_" + "0" * 64))
    assert (wrong.status_code, wrong.json()["error"]["code"]) == (401, "token_invalid")
    assert (await register(world, registration(token))).status_code == 200
    used = await register(world, registration(token))
    assert (used.status_code, used.json()["error"]["code"]) == (401, "token_used")
    assert f"/v1/hosts/{host_id}/token" in used.json()["error"]["hint"]
    _, late = await new_host(world)
    await world.cp.db.execute(
        "UPDATE host_tokens SET expires_at = now() - interval '1 s' WHERE used_at IS NULL"
    )
    expired = await register(world, registration(late))
    assert (expired.status_code, expired.json()["error"]["code"]) == (401, "token_expired")


async def test_a_token_is_valid_for_an_hour(world: World) -> None:
    await new_host(world)
    left = await world.cp.db.fetchval(
        "SELECT extract(epoch FROM expires_at - now())::float8 FROM host_tokens"
    )
    assert 3500 < left <= 3600


async def test_of_two_registrations_at_once_one_succeeds(world: World) -> None:
    _, token = await new_host(world)
    answers = await asyncio.gather(*(register(world, registration(token)) for _ in range(5)))
    assert sorted(answer.status_code for answer in answers) == [200, 401, 401, 401, 401]
    assert {a.json()["error"]["code"] for a in answers if a.status_code == 401} == {"token_used"}


@pytest.mark.parametrize(
    "changes",
    [
        {"csr_pem": "no request"},
        {"csr_pem": "x" * 100_000},
        {"csr_pem": "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n"},
        {"address": "no port"},
        {"address": "user@host:1"},
        {"address": "host:99999"},
        {"address": "host:1/path"},
        {"address": "ho st:1"},
        {"specs": {**{n: getattr(SPECS, n) for n in SPECS.__struct_fields__}, "cpus": -1}},
        {"specs": {**{n: getattr(SPECS, n) for n in SPECS.__struct_fields__}, "memory_mb": 2**40}},
        {"specs": {**{n: getattr(SPECS, n) for n in SPECS.__struct_fields__}, "arch": "x" * 1000}},
        {"specs": {}},
    ],
)
async def test_a_bad_registration_does_not_cost_the_token(world: World, changes: dict[str, Any]) -> None:
    _, token = await new_host(world)
    answer = await register(world, registration(token, **changes), wrong=True)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_request")
    assert (await register(world, registration(token))).status_code == 200


async def test_a_new_token_takes_the_place_of_an_unused_one(world: World) -> None:
    host_id, first = await new_host(world)
    answer = await world.user.post(f"/v1/hosts/{host_id}/token")
    assert answer.status_code == 201
    assert answer.json()["host"]["id"] == host_id
    again = await register(world, registration(first))
    assert (again.status_code, again.json()["error"]["code"]) == (401, "token_invalid")
    assert (await register(world, registration(answer.json()["registration_token"]))).json()[
        "host_id"
    ] == host_id


async def test_only_administrators_handle_hosts(world: World) -> None:
    host_id, _ = await new_host(world)
    await world.cp.db.execute("UPDATE users SET is_admin = false")
    for client, refusal in ((world.user, "forbidden"), (world.api, "scope_required")):
        made = await client.post("/v1/hosts")
        assert (made.status_code, made.json()["error"]["code"]) == (403, refusal)
        assert (await client.get("/v1/hosts")).json() == []
        for method, path in (
            ("GET", ""),
            ("DELETE", ""),
            ("POST", "/token"),
            ("POST", "/drain"),
            ("DELETE", "/drain"),
        ):
            found = await client.request(method, f"/v1/hosts/{host_id}{path}")
            by_key = client is world.api and method != "GET"
            expected = (403, "scope_required") if by_key else (404, "host_not_found")
            assert (found.status_code, found.json()["error"]["code"]) == expected


async def test_a_host_comes_online_with_its_heartbeat(world: World, host: SimulatedAgent) -> None:
    found = (await world.user.get(f"/v1/hosts/{host.host_id}")).json()
    assert (found["status"], found["templates"]) == ("online", ["minimal"])
    assert "last_heartbeat_at" in found


async def test_a_second_host_can_join(world: World, host: SimulatedAgent) -> None:
    async with world.host() as other:
        assert other.host_id != host.host_id
        assert {h["status"] for h in (await world.user.get("/v1/hosts")).json()} == {"online"}


async def test_templates_that_a_host_has_can_be_used(world: World) -> None:
    async with world.host(templates=["minimal", "python-data", "../evil", ""]) as agent:
        names = [t["name"] for t in (await world.api.get("/v1/templates")).json()]
        assert names == ["base", "minimal", "python-data"]
        sandbox = await world.new_sandbox(template="python-data")
        assert sandbox["host_id"] == agent.host_id


async def test_heartbeats_need_the_hosts_own_token(world: World, host: SimulatedAgent) -> None:
    async with world.host() as other:
        host.credentials.token, other.credentials.token = other.credentials.token, host.credentials.token
        for agent in (host, other):
            with pytest.raises(Exception, match="another host"):
                await agent.beat()
        host.credentials.token = "no token"
        with pytest.raises(Unauthorized):
            await host.beat()


async def test_after_a_new_registration_the_old_token_is_refused(world: World, host: SimulatedAgent) -> None:
    answer = await world.user.post(f"/v1/hosts/{host.host_id}/token")
    await host.beat()
    body = registration(answer.json()["registration_token"], address=host.address)
    assert (await register(world, body)).status_code == 200
    with pytest.raises(Unauthorized) as refused:
        await host.beat()
    assert refused.value.code == "token_replaced"


async def test_a_removed_host_is_refused(world: World, host: SimulatedAgent) -> None:
    sandbox = await world.new_sandbox()
    kept = await world.user.delete(f"/v1/hosts/{host.host_id}")
    assert (kept.status_code, kept.json()["error"]["code"]) == (409, "host_has_sandboxes")
    assert (await world.user.delete(f"/v1/hosts/{host.host_id}?force=true")).status_code == 204
    assert (await world.user.get(f"/v1/hosts/{host.host_id}")).status_code == 404
    failed = (await world.api.get(f"/v1/sandboxes/{sandbox['id']}")).json()
    assert (failed["status"], failed["reason"]) == ("failed", "host_lost")
    with pytest.raises(Unauthorized) as refused:
        await host.beat()
    assert refused.value.code == "host_removed"
    assert sandbox["id"] in host.host.held, "nothing on the host is touched"
    assert (await world.api.delete(f"/v1/sandboxes/{sandbox['id']}")).status_code == 204


async def silence(world: World) -> None:
    await world.cp.db.execute("UPDATE hosts SET last_heartbeat_at = now() - interval '91 s'")
    await reconcile_hosts.converge(world.cp)


async def test_a_silent_host_is_unreachable_and_comes_back_with_its_sandboxes(
    world: World, host: SimulatedAgent
) -> None:
    running, paused = await world.new_sandbox(), await world.new_sandbox()
    await world.api.post(f"/v1/sandboxes/{paused['id']}/pause")
    await silence(world)
    assert (await world.user.get(f"/v1/hosts/{host.host_id}")).json()["status"] == "unreachable"
    assert [await world.state(s["id"]) for s in (running, paused)] == ["lost", "lost"]
    assert (await world.api.post("/v1/sandboxes", {})).status_code == 503
    await host.beat()
    assert (await world.user.get(f"/v1/hosts/{host.host_id}")).json()["status"] == "online"
    assert [await world.state(s["id"]) for s in (running, paused)] == ["running", "paused"]
    back = (await world.api.get(f"/v1/sandboxes/{running['id']}")).json()
    assert "reason" not in back
    assert back["generation"] == 1


async def test_what_ended_while_its_host_was_silent(world: World, host: SimulatedAgent) -> None:
    crashed, expired = await world.new_sandbox(), await world.new_sandbox(timeout_sec=100)
    await silence(world)
    host.host.ends(crashed["id"], Reason.VMM_CRASHED)
    host.host.ends(expired["id"], Reason.TIMEOUT)
    await host.beat()
    assert [await world.state(s["id"]) for s in (crashed, expired)] == ["failed", "killed"]


async def test_the_end_of_the_time_to_live(world: World, host: SimulatedAgent) -> None:
    killed = await world.new_sandbox(timeout_sec=100)
    paused = await world.new_sandbox(timeout_sec=100, on_timeout="pause")
    host.host.ends(killed["id"], Reason.TIMEOUT)
    host.host.pauses(paused["id"])
    await host.beat()
    ends = [(await world.api.get(f"/v1/sandboxes/{s['id']}")).json() for s in (killed, paused)]
    assert [(s["status"], s["reason"]) for s in ends] == [("killed", "timeout"), ("paused", "timeout")]
    resumed = await world.api.post(f"/v1/sandboxes/{paused['id']}/resume")
    assert (resumed.status_code, "reason" in resumed.json()) == (200, False)


async def test_an_old_heartbeat_that_comes_late_changes_nothing(world: World, host: SimulatedAgent) -> None:
    sandbox = await world.new_sandbox()
    late = host.heartbeat()
    await host.beat()
    await world.api.post(f"/v1/sandboxes/{sandbox['id']}/pause")
    path = f"/v1/hosts/{host.host_id}/heartbeat"
    await host.control_plane.post(path, late, timeout=10, token=host.credentials.token)
    assert await world.state(sandbox["id"]) == "paused"


async def test_a_copy_of_a_hosts_credentials_is_refused_while_the_host_is_there(
    world: World, host: SimulatedAgent
) -> None:
    """It would have all sandboxes fail, of which it knows nothing."""
    sandbox = await world.new_sandbox()
    host.installation = "first"
    await host.beat()
    copy = SimulatedAgent(
        SimulatedHost(), host.credentials, "127.0.0.1:1", host.specs, host.templates, host.control_plane
    )
    copy.installation = "second"
    assert await refused(copy.beat()) == "identity_in_use"
    await host.beat()
    assert (await world.user.get(f"/v1/hosts/{host.host_id}")).json()["address"] == host.address
    assert await world.state(sandbox["id"]) == "running"
    await world.cp.db.execute(
        "UPDATE hosts SET last_heartbeat_at = now() - interval '1 hour' WHERE id = $1", host.host_id
    )
    await reconcile_hosts.converge(world.cp)
    await copy.beat()
    assert await refused(host.beat()) == "identity_in_use", "of two, the one that was silent"


async def refused(beat: Coroutine[Any, Any, None]) -> str:
    with pytest.raises(WrennError) as refusal:
        await beat
    return refusal.value.code


async def test_a_report_from_before_a_pause_or_resume_changes_nothing(
    world: World, host: SimulatedAgent
) -> None:
    sandbox = await world.new_sandbox()
    path = f"/v1/sandboxes/{sandbox['id']}"
    on_its_way = host.heartbeat()
    await world.api.post(f"{path}/pause")

    async def send() -> None:
        on_its_way.sequence = host.sequence + 1
        host.sequence += 1
        address = f"/v1/hosts/{host.host_id}/heartbeat"
        await host.control_plane.post(address, on_its_way, timeout=10, token=host.credentials.token)

    await send()
    assert await world.state(sandbox["id"]) == "paused"
    on_its_way = host.heartbeat()
    await world.api.post(f"{path}/resume")
    await send()
    assert await world.state(sandbox["id"]) == "running"


async def test_a_sandbox_that_its_host_does_not_know_any_more(world: World, host: SimulatedAgent) -> None:
    gone, expired = await world.new_sandbox(), await world.new_sandbox(timeout_sec=100)
    host.host.held.clear()
    await world.cp.db.execute(
        "UPDATE sandboxes SET expires_at = now() - interval '1 s' WHERE id = $1", expired["id"]
    )
    await host.beat()

    async def found_out() -> bool:
        return [await world.state(s["id"]) for s in (gone, expired)] == ["failed", "killed"]

    await eventually(found_out)
    assert (await world.api.get(f"/v1/sandboxes/{gone['id']}")).json()["reason"] == "host_lost"


async def test_a_heartbeat_alone_never_ends_a_sandbox(world: World, host: SimulatedAgent) -> None:
    """It may have been written before the sandbox was started."""
    before = host.heartbeat()
    sandbox = await world.new_sandbox()
    path = f"/v1/hosts/{host.host_id}/heartbeat"
    await host.control_plane.post(path, before, timeout=10, token=host.credentials.token)

    async def asked() -> bool:
        return await world.cp.db.fetchval("SELECT count(*) FROM sandboxes WHERE check_after IS NOT NULL") == 0

    await eventually(asked)
    assert await world.state(sandbox["id"]) == "running"


async def test_what_we_ended_and_the_host_still_has_is_removed_there(
    world: World, host: SimulatedAgent
) -> None:
    sandbox = await world.new_sandbox()
    await world.cp.db.execute("UPDATE sandboxes SET state = 'killed' WHERE id = $1", sandbox["id"])
    await host.beat()
    assert host.host.held == {}


async def test_what_we_never_made_is_left_alone(world: World, host: SimulatedAgent) -> None:
    sandbox = await world.new_sandbox()
    await world.cp.db.execute("DELETE FROM sandboxes")
    await host.beat()
    assert sandbox["id"] in host.host.held


@pytest.mark.parametrize(
    "change", [{"sequence": -1}, {"sequence": 2**63}, {"address": "x"}, {"sandboxes": [{}]}]
)
async def test_a_bad_heartbeat(world: World, host: SimulatedAgent, change: dict[str, Any]) -> None:
    specs = {name: getattr(SPECS, name) for name in SPECS.__struct_fields__}
    body = {
        "specs": specs, "address": None, "sequence": 9, "started_at": 9e9, "sandboxes": [], "templates": [], **change,
    }  # fmt: skip
    answer = await world.api.anonymous().post(
        f"/v1/hosts/{host.host_id}/heartbeat",
        body,
        wrong=True,
        headers={"X-Host-Token": host.credentials.token},
    )
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_request")
