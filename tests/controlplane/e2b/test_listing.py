"""Lists: filters, order, pages."""

from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote, urlencode

import pytest

from support.e2b import E2b
from support.simulated import World
from wrenn_server.hostagent.simulated import SimulatedAgent


async def ids(e2b: E2b, path: str = "/v2/sandboxes", **query: Any) -> list[str]:
    response = await e2b.get(path, params=query)
    assert response.status_code == 200, response.text
    return [s["sandboxID"] for s in response.json()]


def filter_of(metadata: dict[str, str]) -> str:
    """As the SDKs encode it, before the query's own encoding."""
    return urlencode({quote(key): quote(value) for key, value in metadata.items()})


async def test_the_newest_first_and_the_oldest_first(e2b: E2b, host: SimulatedAgent) -> None:
    made = [(await e2b.new())["sandboxID"] for _ in range(3)]
    assert await ids(e2b) == made[::-1]
    assert await ids(e2b, order="desc") == made[::-1]
    assert await ids(e2b, order="asc") == made


@pytest.mark.parametrize("order", ["asc", "desc"])
async def test_pages(e2b: E2b, host: SimulatedAgent, order: str) -> None:
    made = [(await e2b.new())["sandboxID"] for _ in range(5)]
    seen: list[str] = []
    token: str | None = None
    sizes: list[int] = []
    while token is not None or not sizes:
        query = {"limit": 2, "order": order} | ({"nextToken": token} if token else {})
        page = await e2b.get("/v2/sandboxes", params=query)
        seen += [s["sandboxID"] for s in page.json()]
        sizes.append(len(page.json()))
        token = page.headers.get("x-next-token")
        if token:
            other = {"limit": 2, "order": "asc" if order == "desc" else "desc", "nextToken": token}
            assert (await e2b.get("/v2/sandboxes", params=other)).status_code == 400
    assert sizes == [2, 2, 1]
    assert seen == (made if order == "asc" else made[::-1])


async def test_states(e2b: E2b, host: SimulatedAgent) -> None:
    running, paused, killed = [(await e2b.new())["sandboxID"] for _ in range(3)]
    await e2b.post(f"/sandboxes/{paused}/pause")
    await e2b.delete(f"/sandboxes/{killed}")
    assert await ids(e2b) == [paused, running]
    assert await ids(e2b, state="running,paused") == [paused, running]
    assert await ids(e2b, state=["running", "paused"]) == [paused, running]
    assert await ids(e2b, state="running") == [running]
    assert await ids(e2b, state="paused") == [paused]
    assert await ids(e2b, "/sandboxes") == [running]
    answer = await e2b.get("/v2/sandboxes?limit=1")
    assert answer.headers["x-total-running"] == "1"
    states = {s["sandboxID"]: s["state"] for s in (await e2b.get("/v2/sandboxes")).json()}
    assert states == {running: "running", paused: "paused"}


@pytest.mark.parametrize("path", ["/v2/sandboxes", "/sandboxes"])
async def test_metadata(e2b: E2b, host: SimulatedAgent, path: str) -> None:
    odd = {"a b": "c&d", "e=f": "100%25 +ü", "k": ""}
    one = (await e2b.new(metadata=odd))["sandboxID"]
    two = (await e2b.new(metadata={"user": "ü", "k": "v"}))["sandboxID"]
    assert await ids(e2b, path, metadata=filter_of(odd)) == [one]
    assert await ids(e2b, path, metadata=filter_of({"a b": "c&d"})) == [one]
    assert await ids(e2b, path, metadata=filter_of({"a b": "c"})) == []
    assert await ids(e2b, path, metadata=filter_of({"k": "v", "user": "ü"})) == [two]
    assert await ids(e2b, path, metadata="k=v") == [two], "encoded once only, as a person does"
    assert await ids(e2b, path, metadata="") == [two, one]


async def test_started_after(e2b: E2b, host: SimulatedAgent) -> None:
    old = (await e2b.new())["sandboxID"]
    between = datetime.now(UTC)
    new = (await e2b.new())["sandboxID"]
    assert await ids(e2b, startedAfter=between.isoformat()) == [new]
    there = between.astimezone().isoformat()
    assert await ids(e2b, startedAfter=there) == [new]
    assert await ids(e2b, startedAfter=(between - timedelta(hours=1)).isoformat()) == [new, old]
    assert await ids(e2b, startedAfter=(between + timedelta(hours=1)).isoformat()) == []


async def test_template(world: World, e2b: E2b, host: SimulatedAgent) -> None:
    base = await e2b.new()
    minimal = await e2b.new(templateID="minimal")
    assert await ids(e2b, template="base") == [base["sandboxID"]]
    assert await ids(e2b, template=minimal["templateID"]) == [minimal["sandboxID"]]
    assert await ids(e2b, template="nothing") == []
    snapshot = (await e2b.post(f"/sandboxes/{base['sandboxID']}/snapshots", {"name": "mine"})).json()
    started = await e2b.new(templateID="mine")
    for text in ("mine", snapshot["snapshotID"], started["templateID"]):
        assert await ids(e2b, template=text) == [started["sandboxID"]], text


@pytest.mark.parametrize(
    "query",
    ["state=x", "state=", "state=running,", "order=up", "limit=0", "limit=101", "limit=x", "limit=-1", "nextToken=x",
     "nextToken=AAAA", "nextToken=" + "A" * 5000, "startedAfter=yesterday", "startedAfter=2026-01-01T00:00:00",
     "metadata=x", "metadata=%3Dx", "metadata=a%3Db%26c", "metadata=%2500%3Dx"],
)  # fmt: skip
async def test_bad_queries(e2b: E2b, query: str) -> None:
    assert (await e2b.get(f"/v2/sandboxes?{query}")).status_code == 400
