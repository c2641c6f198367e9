"""Every request that changes something is on record, and nobody changes the record unseen."""

import asyncio
import hashlib
import json
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import asyncpg
import httpx2
import pytest
from controlplane.test_auth import concrete
from controlplane.test_main import wrenn_cp

from support.api import DESCRIPTION
from support.simulated import PASSWORD, World, control_plane, eventually
from wrenn_server.controlplane import bootstrap
from wrenn_server.controlplane.api import audit as api
from wrenn_server.controlplane.e2b.app import litestar as facade
from wrenn_server.controlplane.keys import UserClaims
from wrenn_server.controlplane.services import audit
from wrenn_server.db import audit as db_audit
from wrenn_server.db.audit import PLATFORM
from wrenn_server.hostagent.simulated import SimulatedAgent
from wrenn_server.model.errors import WrennError

CHANGING = [
    (method.upper(), path, operation["operationId"])
    for path, item in DESCRIPTION["paths"].items()
    for method, operation in item.items()
    if method.upper() in api.CHANGING and operation["operationId"] not in api.READING
]


async def rows(world: World, chain: str | None = None) -> list[dict[str, Any]]:
    """Oldest first."""
    found = await world.cp.db.fetch(
        "SELECT * FROM audit_logs WHERE $1::text IS NULL OR chain = $1 ORDER BY at", chain
    )
    return [dict(row) for row in found]


async def by_request(world: World, answer: httpx2.Response) -> dict[str, Any]:
    found = [row for row in await rows(world) if row["request_id"] == answer.headers["x-request-id"]]
    assert len(found) == 1, f"{answer.request.method} {answer.request.url} has {len(found)} rows"
    return found[0]


async def test_no_changing_route_is_forgotten(world: World) -> None:
    assert len(CHANGING) > 20
    for method, path, operation in CHANGING:
        answer = await world.api.anonymous().request(method, concrete(path), wrong=True)
        row = await by_request(world, answer)
        assert (row["operation"], row["method"], row["status"]) == (operation, method, answer.status_code)
        assert (row["chain"], row["actor_type"]) == (PLATFORM, "anonymous")
        assert row["code"] == answer.json()["error"]["code"]
        assert row["peer"] == "127.0.0.1"
        mine = await world.user.request(method, concrete(path), wrong=True)
        row = await by_request(world, mine)
        assert row["status"] == mine.status_code


async def test_no_changing_route_of_the_facade_is_forgotten(world: World) -> None:
    seen = 0
    async with httpx2.AsyncClient(base_url=world.url, trust_env=False) as client:
        for route in facade().routes:
            path = re.sub(r"\{.*?\}", "x", route.path_format)
            for method in sorted(route.methods & api.CHANGING):
                answer = await client.request(method, path)
                row = await by_request(world, answer)
                assert row["operation"].startswith("e2b.")
                assert (row["status"], row["actor_type"]) == (401, "anonymous")
                seen += 1
    assert seen > 20


async def test_who_did_what_to_what(world: World, host: SimulatedAgent) -> None:
    made = await world.api.post("/v1/sandboxes", {})
    row = await by_request(world, made)
    assert row["chain"] == world.admin.team_id
    assert (row["actor_type"], row["actor_name"]) == ("api_key", "bootstrap")
    assert (row["operation"], row["status"], row["code"]) == ("createSandbox", 201, None)
    assert (row["resource_type"], row["resource_id"]) == ("sandbox", made.json()["id"])
    gone = await world.api.delete(f"/v1/sandboxes/{made.json()['id']}")
    assert (await by_request(world, gone))["resource_id"] == made.json()["id"]
    again = await world.api.delete(f"/v1/sandboxes/{made.json()['id']}")
    assert (await by_request(world, again))["code"] == "sandbox_not_found"
    key = await world.user.post("/v1/api-keys", {"name": "ci"})
    row = await by_request(world, key)
    assert (row["actor_type"], row["actor_name"]) == ("user", "admin@example.com")
    assert (row["resource_type"], row["resource_id"]) == ("api_key", key.json()["id"])
    new_host = await world.user.post("/v1/hosts")
    row = await by_request(world, new_host)
    assert (row["chain"], row["resource_id"]) == (PLATFORM, new_host.json()["host"]["id"])
    registered = next(row for row in await rows(world) if row["operation"] == "registerHost")
    assert (registered["resource_type"], registered["resource_id"]) == ("host", host.host_id)


async def test_the_facade_is_on_record_in_the_same_way(world: World, host: SimulatedAgent) -> None:
    async with httpx2.AsyncClient(
        base_url=world.url, trust_env=False, headers={"X-API-Key": world.admin.api_key}
    ) as client:
        made = await client.post("/sandboxes", json={"templateID": "base"})
        assert made.status_code == 201
    row = await by_request(world, made)
    assert (row["operation"], row["resource_type"]) == ("e2b.create_v1", "sandbox")
    assert row["resource_id"] == made.json()["sandboxID"]
    assert row["chain"] == world.admin.team_id


