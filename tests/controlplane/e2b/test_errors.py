"""Every refusal is JSON with `code` equal to the status, whatever came; every route asks who is there."""

import json
import re

import httpx2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from support.e2b import E2b, check, segment
from support.simulated import World
from wrenn_server.controlplane.e2b.app import litestar
from wrenn_server.controlplane.hosts_client import Uncertain
from wrenn_server.hostagent.sandbox.lifecycle import Command
from wrenn_server.hostagent.simulated import SimulatedAgent
from wrenn_server.model.errors import RateLimited
from wrenn_server.model.ids import new_sandbox_id

ROUTES = sorted(
    (method, route.path_format)
    for route in litestar().routes
    for method in getattr(route, "methods", ())
    if method != "OPTIONS"
)


def concrete(path: str, id: str = "x") -> str:
    return re.sub(r"\{[^}]+\}", id, path)


async def test_every_route_refuses_strangers(world: World) -> None:
    assert len(ROUTES) > 40
    bad: list[dict[str, str]] = [
        {}, {"X-API-KEY": ""}, {"X-API-KEY": "e2b_" + "0" * 40}, {"X-API-KEY": "nonsense"},
        {"Authorization": "Bearer e2b_" + "0" * 40}, {"Authorization": "Bearer a.b.c"}, {"Authorization": "Basic eDp5"},
    ]  # fmt: skip
    async with httpx2.AsyncClient(base_url=world.url, trust_env=False) as http:
        for headers in bad:
            for method, path in ROUTES:
                answer = await http.request(method, concrete(path, new_sandbox_id()), headers=headers)
                assert answer.status_code == 401, (
                    f"{method} {path} answered {answer.status_code} to {headers}"
                )
                check(answer)


@pytest.mark.parametrize(
    "path",
    ["/v2", "/v2/", "/v3/x", "/sandboxes/", "/sandboxes/a/b", "/templates/a/b/c", "/snapshots/x", "/v2/sandboxes/x",
     "/templates/aliases", "/sandboxes/x/y/z", "/v2/%00", "/templates//x"],
)  # fmt: skip
async def test_paths_that_lead_nowhere(e2b: E2b, path: str) -> None:
    answer = await e2b.post(path)
    assert answer.status_code in (400, 404, 405, 501), answer.text


async def test_methods_that_a_path_does_not_have(e2b: E2b) -> None:
    answer = await e2b.request("PATCH", "/v2/sandboxes")
    assert answer.status_code == 405
    assert "GET" in answer.headers["allow"]


async def test_other_paths_are_the_native_apis(world: World) -> None:
    async with httpx2.AsyncClient(base_url=world.url, trust_env=False) as http:
        for path in ("/v1/sandboxes", "/v4/x", "/sandboxe", "/"):
            answer = await http.get(path)
            assert "error" in answer.json(), path


async def test_a_body_that_is_too_long(e2b: E2b, host: SimulatedAgent) -> None:
    body = json.dumps({"templateID": "base", "metadata": {"a": "x" * 2_000_000}})
    answer = await e2b.request("POST", "/v2/sandboxes", content=body)
    assert answer.status_code == 413


@pytest.mark.parametrize(
    "body",
    [b"{", b"{}{}", b"\xff\xfe", b"[]", b"1", b"null", b"[" * 100_000, b'{"templateID": "\\u0000"}', b""],
)
async def test_bodies_that_make_no_sense(e2b: E2b, host: SimulatedAgent, body: bytes) -> None:
    for path in ("/v2/sandboxes", "/sandboxes", "/templates/tags", f"/sandboxes/{new_sandbox_id()}/timeout"):
        answer = await e2b.request("POST", path, content=body, headers={"Content-Type": "application/json"})
        assert answer.status_code == 400, f"{path}: {answer.text}"


async def test_a_mistake_of_ours(world: World, e2b: E2b, host: SimulatedAgent) -> None:
    await world.cp.db.execute("ALTER TABLE sandboxes RENAME TO elsewhere")
    answer = await e2b.get("/v2/sandboxes")
    assert (answer.status_code, answer.json()["error_code"]) == (500, "internal_error")
    assert "elsewhere" not in answer.text
    assert "sandboxes" not in answer.text


async def test_what_may_be_repeated(e2b: E2b, host: SimulatedAgent, monkeypatch: pytest.MonkeyPatch) -> None:
    async def limited(command: Command, _: str) -> None:
        raise RateLimited("too many", retryable=False)

    host.host.before = limited
    answer = await e2b.post("/v2/sandboxes", {"templateID": "base"})
    assert (answer.status_code, answer.headers["should-retry"]) == (429, "false")

    async def lost(*_: object) -> None:
        raise Uncertain("the host did not answer")

    monkeypatch.setattr("wrenn_server.controlplane.hosts_client.HostsClient.start", lost)
    answer = await e2b.post("/v2/sandboxes", {"templateID": "base"})
    assert (answer.status_code, answer.headers["should-retry"]) == (503, "false"), "it may be running by now"
    keyed = await e2b.post("/v2/sandboxes", {"templateID": "base"}, headers={"Idempotency-Key": "a"})
    assert (keyed.status_code, keyed.headers["should-retry"]) == (503, "true")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=8,
)
FIELDS = st.sampled_from(
    ["templateID", "timeout", "autoPause", "autoPauseMemory", "autoResume", "network", "metadata", "envVars", "mcp",
     "allow_internet_access", "count", "name", "memory", "target", "tags", "duration", "allowOut", "denyOut", "rules"]
)  # fmt: skip
BODIES = st.binary(max_size=50) | (JSON | st.dictionaries(FIELDS, JSON, max_size=5)).map(
    lambda value: json.dumps(value).encode()
)
NAMES = st.sampled_from(
    ["limit", "nextToken", "state", "metadata", "order", "startedAfter", "template", "start", "end", "sandboxID", "name",
     "tag", "sandbox_ids"]
)  # fmt: skip


@given(
    route=st.sampled_from(ROUTES),
    id=st.text(min_size=1, max_size=20) | st.just("base") | st.builds(new_sandbox_id),
    query=st.lists(st.tuples(NAMES, st.text(max_size=30)), max_size=3),
    body=BODIES,
    headers=st.dictionaries(
        st.sampled_from(["Idempotency-Key", "Content-Type", "Accept"]),
        st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=30),
    ),
)
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_whatever_comes(
    e2b: E2b,
    host: SimulatedAgent,
    route: tuple[str, str],
    id: str,
    query: list[tuple[str, str]],
    body: bytes,
    headers: dict[str, str],
) -> None:
    """The client checks each answer."""
    method, path = route
    answer = await e2b.request(
        method, concrete(path, segment(id)), params=query, content=body, headers=headers
    )
    assert answer.status_code < 500 or answer.status_code == 501, answer.text
