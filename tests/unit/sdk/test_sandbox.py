"""Sandboxes: their life, what errors become, addresses, the shared connection."""

import socket
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from unit.sdk.fake_platform import KEY, Exchange, Platform

import wrenn
from wrenn import Client, Network, Sandbox


def test_create_says_what_was_asked_for(platform: Platform, client: Client) -> None:
    Sandbox.create(client=client)
    assert platform.requests[-1].json() == {"template": "minimal"}
    sandbox = Sandbox.create(
        "base",
        timeout=0.5,
        envs={"A": "1"},
        metadata={"job": "7"},
        vcpus=2,
        memory_mb=1024,
        disk_mb=2048,
        on_timeout="pause",
        pause_memory=False,
        auto_resume=True,
        network=Network(internet=False, allow_out=("pypi.org",)),
        private=True,
        mask_host="localhost:${PORT}",
        client=client,
    )
    assert platform.requests[-1].json() == {
        "template": "base",
        "timeout_sec": 1,
        "envs": {"A": "1"},
        "metadata": {"job": "7"},
        "vcpus": 2,
        "memory_mb": 1024,
        "disk_mb": 2048,
        "on_timeout": "pause",
        "pause_memory": False,
        "auto_resume": True,
        "network": {"internet": False, "allow_out": ["pypi.org"]},
        "private": True,
        "mask_host": "localhost:${PORT}",
    }
    info = sandbox.info()
    assert (info.pause_memory, info.auto_resume, info.private) == (False, True, True)
    assert info.network == Network(internet=False, allow_out=("pypi.org",))
    assert (info.id, info.status, info.vcpus, info.metadata) == (sandbox.id, "running", 2, {"job": "7"})
    assert info.created_at.utcoffset() is not None


def test_the_with_block_kills(platform: Platform, client: Client) -> None:
    with Sandbox.create(client=client) as sandbox:
        assert sandbox.is_running()
    assert platform.sandboxes[sandbox.id]["status"] == "killed"
    assert not sandbox.is_running()
    assert not sandbox.kill(), "it is gone"


def test_the_error_of_the_block_is_not_hidden(platform: Platform, client: Client) -> None:
    async def broken(to: Exchange) -> None:
        await to.problem(500, "internal_error", "cannot kill")

    sandbox = Sandbox.create(client=client)
    platform.routes[f"DELETE /v1/sandboxes/{sandbox.id}"] = broken
    with pytest.raises(LookupError) as caught, sandbox:
        raise LookupError("mine")
    assert "cannot kill" in caught.value.__notes__[0]
    with pytest.raises(wrenn.InternalError), sandbox:
        pass


def test_pause_resume_timeout(platform: Platform, sandbox: Sandbox) -> None:
    assert sandbox.pause().status == "paused"
    with pytest.raises(wrenn.ConflictError, match="the sandbox is paused") as caught:
        sandbox.pause()
    assert (caught.value.code, caught.value.status) == ("invalid_state", 409)
    assert sandbox.resume(timeout=60).status == "running"
    assert platform.requests[-1].json() == {"timeout_sec": 60}
    assert sandbox.set_timeout(90).timeout_sec == 90
    assert sandbox.set_timeout(None).timeout_sec == 0


def test_a_pause_and_a_resume_without_memory(platform: Platform, sandbox: Sandbox) -> None:
    paused = sandbox.pause(memory=False)
    assert platform.requests[-1].json() == {"memory": False}
    assert paused.saved_memory is False
    assert sandbox.resume(memory=False).saved_memory is None
    assert platform.requests[-1].json() == {"memory": False}
    sandbox.pause()
    assert platform.requests[-1].body == b""


def test_what_it_may_reach_can_be_changed(platform: Platform, sandbox: Sandbox) -> None:
    only = Network(internet=False, allow_out=("192.0.2.0/24", "*.pypi.org"), dns_servers=("192.0.2.1",))
    assert sandbox.set_network(only).network == only
    sent = platform.requests[-1]
    assert (sent.method, sent.path) == ("PUT", f"/v1/sandboxes/{sandbox.id}/network")
    assert sent.json() == {
        "internet": False,
        "allow_out": ["192.0.2.0/24", "*.pypi.org"],
        "dns_servers": ["192.0.2.1"],
    }
    assert sandbox.set_network(Network()).network == Network()
    assert platform.requests[-1].json() == {}


def test_the_token_of_a_private_one_is_known_and_not_shown(platform: Platform, client: Client) -> None:
    made = Sandbox.create(private=True, client=client)
    assert made.traffic_token == "traffic-token-of-this-sandbox"
    assert Sandbox.connect(made.id, client=client).traffic_token == made.traffic_token
    assert "traffic-token" not in repr(made.info())
    assert Sandbox.create(client=client).traffic_token is None


