"""Requests that schemathesis makes up from the description, right and wrong ones: none ends as an error of the server, and
each answer is as described. What was found became a test elsewhere.

`WRENN_REQUESTS=20000 pytest tests/controlplane/test_generated_requests.py` for more than the few of every run;
`WRENN_REQUESTS_SEED` to see the same again.
"""

import asyncio
import json
import os
import random
import tempfile
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from support.api import DESCRIPTION
from support.endpoint import Endpoint, endpoint
from support.environments import install_python, kept
from support.people import PASSWORD, Mailbox, mailbox
from support.simulated import World, control_plane
from support.things import PRICES, SIZE, Things, one_of_each
from wrenn_server.controlplane.config import GitHub, Networks
from wrenn_server.hostagent.simulated import SPECS, SimulatedAgent

__all__ = ["mailbox"]

HERE = Path(__file__).parent
REQUESTS = int(os.environ.get("WRENN_REQUESTS", "700"))
SEED = int(os.environ.get("WRENN_REQUESTS_SEED", random.randrange(2**31)))
ROUND = 1500
"""Requests to one set of things: deletes wear it out."""
ACCESS: dict[str, str] = json.loads((HERE / "access.json").read_text())
NEVER_ENDS = ("GET /v1/events/stream",)
GUEST = ("/exec", "/files/list", "/files/read", "/files/write", "/processes", "/processes/{process}")
"""Simulated sandboxes run nothing: `guest_error` is right."""
FOR_OTHERS = (
    "DELETE /v1/me",
    "DELETE /v1/me/sessions",
    "DELETE /v1/me/sessions/{session_id}",
    "POST /v1/auth/logout",
    "POST /v1/auth/switch-team",
    "POST /v1/me/password",
    "POST /v1/teams/{team_id}/leave",
)
"""They end what the rest needs."""
LAST = ("POST /v1/teams/{team_id}/transfer", "DELETE /v1/teams/{team_id}", *FOR_OTHERS)


@pytest.fixture
async def server() -> AsyncIterator[Endpoint]:
    async with endpoint() as made:
        yield made


@pytest.fixture
async def world(database_url: str, server: Endpoint) -> AsyncIterator[World]:
    """Attempts are counted by the address that a trusted proxy tells."""
    async with control_plane(
        database_url,
        webhooks_private=True,
        trusted_proxies=Networks("127.0.0.0/8"),
        github=GitHub("an id", "a secret", server.url, server.url),
        public_url="http://wrenn.example",
    ) as running:
        yield running


@pytest.fixture
async def host(world: World) -> AsyncIterator[SimulatedAgent]:
    """So large that it is never full: that is a 503, and a right one."""
    specs = msgspec.structs.replace(SPECS, cpus=65_536, memory_mb=10**8, disk_mb=10**9)
    async with world.host(specs=specs) as agent, beating(agent):
        yield agent


@pytest.fixture
async def other(world: World) -> AsyncIterator[SimulatedAgent]:
    """A host in whose name nonsense is told; it takes no sandboxes."""
    async with world.host() as agent:
        await world.user.post(f"/v1/hosts/{agent.host_id}/drain")
        yield agent


@asynccontextmanager
async def beating(agent: SimulatedAgent) -> AsyncGenerator[None]:
    async def beat() -> None:
        while True:
            await asyncio.sleep(20)
            await agent.beat()

    task = asyncio.create_task(beat())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


def headers_for(label: str, world: World, other: SimulatedAgent, things: Things) -> list[dict[str, str]]:
    """Of those who may, most; and of some who may not."""
    user, key = things.owner.client.headers, {"X-API-Key": things.key}
    if label in FOR_OTHERS:
        return [one.client.headers for one in things.others]
    match ACCESS[label]:
        case "host":
            right = [{"X-Host-Token": other.credentials.token}]
        case "platform":
            right = [world.user.headers]
        case "person" | "owner":
            right = [user]
        case _:
            right = [user, key]
    return [*(right * 4), {}, key, things.others[0].client.headers]


