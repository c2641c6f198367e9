"""Hosts of a team's own, tags and zones: who sees to them, and who is placed where."""

import httpx2
import pytest
from controlplane.test_hosts import register, registration

from support.people import Mailbox, code, mailbox, sign_up
from support.simulated import PASSWORD, World, eventually
from wrenn_server.controlplane.services import teams
from wrenn_server.hostagent.simulated import SimulatedAgent
from wrenn_server.model.sandbox import Reason
from wrenn_server.up.administrator import ask_all

__all__ = ["mailbox"]


async def give(world: World, host: SimulatedAgent, team_id: str) -> None:
    """Simulated hosts are of the loopback interface, where those of a team cannot register."""
    await world.cp.db.execute(
        "UPDATE hosts SET type = 'byoc', team_id = $2 WHERE id = $1", host.host_id, team_id
    )


def let_pass(*_: object) -> None:
    pass


async def test_a_teams_sandboxes_are_on_its_own_hosts_alone(
    world: World, host: SimulatedAgent, mailbox: Mailbox
) -> None:
    ada = await sign_up(world, mailbox, "ada@example.com")
    async with world.host() as own:
        await give(world, own, ada.team_id)
        hers = [(await ada.client.post("/v1/sandboxes", {})).json()["host_id"] for _ in range(3)]
        ours = [(await world.new_sandbox())["host_id"] for _ in range(3)]
        assert (set(hers), set(ours)) == ({own.host_id}, {host.host_id})
        await world.cp.db.execute("UPDATE hosts SET status = 'unreachable' WHERE id = $1", own.host_id)
        refused = await ada.client.post("/v1/sandboxes", {})
        assert code(refused) == (503, "no_hosts_available")
        assert "no host of the team's own" in refused.json()["error"]["message"]

        async def is_told() -> bool:
            told = (await ada.client.get("/v1/events", params={"type": "host.down"})).json()
            return [event["resource"]["id"] for event in told] == [own.host_id]

        await eventually(is_told)


async def test_tags_and_zone_of_a_sandbox_are_those_of_its_host(world: World, host: SimulatedAgent) -> None:
    async with world.host() as other:
        traits = {"tags": ["ssd", "gpu", "gpu"], "availability_zone": "eu-1a"}
        changed = (await world.user.patch(f"/v1/hosts/{other.host_id}", traits)).json()
        assert (changed["tags"], changed["availability_zone"]) == (["gpu", "ssd"], "eu-1a")
        for wanted in ({"host_tags": ["gpu"]}, {"availability_zone": "eu-1a"}):
            assert (await world.new_sandbox(**wanted))["host_id"] == other.host_id
        sandbox = await world.new_sandbox(host_tags=["gpu", "ssd"], availability_zone="eu-1a")
        assert (sandbox["host_tags"], sandbox["availability_zone"]) == (["gpu", "ssd"], "eu-1a")
        fork = (await world.api.post(f"/v1/sandboxes/{sandbox['id']}/fork", {})).json()[0]["sandbox"]
        assert fork["host_tags"] == ["gpu", "ssd"], "it could not move to a host without them either"
        kept = (await world.user.patch(f"/v1/hosts/{other.host_id}", {"tags": []})).json()
        assert (kept["tags"], kept["availability_zone"]) == ([], "eu-1a")
        refused = await world.api.post("/v1/sandboxes", {"host_tags": ["gpu"]})
        assert code(refused) == (503, "no_hosts_available")
        assert "with the tags gpu" in refused.json()["error"]["message"]


async def test_a_snapshot_on_a_host_that_will_not_do(world: World, host: SimulatedAgent) -> None:
    sandbox = await world.new_sandbox()
    snapshot = (await world.api.post(f"/v1/sandboxes/{sandbox['id']}/snapshots", {})).json()["id"]
    refused = await world.api.post("/v1/sandboxes", {"template": snapshot, "host_tags": ["gpu"]})
    assert code(refused) == (503, "no_hosts_available")
    assert "is not one that this sandbox may be on" in refused.json()["error"]["message"]