def test_metrics(platform: Platform, sandbox: Sandbox) -> None:
    at = datetime(2026, 11, 23, 23, 47, 31, 500_000, tzinfo=UTC)
    (sample,) = sandbox.metrics()
    assert platform.requests[-1].query == {}
    assert (sample.at, sample.cpu_pct, sample.mem_bytes, sample.disk_total_bytes) == (at, 12.5, 100, 900)
    sandbox.metrics(start=at, end=at + timedelta(seconds=60))
    assert platform.requests[-1].query == {"start": "1795477651", "end": "1795477711"}


def test_forks_are_sandboxes(platform: Platform, sandbox: Sandbox) -> None:
    forks = sandbox.fork(3, metadata={"a": "b"})
    assert len({sandbox.id, *(fork.id for fork in forks)}) == 4
    assert [fork.renewed for fork in forks] == [("random", "boot_id", "token")] * 3
    assert sandbox.renewed == ()
    assert platform.requests[-1].json() == {"count": 3, "metadata": {"a": "b"}}
    forks[0].kill()
    assert forks[1].is_running()
    assert sandbox.is_running()


def test_snapshot_and_rollback(platform: Platform, sandbox: Sandbox) -> None:
    snapshot = sandbox.snapshot("before", memory=False)
    assert platform.requests[-1].json() == {"name": "before", "memory": False}
    assert (snapshot.sandbox_id, snapshot.names, snapshot.memory) == (sandbox.id, ("before:default",), False)
    for reference in (snapshot, snapshot.id, "before"):
        before = sandbox.info().generation
        assert sandbox.rollback(reference).generation == before + 1
    with pytest.raises(wrenn.InvalidRequestError):
        sandbox.rollback("snap_2")


def test_a_fork_that_fails_keeps_the_others(platform: Platform, sandbox: Sandbox) -> None:
    async def half(to: Exchange) -> None:
        no = {"code": "no_hosts_available", "message": "no room"}
        await to.answer(201, [{"sandbox": platform.add()}, {"error": no}])

    platform.routes[f"POST /v1/sandboxes/{sandbox.id}/fork"] = half
    with pytest.raises(wrenn.ForkError, match="1 of 2 forks failed: no room") as caught:
        sandbox.fork(2)
    assert caught.value.sandboxes[0].is_running()
    assert caught.value.errors[0].code == "no_hosts_available"


def test_list_goes_through_the_pages(platform: Platform, client: Client) -> None:
    for _ in range(205):
        platform.add()
    assert len(Sandbox.list(client=client)) == 205
    assert [request.query for request in platform.requests] == [
        {"limit": "100"},
        {"limit": "100", "cursor": "100"},
        {"limit": "100", "cursor": "200"},
    ]
    assert len(Sandbox.list(client=client, limit=3)) == 3
    Sandbox.list(client=client, limit=1, status=["running", "paused"], metadata={"a": "1 2", "b": "ä&"})
    assert platform.requests[-1].query == {"limit": "1", "status": "running,paused", "metadata": "a=1 2&b=ä&"}


def test_connect_finds_or_says_so(platform: Platform, client: Client) -> None:
    row = platform.add()
    assert Sandbox.connect(row["id"], client=client).id == row["id"]
    with pytest.raises(wrenn.SandboxNotFoundError) as caught:
        Sandbox.connect("sb" + "z" * 20, client=client)
    assert caught.value.request_id == "req_fake"
    before = len(platform.requests)
    for trick in ("../hosts", "sb/../..", "", "sb\n", "sb?x=1"):
        with pytest.raises(wrenn.SandboxNotFoundError):
            Sandbox.connect(trick, client=client)
    assert len(platform.requests) == before, "such an id is no path"


@pytest.mark.parametrize(
    ("status", "body", "expected", "code"),
    [
        (
            400,
            {"error": {"code": "invalid_request", "message": "m"}},
            wrenn.InvalidRequestError,
            "invalid_request",
        ),
        (403, {"error": {"code": "forbidden", "message": "m"}}, wrenn.ForbiddenError, "forbidden"),
        (404, {"error": {"code": "template_not_found", "message": "m"}}, wrenn.TemplateNotFoundError, None),
        (413, {"error": {"code": "too_large", "message": "m"}}, wrenn.TooLargeError, "too_large"),
        (429, {"error": {"code": "rate_limited", "message": "m"}}, wrenn.RateLimitedError, "rate_limited"),
        (503, {"error": {"code": "no_hosts_available", "message": "m"}}, wrenn.UnavailableError, None),
        (504, {"error": {"code": "timed_out", "message": "m"}}, wrenn.ServerTimeoutError, "timed_out"),
        (418, {"error": {"code": "teapot", "message": "m"}}, wrenn.ApiError, "teapot"),
        (500, b"<html>", wrenn.InternalError, "internal_error"),
        (502, b"\xff", wrenn.GuestError, "guest_error"),
        (301, b"", wrenn.ApiError, "api"),
        (507, {"code": 507, "message": "m"}, wrenn.DiskFullError, "disk_full"),
        (400, {"code": "out_of_range", "message": "m"}, wrenn.InvalidRequestError, "out_of_range"),
    ],
)
def test_errors_by_their_words(
    platform: Platform, client: Client, status: int, body: Any, expected: type, code: str | None
) -> None:
    async def fails(to: Exchange) -> None:
        await to.answer(status, body)

    platform.routes["POST /v1/sandboxes"] = fails
    with pytest.raises(wrenn.ApiError) as caught:
        Sandbox.create(client=client)
    assert type(caught.value) is expected
    assert caught.value.status == status
    assert caught.value.request_id == "req_fake"
    assert code is None or caught.value.code == code


