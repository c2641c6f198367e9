"""Snapshots and templates through E2B's API: names in paths, tags, look-ups."""

from datetime import datetime
from typing import Any
from uuid import UUID

import httpx2
import pytest

from support.e2b import E2b, client, segment
from support.simulated import World
from wrenn_server.controlplane import bootstrap
from wrenn_server.hostagent.simulated import SimulatedAgent
from wrenn_server.model.ids import new_snapshot_id


async def snapshot(e2b: E2b, sandbox: dict[str, Any], **wanted: Any) -> dict[str, Any]:
    response = await e2b.post(f"/sandboxes/{sandbox['sandboxID']}/snapshots", wanted)
    assert response.status_code == 201, response.text
    return response.json()


async def test_a_snapshot_without_a_name(e2b: E2b, host: SimulatedAgent) -> None:
    source = await e2b.new()
    made = await snapshot(e2b, source)
    assert made["names"] == []
    started = await e2b.new(templateID=made["snapshotID"])
    assert started["templateID"] == made["snapshotID"]
    assert "alias" not in started
    assert host.host.held[started["sandboxID"]].snapshot == made["snapshotID"]


async def test_a_snapshot_with_a_name(e2b: E2b, host: SimulatedAgent) -> None:
    source = await e2b.new()
    made = await snapshot(e2b, source, name="my-snap", memory=False)
    assert made["names"] == ["my-snap:default"]
    assert host.host.snapshots[made["snapshotID"]].report.memory is False
    tagged = await snapshot(e2b, source, name="my-snap:v2")
    for text, expected in (("my-snap", made), ("my-snap:default", made), ("my-snap:v2", tagged)):
        started = await e2b.new(templateID=text)
        assert host.host.held[started["sandboxID"]].snapshot == expected["snapshotID"]
        assert started["alias"] == "my-snap"
    for bad in (":x", "x:", "a b", "x/y/z"):
        assert (
            await e2b.post(f"/sandboxes/{source['sandboxID']}/snapshots", {"name": bad})
        ).status_code == 400


async def test_list(e2b: E2b, host: SimulatedAgent) -> None:
    one, other = await e2b.new(), await e2b.new()
    made = [await snapshot(e2b, source) for source in (one, other, one)]
    named = await snapshot(e2b, other, name="named:x")
    everything = [named, *made[::-1]]
    assert (await e2b.get("/snapshots")).json() == everything
    of_one = await e2b.get("/snapshots", params={"sandboxID": one["sandboxID"]})
    assert of_one.json() == [made[2], made[0]]
    for name in ("named", "named:x"):
        assert (await e2b.get("/snapshots", params={"name": name})).json() == [named]
    assert (await e2b.get("/snapshots", params={"name": "nothing"})).json() == []
    first = await e2b.get("/snapshots?limit=3")
    rest = await e2b.get("/snapshots", params={"limit": 3, "nextToken": first.headers["x-next-token"]})
    assert [*first.json(), *rest.json()] == everything
    assert "x-next-token" not in rest.headers
    for query in ("limit=0", "limit=101", "nextToken=x", "name=%3Ax"):
        assert (await e2b.get(f"/snapshots?{query}")).status_code == 400


async def test_delete(e2b: E2b, host: SimulatedAgent) -> None:
    source = await e2b.new()
    made = await snapshot(e2b, source)
    one = await snapshot(e2b, source, name="mine:one")
    two = await snapshot(e2b, source, name="mine:two")
    three = await snapshot(e2b, source, name="mine:three")
    for text, gone in ((made["snapshotID"], made), ("mine:one", one)):
        path = f"/templates/{segment(text)}"
        assert (await e2b.delete(path)).status_code == 204
        assert gone["snapshotID"] not in host.host.snapshots
        assert (await e2b.delete(path)).status_code == 404
    assert set(host.host.snapshots) == {two["snapshotID"], three["snapshotID"]}
    assert (await e2b.delete("/templates/mine")).status_code == 204
    assert host.host.snapshots == {}
    assert (await e2b.delete("/templates/mine")).status_code == 404
    assert (await e2b.delete(f"/templates/{new_snapshot_id()}")).status_code == 404
    assert (await e2b.delete("/templates/base")).status_code == 403


async def test_what_something_lives_on_cannot_go(e2b: E2b, host: SimulatedAgent) -> None:
    made = await snapshot(e2b, await e2b.new(), name="mine")
    started = await e2b.new(templateID="mine")
    for text in ("mine", "mine:default", made["snapshotID"]):
        refused = await e2b.delete(f"/templates/{segment(text)}")
        assert (refused.status_code, refused.json()["error_code"]) == (400, "snapshot_in_use")
        assert started["sandboxID"] in refused.json()["message"]
    await e2b.delete(f"/sandboxes/{started['sandboxID']}")
    assert (await e2b.delete("/templates/mine")).status_code == 204


async def test_names_with_a_namespace_are_one_segment_of_a_path(
    world: World, e2b: E2b, host: SimulatedAgent
) -> None:
    await snapshot(e2b, await e2b.new(), name="mine:v1")
    full = f"{world.admin.team_id}/mine:v1"
    found = await e2b.get(f"/templates/aliases/{segment(full)}")
    assert found.status_code == 200
    assert (await e2b.get(f"/templates/aliases/{full}")).status_code == 404, "two segments are another path"
    assert (await e2b.delete(f"/templates/{segment(full)}")).status_code == 204