async def test_log_ins(world: World) -> None:
    stranger = world.api.anonymous()
    wrong = await stranger.post("/v1/auth/login", {"email": "admin@example.com", "password": "wrong"})
    row = await by_request(world, wrong)
    assert (row["chain"], row["actor_type"], row["status"]) == (PLATFORM, "anonymous", 401)
    assert (row["resource_type"], row["resource_id"]) == ("user", "admin@example.com")
    right = await stranger.post("/v1/auth/login", {"email": "admin@example.com", "password": PASSWORD})
    row = await by_request(world, right)
    assert (row["chain"], row["actor_type"]) == (world.admin.team_id, "user")
    assert row["actor_id"] == world.admin.user_id
    assert PASSWORD not in str(await rows(world))


async def test_a_log_in_with_another_site_that_is_refused(world: World) -> None:
    answer = await world.api.raw("GET", "/v1/auth/oauth/github/callback", params={"code": "x", "state": "y"})
    row = await by_request(world, answer)
    assert (row["operation"], row["method"], row["chain"]) == ("finishOAuth", "GET", PLATFORM)
    assert (row["resource_type"], row["resource_id"]) == ("provider", "github")
    assert row["code"] == answer.json()["error"]["code"]


async def test_what_changes_nothing_leaves_nothing(world: World, host: SimulatedAgent) -> None:
    before = len(await rows(world))
    await world.api.get("/v1/sandboxes")
    await world.user.get("/v1/hosts")
    await world.api.anonymous().request("DELETE", "/v1/sandboxes", wrong=True)
    async with httpx2.AsyncClient(base_url=world.url, trust_env=False) as client:
        await client.post("/nowhere")
    operations = [row["operation"] for row in (await rows(world))[before:]]
    assert operations == []


async def test_a_team_sees_its_own(world: World) -> None:
    await world.user.post("/v1/api-keys", {"name": "mine"})
    other = await bootstrap.bootstrap(world.cp.db, "other@example.com", "another password")
    stranger = world.api.with_token(world.cp.keys.user_token(UserClaims(other.user_id, other.team_id)))
    assert (await stranger.get("/v1/audit-logs")).json() == []
    assert (await stranger.get("/v1/audit-logs/export")).text == ""
    mine = (await world.user.get("/v1/audit-logs")).json()
    assert {row["chain"] for row in mine} == {world.admin.team_id}
    await world.cp.db.execute("UPDATE users SET is_admin = false WHERE id = $1", other.user_id)
    assert (await stranger.get("/v1/admin/audit-logs")).status_code == 403
    platform = await world.user.get("/v1/admin/audit-logs")
    assert platform.status_code == 200


async def test_pages_and_filters(world: World) -> None:
    for number in range(5):
        await world.user.post("/v1/api-keys", {"name": str(number)})
    await world.user.delete("/v1/api-keys/nothing")
    path = "/v1/audit-logs?operation=createApiKey&limit=2"
    seen: list[int] = []
    answer = await world.user.get(path)
    while True:
        seen += [row["number"] for row in answer.json()]
        if "x-next-cursor" not in answer.headers:
            break
        answer = await world.user.get(f"{path}&cursor={answer.headers['x-next-cursor']}")
    assert len(seen) == 5
    assert seen == sorted(set(seen), reverse=True)

    async def count(filters: str) -> int:
        return len((await world.user.get(f"/v1/audit-logs?{filters}")).json())

    assert await count("refused=true") == 1
    assert await count("resource_id=nothing&resource_type=key") == 1
    assert await count("refused=false&operation=deleteApiKey") == 0
    assert await count(f"actor_id={world.admin.user_id}") == 7  # with the log-in
    assert await count("since=2100-01-01T00:00:00Z") == 0
    assert await count("until=2100-01-01T00:00:00Z") == 7
    assert (await world.user.get("/v1/audit-logs?since=2100-01-01T00:00:00")).status_code == 400


async def test_the_export_proves_itself(world: World) -> None:
    """With nothing but what docs/audit.md says."""
    names = ["one", 'quote " and \\', "new\nline \x01", "Größe 😀 \u2028"]
    for name in names:
        await world.user.post("/v1/api-keys", {"name": name})
        await world.cp.db.execute("UPDATE users SET email = lower($1) || '@b'", name)
    fields = [
        "chain", "number", "id", "at", "actor_type", "actor_id", "actor_name", "peer", "method", "operation",
        "resource_type", "resource_id", "status", "code", "request_id",
    ]  # fmt: skip
    before, count = b"", 0
    for line in (await world.user.get("/v1/audit-logs/export")).text.rstrip("\n").split("\n"):
        row = json.loads(line)
        row["at"] = f"{row['at'].removesuffix('Z').partition('.')[0]}.{row['at'][:-1].partition('.')[2]:0<6}Z"
        texts = [None if row[name] is None else str(row[name]) for name in fields]
        text = json.dumps(texts, ensure_ascii=False, separators=(",", ":"))
        before = hashlib.sha256(before + text.encode()).digest()
        assert before.hex() == row["digest"]
        count += 1
    assert count == 5
    assert (await audit.verify(world.cp.db)).broken == []