async def test_a_team_sees_to_its_own_hosts(world: World, mailbox: Mailbox) -> None:
    ada, bob = [await sign_up(world, mailbox, f"{name}@example.com") for name in ("ada", "bob")]
    made = await ada.client.post(
        "/v1/hosts", {"type": "byoc", "tags": ["gpu"], "availability_zone": "cellar"}
    )
    assert made.status_code == 201
    host = made.json()["host"]
    assert (host["type"], host["team_id"], host["tags"], host["availability_zone"]) == (
        "byoc",
        ada.team_id,
        ["gpu"],
        "cellar",
    )
    path = f"/v1/hosts/{host['id']}"
    assert [h["id"] for h in (await ada.client.get("/v1/hosts")).json()] == [host["id"]]
    assert [h["id"] for h in (await world.user.get("/v1/hosts")).json()] == [host["id"]]
    assert (await bob.client.get("/v1/hosts")).json() == []
    for method, where in (("GET", ""), ("DELETE", ""), ("POST", "/token"), ("POST", "/drain")):
        answer = await bob.client.request(method, path + where)
        assert code(answer) == (404, "host_not_found")
    other = await ada.client.post("/v1/hosts", {"type": "byoc", "team_id": bob.team_id})
    assert code(other) == (404, "team_not_found")
    for_bob = await world.user.post("/v1/hosts", {"type": "byoc", "team_id": bob.team_id})
    assert for_bob.json()["host"]["team_id"] == bob.team_id
    odd = await world.user.post("/v1/hosts", {"type": "regular", "team_id": bob.team_id})
    assert code(odd) == (400, "invalid_request")
    assert (await ada.client.delete(path)).status_code == 204
    logged = (await ada.client.get("/v1/audit-logs", params={"resource_id": host["id"]})).json()
    assert [(row["operation"], row["status"]) for row in logged] == [("deleteHost", 204), ("createHost", 201)]


@pytest.mark.parametrize("address", [None, "127.0.0.1:8000", "localhost:5432", "[::1]:22"])
async def test_a_teams_agent_cannot_make_us_talk_to_our_own_machine(
    world: World, mailbox: Mailbox, address: str | None
) -> None:
    ada = await sign_up(world, mailbox, "ada@example.com")
    token = (await ada.client.post("/v1/hosts", {"type": "byoc"})).json()["registration_token"]
    refused = await register(world, registration(token, address=address))
    assert code(refused) == (400, "invalid_request")
    assert (await register(world, registration(token))).status_code == 200, "the token was not used up"