def plan(world: World, other: SimulatedAgent, things: Things, url: str, number: int) -> dict[str, Any]:
    labels = [f"{method.upper()} {path}" for path, item in DESCRIPTION["paths"].items() for method in item]
    deletes = [label for label in labels if label.startswith("DELETE ") and label not in LAST]
    first = [label for label in labels if label not in (*deletes, *LAST, *NEVER_ENDS)]
    operations = {label: headers_for(label, world, other, things) for label in (*first, *deletes, *LAST)}
    slack = {"provider": "slack", "config": {"webhook_url": url + "/services/T/B"}}
    return {
        "url": world.url,
        "description": str(HERE.parents[1] / "api/openapi.json"),
        "operations": operations,
        "paths": {**things.paths, "host_id": [*things.paths["host_id"], other.host_id]},
        "words": {
            **things.paths,
            "template": ["minimal", *things.paths["snapshot_id"]],
            "snapshot": things.paths["snapshot_id"],
            "email": [one.email for one in things.others],
            "current_password": [PASSWORD],
            "password": [PASSWORD],
            "new_password": [PASSWORD],
            "refresh_token": [one.refresh_token for one in things.others],
        },
        "always": {
            **{name: [url] for name in ("url", "webhook_url", "api_url", "homeserver_url")},
            "address": [other.address],
        },
        "bodies": {
            **{label: [{"token": token} for token in tokens] for label, tokens in things.tokens.items()},
            "POST /v1/me/password/reset/confirm": [
                {"token": token, "new_password": PASSWORD}
                for token in things.tokens["POST /v1/me/password/reset/confirm"]
            ],
            "POST /v1/auth/login": [{"email": things.owner.email, "password": PASSWORD}],
            "POST /v1/channels": [{"name": "Room", **slack}],
            "POST /v1/channels/test": [slack],
            "PUT /v1/channels/{channel_id}/config": [{"config": {"url": url}}],
            "POST /v1/pool/caps": [{"key_id": things.paths["key_id"][0], "vcpus": 9}],
            "PUT /v1/pool": [SIZE],
            "PUT /v1/admin/rate-card": [{"currency": "EUR", "prices": PRICES}],
            "DELETE /v1/me": [{"confirmation": one.email} for one in things.others],
        },
        "guest": [
            label for label in labels if "{sandbox_id}" in label and label.endswith(GUEST)
        ],
        "requests": min(ROUND, REQUESTS - number * ROUND),
        "seed": SEED + number,
    }  # fmt: skip


async def generate(wanted: dict[str, Any]) -> dict[str, Any]:
    environment = await asyncio.to_thread(kept, [HERE / "generated/requirements.txt"], install_python)
    with tempfile.TemporaryDirectory() as scratch:
        process = await asyncio.create_subprocess_exec(
            environment / "bin/python", HERE / "generated/generate.py", cwd=scratch,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        try:
            said, errors = await process.communicate(json.dumps(wanted).encode())
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
    assert process.returncode == 0, errors.decode()[-3000:]
    return json.loads(said)


@pytest.mark.timeout(max(300, REQUESTS / 5))
async def test_generated_requests(
    world: World, host: SimulatedAgent, other: SimulatedAgent, mailbox: Mailbox, server: Endpoint
) -> None:
    sent = 0
    statuses: Counter[str] = Counter()
    answers: dict[str, Counter[str]] = {}
    findings: list[str] = []
    for number in range(-(-REQUESTS // ROUND)):
        await world.cp.db.execute("DELETE FROM attempts")  # as if hours had passed: the people are new
        things = await one_of_each(world, mailbox, server.url, str(number))
        report = await generate(plan(world, other, things, server.url, number))
        sent += report["sent"]
        for label, counts in report["answers"].items():
            statuses.update(counts)
            answers.setdefault(label, Counter()).update(counts)
        findings += [f"round {number}: {finding}" for finding in report["findings"]]
    refused = sorted(label for label, counts in answers.items() if not any(s < "4" for s in counts))
    print(f"seed {SEED}: {sent} requests, {dict(sorted(statuses.items()))}; never let in: {refused}")
    assert not findings, f"seed {SEED}: {len(findings)} findings\n" + "\n\n".join(findings[:20])
    assert sent > REQUESTS / 2