def test_an_error_carries_what_helps(platform: Platform, client: Client) -> None:
    async def fails(to: Exchange) -> None:
        await to.problem(503, "no_hosts_available", "no host has room", hint="add one", retryable=False)

    platform.routes["POST /v1/sandboxes"] = fails
    with pytest.raises(wrenn.UnavailableError) as caught:
        Sandbox.create(client=client)
    assert str(caught.value) == "no host has room\n  hint: add one\n  request: req_fake"
    assert not caught.value.retryable


def test_a_wrong_key(platform: Platform) -> None:
    with pytest.raises(wrenn.UnauthorizedError):
        Sandbox.create(base_url=platform.base_url, api_key="wrn_wrong")


def test_an_answer_of_the_wrong_shape(platform: Platform, client: Client) -> None:
    async def odd(to: Exchange) -> None:
        await to.answer(201, {"id": 7})

    platform.routes["POST /v1/sandboxes"] = odd
    with pytest.raises(wrenn.ProtocolError):
        Sandbox.create(client=client)


def test_nobody_there_says_what_to_do() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
        with pytest.raises(wrenn.ServerUnreachableError) as caught:
            Sandbox.create(base_url=url, api_key=KEY)
    assert url in str(caught.value)
    assert "wrenn up" in str(caught.value)
    assert "WRENN_BASE_URL" in str(caught.value)
    assert caught.value.retryable


def test_only_what_may_be_repeated_is(platform: Platform, client: Client) -> None:
    async def drops(to: Exchange) -> None:
        if len(platform.requests) > 1:
            await to.answer(200, [])
            return
        to.abort()

    platform.routes["GET /v1/sandboxes"] = platform.routes["POST /v1/sandboxes"] = drops
    assert Sandbox.list(client=client) == []
    assert len(platform.requests) == 2
    platform.requests.clear()
    with pytest.raises(wrenn.ConnectionLostError):
        Sandbox.create(client=client)
    assert len(platform.requests) == 1


def test_a_slow_answer_ends_in_time(platform: Platform) -> None:
    async def slow(to: Exchange) -> None:
        await platform.release.wait()

    platform.routes["POST /v1/sandboxes"] = slow
    with Client(base_url=platform.base_url, api_key=KEY, timeouts=wrenn.Timeouts(lifecycle=0.1)) as client:
        with pytest.raises(wrenn.RequestTimeoutError, match="POST /v1/sandboxes"):
            Sandbox.create(client=client)


def test_addresses(platform: Platform) -> None:
    with Sandbox.create(base_url=platform.base_url, api_key=KEY) as sandbox:
        port = platform.base_url.rsplit(":", 1)[1]
        assert sandbox.get_host(3000) == f"3000-{sandbox.id}.localhost:{port}"
        assert sandbox.url(3000) == f"http://3000-{sandbox.id}.localhost:{port}"
        with pytest.raises(ValueError, match="70000 is not a port"):
            sandbox.url(70000)
    with Sandbox.create(base_url=platform.base_url, api_key=KEY, proxy_domain="box.example") as sandbox:
        assert sandbox.url(80) == f"http://80-{sandbox.id}.box.example"


def test_sandboxes_without_a_client_share_one(platform: Platform) -> None:
    one = Sandbox.create(base_url=platform.base_url, api_key=KEY)
    other = Sandbox.create(base_url=platform.base_url, api_key=KEY)
    [fork] = one.fork()
    assert one.client is other.client is fork.client
    one.kill()
    other.close()
    assert fork.is_running(), "the last one keeps the connection"
    assert platform.accepted == 1
    fork.kill()
    assert other.is_running(), "opens a new one"
    assert platform.accepted == 2
    other.client.close()
    third = Sandbox.create(base_url=platform.base_url, api_key=KEY)
    third.kill()


def test_no_secret_is_shown(platform: Platform) -> None:
    with Client(base_url=platform.base_url, api_key=KEY) as client, Sandbox.create(client=client) as sandbox:
        shown = repr([client, client.config, sandbox, sandbox.info(), sandbox.commands, sandbox.files])
        assert KEY not in shown
        assert "agent-token" not in shown


def test_tcp_nodelay_is_set(platform: Platform, sandbox: Sandbox) -> None:
    with sandbox.client.transport.stream("GET", "/v1/sandboxes?limit=1", timeout=1) as response:
        connection: socket.socket = response.extensions["network_stream"].get_extra_info("socket")
        assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
