"""One of each kind of thing that a path of the API can name, all of one team."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from support.people import PASSWORD, Mailbox, Person, join, sign_up
from support.simulated import World
from wrenn_server.controlplane.reconcile import invoices

PRICES = {"vcpu_hour": 36_000, "gib_hour": 3_600, "gib_month": 1_000_000}
SIZE = {"vcpus": 400, "memory_mb": 400_000, "disk_mb": 4_000_000}


@dataclass(frozen=True, slots=True)
class Things:
    owner: Person
    key: str
    """API key with all scopes."""
    paths: dict[str, list[str]]
    """By the parameter's name."""
    tokens: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    """What only a mail has, by operation."""
    others: list[Person] = field(default_factory=list[Person])
    """People of the team that nothing else depends on."""


async def one_of_each(world: World, mailbox: Mailbox, url: str, tag: str) -> Things:
    """
    :param url: of a server that takes what webhooks and channels send
    :param tag: part of the e-mail addresses
    """
    owner = await sign_up(world, mailbox, f"owner-{tag}@example.com")
    user = owner.client
    await made(world.user.put(f"/v1/admin/teams/{owner.team_id}/pool", SIZE))
    key = await made(user.post("/v1/api-keys", {"scopes": ["read", "write", "admin"]}))
    running = [(await made(user.post("/v1/sandboxes", {"timeout_sec": 3600})))["id"] for _ in range(3)]
    paused = (await made(user.post("/v1/sandboxes", {})))["id"]
    snapshot = await made(user.post(f"/v1/sandboxes/{running[0]}/snapshots", {"name": f"thing-{tag}"}))
    await made(user.post(f"/v1/sandboxes/{paused}/pause", {}))
    host = await made(user.post("/v1/hosts", {"type": "byoc"}))
    hook = await made(user.post("/v1/webhooks", {"url": url}))
    delivery = await made(user.post(f"/v1/channels/{hook['id']}/test"))
    cap = await made(user.post("/v1/pool/caps", {"label": {"name": "for", "value": tag}, "vcpus": 50}))
    await made(world.user.put(f"/v1/admin/plans/plan-{tag}", SIZE))
    others: list[Person] = []
    for number in range(4):
        other = await sign_up(world, mailbox, f"other-{number}-{tag}@example.com")
        await join(world, mailbox, owner, other, "admin" if number % 2 else "member")
        others.append(other)
    invited = f"invited-{tag}@example.com"
    invitation = await made(user.post(f"/v1/teams/{owner.team_id}/members", {"email": invited}))
    new = {"email": f"new-{tag}@example.com", "password": PASSWORD, "name": "New"}
    await made(world.api.anonymous().post("/v1/auth/signup", new))
    await made(world.api.anonymous().post("/v1/me/password/reset", {"email": others[0].email}))
    tokens = {
        "POST /v1/invitations/accept": [mailbox.take(invited).token],
        "POST /v1/auth/activate": [mailbox.take(new["email"]).token],
        "POST /v1/me/password/reset/confirm": [mailbox.take(others[0].email).token],
    }
    sandbox_key = await made(user.post(f"/v1/sandboxes/{running[0]}/api-keys", {}))
    paths = {
        "sandbox_id": [*running, paused],
        "snapshot_id": [snapshot["id"], f"thing-{tag}"],
        "team_id": [owner.team_id],
        "user_id": [other.user_id for other in others],
        "key_id": [key["id"], sandbox_key["id"], (await made(user.post("/v1/api-keys", {})))["id"]],
        "session_id": [one["id"] for one in await made(user.get("/v1/me/sessions"))],
        "invitation_id": [invitation["id"]],
        "webhook_id": [hook["id"]],
        "channel_id": [hook["id"]],
        "delivery_id": [delivery["id"]],
        "host_id": [host["host"]["id"]],
        "cap_id": [cap["id"]],
        "invoice_id": [await an_invoice(world, owner)],
        "name": [f"plan-{tag}"],
        "provider": ["github"],
        "process": ["1"],
    }
    return Things(owner, key["key"], paths, tokens, others)


async def an_invoice(world: World, owner: Person) -> str:
    """Of the month before, in which there was a pool already."""
    before = datetime.now(UTC).replace(day=1) - timedelta(days=2)
    await world.cp.db.execute(
        "UPDATE pools SET charged_until = $1, opened_at = $1 WHERE team_id = $2", before, owner.team_id
    )
    await invoices.converge(world.cp)
    return (await made(owner.client.get("/v1/invoices")))[0]["id"]


async def made(request: Any) -> Any:
    answer = await request
    assert answer.status_code < 300, answer.text
    return answer.json() if answer.content else None