async def test_look_up(world: World, e2b: E2b, host: SimulatedAgent) -> None:
    await snapshot(e2b, await e2b.new(), name="mine")
    mine = (await e2b.get("/templates/aliases/mine")).json()
    assert mine["public"] is False
    base = (await e2b.get("/templates/aliases/base")).json()
    assert base["public"] is True
    assert (await e2b.get("/templates/aliases/nothing")).status_code == 404
    assert (await e2b.get("/templates/aliases/%3Ax")).status_code == 400
    other = await bootstrap.bootstrap(world.cp.db, "other@example.com", "another password")
    async with httpx2.AsyncClient(base_url=world.url, trust_env=False) as http:
        stranger = client(world, http, other.api_key)
        assert (await stranger.get("/templates/aliases/mine")).status_code == 404
        theirs = segment(f"{world.admin.team_id}/mine")
        assert (await stranger.get(f"/templates/aliases/{theirs}")).status_code == 403
        assert (await stranger.get(f"/templates/aliases/{theirs}2")).status_code == 404
        assert (await stranger.get("/templates")).json() == []
        for method, path in (("GET", "/templates/mine/tags"), ("DELETE", "/templates/mine")):
            assert (await stranger.request(method, path)).status_code == 404


async def test_tags(e2b: E2b, host: SimulatedAgent) -> None:
    source = await e2b.new()
    made = await snapshot(e2b, source, name="mine")
    assigned = await e2b.post("/templates/tags", {"target": "mine", "tags": ["v1", "mine:stable"]})
    assert assigned.status_code == 201
    assert assigned.json()["tags"] == ["v1", "stable"]
    build = assigned.json()["buildID"]
    assert str(UUID(build)) == build
    tags = (await e2b.get("/templates/mine/tags")).json()
    assert {tag["tag"] for tag in tags} == {"default", "v1", "stable"}
    assert {tag["buildID"] for tag in tags} == {build}
    assert all(datetime.fromisoformat(tag["createdAt"]).tzinfo for tag in tags)
    started = await e2b.new(templateID="mine:stable")
    assert host.host.held[started["sandboxID"]].snapshot == made["snapshotID"]
    assert (await e2b.get("/templates/mine/tags/count")).json() == {"total": 3}
    exists = (await e2b.get("/templates/mine/tags/exists?tag=V1")).json()
    assert exists == {"exists": True, "normalizedTag": "v1"}
    removed = await e2b.request("DELETE", "/templates/tags", json={"name": "mine", "tags": ["v1", "stable"]})
    assert removed.status_code == 204
    assert [tag["tag"] for tag in (await e2b.get("/templates/mine/tags")).json()] == ["default"]
    template_id = (await e2b.get("/templates/aliases/mine")).json()["templateID"]
    assert (await e2b.get(f"/templates/{template_id}/tags/count")).json() == {"total": 1}


@pytest.mark.parametrize(
    ("body", "status"),
    [({"target": ":x", "tags": ["a"]}, 400), ({"target": "mine", "tags": ["mine:"]}, 400),
     ({"target": "mine:", "tags": ["a"]}, 400), ({"target": "mine", "tags": []}, 400), ({"target": "mine"}, 400),
     ({"target": "nothing", "tags": ["a"]}, 404), ({"target": "mine:nothing", "tags": ["a"]}, 404),
     ({"target": "base", "tags": ["a"]}, 403), ({"target": 1, "tags": ["a"]}, 400)],
)  # fmt: skip
async def test_tags_that_cannot_be(e2b: E2b, host: SimulatedAgent, body: Any, status: int) -> None:
    await snapshot(e2b, await e2b.new(), name="mine")
    assert (await e2b.post("/templates/tags", body)).status_code == status
    assert (await e2b.get("/templates/mine/tags/count")).json() == {"total": 1}


async def test_templates(e2b: E2b, host: SimulatedAgent) -> None:
    assert (await e2b.get("/templates")).json() == []
    public = (await e2b.get("/default-templates")).json()
    assert {"base", "minimal"} <= {template["names"][0] for template in public}
    assert all(template["public"] for template in public)
    source = await e2b.new()
    await snapshot(e2b, source, name="one")
    await snapshot(e2b, source, name="two:x")
    own = (await e2b.get("/templates")).json()
    assert [template["names"] for template in own] == [["one"], ["two"]]
    assert (own[0]["buildStatus"], own[0]["memoryMB"], own[0]["public"]) == ("ready", 512, False)
    first = await e2b.get("/v2/templates?limit=1")
    rest = await e2b.get("/v2/templates", params={"limit": 1, "nextToken": first.headers["x-next-token"]})
    assert [*first.json(), *rest.json()] == own
    assert "x-next-token" not in rest.headers
    detail = (await e2b.get("/templates/two")).json()
    assert len(detail["builds"]) == 1
    assert UUID(detail["builds"][0]["buildID"])
    assert (await e2b.get("/templates/nothing")).status_code == 404


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v3/templates"), ("POST", "/v2/templates"), ("POST", "/templates"), ("POST", "/v2/templates/x/builds/y"),
        ("POST", "/templates/x/builds/y"), ("GET", "/templates/x/builds/y/status?logsOffset=0"),
        ("GET", "/templates/x/builds/y/logs"), ("GET", "/templates/x/files/abc"), ("PATCH", "/templates/x"),
        ("PATCH", "/v2/templates/x"), ("GET", "/volumes"), ("POST", "/volumes"), ("DELETE", "/volumes/x"),
        ("GET", "/secrets"), ("POST", "/secrets"), ("GET", "/secrets/x"),
    ],
)  # fmt: skip
async def test_what_is_not_built_yet_says_so(e2b: E2b, host: SimulatedAgent, method: str, path: str) -> None:
    answer = await e2b.request(method, path)
    assert (answer.status_code, answer.json()["error_code"]) == (501, "not_supported")