async def test_a_teams_agent_is_believed_about_its_team_alone(
    world: World, host: SimulatedAgent, mailbox: Mailbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wrenn_server.controlplane.services.hosts.check_address", let_pass)
    ada = await sign_up(world, mailbox, "ada@example.com")
    victim = await world.new_sandbox()
    async with world.host() as own:
        await give(world, own, ada.team_id)
        # As after the removal of its host: whoever reports it has it.
        await world.cp.db.execute("UPDATE sandboxes SET host_id = NULL WHERE id = $1", victim["id"])
        own.host.held.update(host.host.held)
        own.host.ends(victim["id"], Reason.VMM_CRASHED)
        own.templates.append("minimal-evil")
        before = (await world.api.get(f"/v1/sandboxes/{victim['id']}")).json()
        await own.beat()
        assert (await world.api.get(f"/v1/sandboxes/{victim['id']}")).json() == before
        names = [template["name"] for template in (await world.api.get("/v1/templates")).json()]
        assert "minimal-evil" not in names, "everybody would see it"


async def test_the_hosts_of_a_deleted_team_go_with_it(world: World, mailbox: Mailbox) -> None:
    ada = await sign_up(world, mailbox, "ada@example.com")
    second = (await ada.client.post("/v1/teams", {"name": "second"})).json()["id"]
    made = await world.user.post("/v1/hosts", {"type": "byoc", "team_id": second})
    path = f"/v1/hosts/{made.json()['host']['id']}"
    assert (await ada.client.delete(f"/v1/teams/{second}")).status_code == 204
    await teams.converge(world.cp)
    assert code(await world.user.get(path)) == (404, "host_not_found")


async def test_a_host_is_not_deleted_without_saying_what_is_lost(world: World, host: SimulatedAgent) -> None:
    path = f"/v1/hosts/{host.host_id}"
    running, stored = await world.new_sandbox(), await world.new_sandbox()
    snapshot = (await world.api.post(f"/v1/sandboxes/{running['id']}/snapshots", {})).json()["id"]
    await world.api.post(f"/v1/sandboxes/{stored['id']}/pause")
    await world.cp.db.execute(
        "UPDATE sandboxes SET stored_generation = saved_generation, stored_in = 'x' WHERE id = $1",
        stored["id"],
    )
    held = (await world.user.get(path + "/delete-preview")).json()
    assert held["host"]["id"] == host.host_id
    assert held["sandbox_ids"] == [running["id"]]
    assert (held["kept_sandbox_ids"], held["snapshot_ids"]) == ([stored["id"]], [snapshot])
    assert code(await world.user.delete(path)) == (409, "host_has_sandboxes")
    for sandbox in (running, stored):
        await world.api.delete(f"/v1/sandboxes/{sandbox['id']}")
    assert code(await world.user.delete(path)) == (409, "host_has_snapshots"), "they are nowhere else"
    assert (await world.user.delete(path + "?force=true")).status_code == 204


async def test_hosts_are_listed_by_what_they_are(world: World, mailbox: Mailbox) -> None:
    ada = await sign_up(world, mailbox, "ada@example.com")
    shared = (await world.user.post("/v1/hosts", {"tags": ["gpu", "ssd"]})).json()["host"]["id"]
    own = await ada.client.post("/v1/hosts", {"type": "byoc", "tags": ["ssd"], "availability_zone": "z"})
    hers = own.json()["host"]["id"]

    async def listed(query: str) -> list[str]:
        return [host["id"] for host in (await world.user.get(f"/v1/hosts?{query}")).json()]

    assert await listed("tag=ssd") == await listed("status=pending") == [shared, hers]
    assert await listed("tag=ssd&tag=gpu") == await listed("type=regular") == [shared]
    assert await listed("availability_zone=z") == await listed(f"team_id={ada.team_id}") == [hers]
    assert await listed("status=online") == []
    assert (await ada.client.get(f"/v1/hosts?team_id={world.admin.team_id}")).json() == []


async def test_more_hosts_than_a_page_has(world: World) -> None:
    await world.cp.db.execute(
        "INSERT INTO hosts (id, created_at) SELECT 'host_' || n, now() + n * interval '1 s' FROM generate_series(1, 1001) n"
    )
    first = await world.user.get("/v1/hosts", params={"limit": 2})
    again = {"limit": 2, "cursor": first.headers["x-next-cursor"]}
    second = await world.user.get("/v1/hosts", params=again)
    assert [host["id"] for host in first.json() + second.json()] == [f"host_{n}" for n in range(1, 5)]
    token = await world.user.raw(
        "POST", "/v1/auth/login", json={"email": world.admin.admin_email, "password": PASSWORD}
    )
    bearer = {"Authorization": f"Bearer {token.json()['token']}"}
    async with httpx2.AsyncClient(base_url=world.url, headers=bearer, trust_env=False) as client:
        assert [host["id"] for host in await ask_all(client, "/v1/hosts")] == [
            f"host_{n}" for n in range(1, 1002)
        ]
    odd = await world.user.get("/v1/hosts", params={"cursor": "odd"}, wrong=True)
    assert code(odd) == (400, "invalid_request")