async def test_the_log_is_append_only(world: World) -> None:
    await world.user.post("/v1/api-keys", {})
    for statement in (
        "UPDATE audit_logs SET status = 200",
        "DELETE FROM audit_logs",
        "TRUNCATE audit_logs",
    ):
        with pytest.raises(asyncpg.RaiseError, match="append-only"):
            await world.cp.db.execute(statement)


Tamper = Callable[[World, str], Awaitable[object]]


def statement(sql: str) -> Tamper:
    async def run(world: World, chain: str) -> object:
        return await world.cp.db.execute(sql.replace("CHAIN", f"'{chain}'"))

    return run


TAMPERINGS: dict[str, tuple[Tamper, int]] = {
    "a changed row": (
        statement("UPDATE audit_logs SET actor_id = 'x' WHERE chain = CHAIN AND number = 3"),
        3,
    ),
    "a changed time": (
        statement("UPDATE audit_logs SET at = at + interval '1 us' WHERE chain = CHAIN AND number = 2"),
        2,
    ),
    "a removed row": (statement("DELETE FROM audit_logs WHERE chain = CHAIN AND number = 3"), 3),
    "a removed end": (statement("DELETE FROM audit_logs WHERE chain = CHAIN AND number = 5"), 5),
    "an inserted row": (
        statement(
            "INSERT INTO audit_logs SELECT chain, 6, id || 'x', at, actor_type, actor_id, actor_name, peer, method,"
            " operation, resource_type, resource_id, status, code, request_id, digest"
            " FROM audit_logs WHERE chain = CHAIN AND number = 5"
        ),
        6,
    ),
    "all rows removed": (statement("DELETE FROM audit_logs WHERE chain = CHAIN"), 1),
    "a head removed": (statement("DELETE FROM audit_heads WHERE chain = CHAIN"), 6),
    "a head set back": (statement("UPDATE audit_heads SET number = 4 WHERE chain = CHAIN"), 4),
}


@pytest.mark.parametrize("name", TAMPERINGS)
async def test_tampering_is_found(world: World, name: str) -> None:
    chain = world.admin.team_id
    for _ in range(4):
        await world.user.post("/v1/api-keys", {})
    assert [head.number for head in (await audit.verify(world.cp.db)).heads if head.chain == chain] == [5]
    await world.cp.db.execute("ALTER TABLE audit_logs DISABLE TRIGGER audit_logs_refuse")
    tamper, number = TAMPERINGS[name]
    await tamper(world, chain)
    [broken] = (await audit.verify(world.cp.db)).broken
    assert (broken.chain, broken.number) == (chain, number)


async def test_the_command_tells(database_url: str, tmp_path: Path) -> None:
    async with control_plane(database_url) as world:
        await world.user.post("/v1/api-keys", {})
        words = ("admin", "audit", "verify")
        code, out, err = await wrenn_cp(*words, directory=tmp_path, DATABASE_URL=database_url)
        assert (code, err) == (0, "")
        assert f"whole   {world.admin.team_id} 2 " in out
        assert (await world.user.get("/v1/admin/audit-logs/verification")).json()["broken"] == []
        await world.cp.db.execute("ALTER TABLE audit_logs DISABLE TRIGGER audit_logs_refuse")
        await world.cp.db.execute("UPDATE audit_logs SET peer = 'x'")
        code, out, err = await wrenn_cp(*words, directory=tmp_path, DATABASE_URL=database_url)
        assert code == 1
        assert f"BROKEN  {world.admin.team_id} 1 " in out
        assert "Traceback" not in err
        assert (await world.user.get("/v1/admin/audit-logs/verification")).json()["broken"] != []


async def test_many_at_once_make_one_chain(database_url: str) -> None:
    async with control_plane(database_url) as one, control_plane(database_url) as two:
        token = two.user
        await asyncio.gather(*(token.post("/v1/api-keys", {}) for _ in range(20)))
        ours = one.api.with_token(one.cp.keys.user_token(UserClaims(two.admin.user_id, two.admin.team_id)))
        await asyncio.gather(*(client.post("/v1/api-keys", {}) for client in [ours, token] * 10))
        found = await audit.verify(one.cp.db)
        assert found.broken == []
        assert {head.chain: head.number for head in found.heads}[one.admin.team_id] == 42


async def test_a_row_that_must_wait_comes(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "RETRY_SEC", 0.05)
    await world.cp.db.execute("ALTER FUNCTION audit_append RENAME TO hidden")
    append = db_audit.append
    failed = asyncio.Event()

    async def failing(db: Any, entry: db_audit.Entry) -> None:
        try:
            await append(db, entry)
        except asyncpg.UndefinedFunctionError as error:
            failed.set()
            raise WrennError("as if the database were away") from error

    monkeypatch.setattr(db_audit, "append", failing)
    answer = await world.user.post("/v1/api-keys", {})
    assert answer.status_code == 201, "what was done is done"
    await failed.wait()
    await world.cp.db.execute("ALTER FUNCTION hidden RENAME TO audit_append")

    async def came() -> bool:
        return any(row["request_id"] == answer.headers["x-request-id"] for row in await rows(world))

    await eventually(came)
    assert (await audit.verify(world.cp.db)).broken == []
