"""Whether a request may go to a sandbox, and what it waits for: private, sleeping, signed, masked."""

import asyncio
import base64
import contextlib
import hashlib
import time
from collections.abc import AsyncIterator
from urllib.parse import urlencode

import httpx2
import pytest

from support.simulated import Gate, World
from wrenn_server.controlplane import traffic
from wrenn_server.controlplane.services import signed
from wrenn_server.edge.route import SignedFile
from wrenn_server.edge.target import Answer
from wrenn_server.hostagent.sandbox.lifecycle import Command
from wrenn_server.hostagent.simulated import SimulatedAgent
from wrenn_server.model.errors import Unavailable
from wrenn_server.model.sandbox import Reason
from wrenn_server.wire import envd

SandboxBody = dict[str, str]


@pytest.fixture
async def http() -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(trust_env=False, timeout=30) as client:
        yield client


@pytest.fixture
async def port() -> AsyncIterator[int]:
    """A server of this machine, which simulated sandboxes share, that answers with the head it got."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        writer.write(
            b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%b" % (len(head), head)
        )
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]


async def changed(world: World, sandbox_id: str, **columns: object) -> None:
    """As a create with these settings leaves it."""
    for name, value in columns.items():
        await world.cp.db.execute(f"UPDATE sandboxes SET {name} = $2 WHERE id = $1", sandbox_id, value)  # noqa: S608
    world.cp.routes.forget(sandbox_id)


def to(sandbox: SandboxBody, port: int = envd.PORT) -> dict[str, str]:
    return {"Host": f"{port}-{sandbox['id']}.sandboxes.example"}


NOT_FOUND = "The sandbox was not found"


# Private sandboxes


async def test_a_private_sandbox_asks_for_its_token(
    world: World, host: SimulatedAgent, http: httpx2.AsyncClient, port: int
) -> None:
    sandbox = await world.new_sandbox()
    await changed(world, sandbox["id"], traffic_token="secret")
    missing = await http.get(world.url, headers=to(sandbox, port))
    assert missing.status_code == 403
    assert missing.json() == {
        "sandboxId": sandbox["id"],
        "message": "Sandbox is secured with traffic access token. "
        "Token header 'e2b-traffic-access-token' is missing",
        "code": 403,
    }
    wrong = await http.get(world.url, headers=to(sandbox, port) | {"E2b-Traffic-Access-Token": "guess"})
    assert wrong.status_code == 403
    assert "is not that of this sandbox" in wrong.json()["message"]
    right = await http.get(world.url, headers=to(sandbox, port) | {"E2b-Traffic-Access-Token": "secret"})
    assert right.status_code == 200
    assert "secret" not in right.text, "the sandbox has no use for it"


async def test_envd_has_a_token_of_its_own(
    world: World, host_with_envd: SimulatedAgent, http: httpx2.AsyncClient
) -> None:
    sandbox = await world.new_sandbox()
    await changed(world, sandbox["id"], traffic_token="secret")
    assert (await http.get(f"{world.url}/health", headers=to(sandbox))).status_code == 204


async def test_who_may_not_enter_wakes_nobody(
    world: World, host: SimulatedAgent, http: httpx2.AsyncClient, port: int
) -> None:
    sandbox = await world.new_sandbox()
    await changed(world, sandbox["id"], traffic_token="secret", auto_resume=True)
    await world.api.post(f"/v1/sandboxes/{sandbox['id']}/pause")
    assert (await http.get(world.url, headers=to(sandbox, port))).status_code == 403
    assert await world.state(sandbox["id"]) == "paused"


# The Host that a server sees


@pytest.mark.parametrize(
    ("mask", "seen"),
    [
        (None, "{port}-{id}.sandboxes.example"),
        ("localhost", "localhost"),
        ("app.example:${PORT}", "app.example:{port}"),
        ("a\r\nX-Planted: 1", "{port}-{id}.sandboxes.example"),
    ],
)
async def test_the_host_that_a_server_sees(
    world: World, host: SimulatedAgent, http: httpx2.AsyncClient, port: int, mask: str | None, seen: str
) -> None:
    sandbox = await world.new_sandbox()
    await changed(world, sandbox["id"], mask_host=mask)
    head = (await http.get(world.url, headers=to(sandbox, port))).text
    assert f"\r\nhost: {seen.format(port=port, **sandbox)}\r\n" in head.lower()
    assert f"\r\nx-forwarded-host: {port}-{sandbox['id']}.sandboxes.example\r\n" in head.lower()
    assert "x-planted" not in head.lower()


# Pages for people


@pytest.mark.parametrize(
    ("headers", "page"),
    [
        ({"Accept": "text/html,*/*;q=0.8", "Sec-Fetch-Mode": "navigate"}, True),
        ({"Accept": "text/html", "Upgrade-Insecure-Requests": "1"}, True),
        ({"Accept": "text/html", "Sec-Fetch-Mode": "cors"}, False),
        ({"Accept": "text/html"}, False),
        ({"Accept": "*/*", "Sec-Fetch-Mode": "navigate"}, False),
    ],
)
async def test_a_browser_gets_a_page(
    world: World, http: httpx2.AsyncClient, headers: dict[str, str], page: bool
) -> None:
    address = {"E2b-Sandbox-Id": "<b>nobody</b>", "E2b-Sandbox-Port": "80"}
    answer = await http.get(world.url, headers=headers | address)
    assert answer.status_code == 502
    assert answer.headers["content-type"].startswith("text/html" if page else "application/json")
    assert NOT_FOUND in answer.text
    if page:
        assert "<b>" not in answer.text
        assert answer.headers["content-security-policy"].startswith("default-src 'none'")


# Waking


@pytest.fixture
async def sleeper(world: World, host: SimulatedAgent) -> SandboxBody:
    """Paused, and to be woken by requests."""
    sandbox = await world.new_sandbox()
    await changed(world, sandbox["id"], auto_resume=True)
    await world.api.post(f"/v1/sandboxes/{sandbox['id']}/pause")
    return sandbox


async def test_requests_wait_for_one_resume(
    world: World, host: SimulatedAgent, http: httpx2.AsyncClient, sleeper: SandboxBody, port: int
) -> None:
    gate = host.host.before = Gate(Command.RESUME)
    waiting = [asyncio.create_task(http.get(world.url, headers=to(sleeper, port))) for _ in range(20)]
    await gate.reached.wait()
    awake = await world.new_sandbox()
    assert (await http.get(world.url, headers=to(awake, port))).status_code == 200, "others do not wait"
    gate.open.set()
    assert {answer.status_code for answer in await asyncio.gather(*waiting)} == {200}
    assert [command for command, _, _ in host.host.calls].count(Command.RESUME) == 1


async def test_a_client_that_leaves_stops_only_its_own_waiting(
    world: World, host: SimulatedAgent, http: httpx2.AsyncClient, sleeper: SandboxBody, port: int
) -> None:
    gate = host.host.before = Gate(Command.RESUME)
    leaver = await asyncio.open_connection(*world.address.split(":"))
    leaver[1].write(f"GET / HTTP/1.1\r\nHost: {to(sleeper, port)['Host']}\r\n\r\n".encode())
    await gate.reached.wait()
    stayer = asyncio.create_task(http.get(world.url, headers=to(sleeper, port)))
    leaver[1].close()
    await leaver[1].wait_closed()
    gate.open.set()
    assert (await stayer).status_code == 200


async def test_a_resume_that_fails_is_said(
    world: World, host: SimulatedAgent, http: httpx2.AsyncClient, sleeper: SandboxBody, port: int
) -> None:
    async def fail(command: Command, sandbox_id: str) -> None:
        if command is Command.RESUME:
            raise Unavailable("no memory left on this host", code="no_hosts_available")

    host.host.before = fail
    answer = await http.get(world.url, headers=to(sleeper, port))
    assert answer.status_code == 503
    assert answer.json()["error"]["code"]


async def test_without_auto_resume_nothing_is_woken(
    world: World, host: SimulatedAgent, http: httpx2.AsyncClient, sleeper: SandboxBody, port: int
) -> None:
    await changed(world, sleeper["id"], auto_resume=False)
    answer = await http.get(world.url, headers=to(sleeper, port))
    assert (answer.status_code, answer.json()["message"]) == (502, NOT_FOUND)
    assert await world.state(sleeper["id"]) == "paused"


@pytest.mark.parametrize("auto_resume", [True, False])
async def test_a_resume_of_somebody_else_is_waited_for(
    world: World,
    host: SimulatedAgent,
    http: httpx2.AsyncClient,
    sleeper: SandboxBody,
    port: int,
    auto_resume: bool,
) -> None:
    await changed(world, sleeper["id"], auto_resume=auto_resume)
    gate = host.host.before = Gate(Command.RESUME)
    resuming = asyncio.create_task(world.api.post(f"/v1/sandboxes/{sleeper['id']}/resume"))
    await gate.reached.wait()
    waiting = asyncio.create_task(http.get(world.url, headers=to(sleeper, port)))
    done, _ = await asyncio.wait([waiting], timeout=0.3)
    assert not done
    gate.open.set()
    assert (await waiting).status_code == 200
    assert (await resuming).status_code == 200


async def test_waiting_for_somebody_else_is_bounded(
    world: World,
    host: SimulatedAgent,
    http: httpx2.AsyncClient,
    sleeper: SandboxBody,
    port: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(traffic, "SETTLE_TIMEOUT", 0.2)
    gate = host.host.before = Gate(Command.RESUME)
    resuming = asyncio.create_task(world.api.post(f"/v1/sandboxes/{sleeper['id']}/resume"))
    await gate.reached.wait()
    assert (await http.get(world.url, headers=to(sleeper, port))).json()["message"] == NOT_FOUND
    gate.open.set()
    await resuming


async def test_a_pause_is_waited_for_and_undone(
    world: World, host: SimulatedAgent, http: httpx2.AsyncClient, port: int
) -> None:
    sandbox = await world.new_sandbox()
    await changed(world, sandbox["id"], auto_resume=True)
    gate = host.host.before = Gate(Command.PAUSE)
    pausing = asyncio.create_task(world.api.post(f"/v1/sandboxes/{sandbox['id']}/pause"))
    await gate.reached.wait()
    waiting = asyncio.create_task(http.get(world.url, headers=to(sandbox, port)))
    done, _ = await asyncio.wait([waiting], timeout=0.3)
    assert not done
    gate.open.set()
    assert (await waiting).status_code == 200
    await pausing


async def test_a_host_that_paused_it_before_we_heard(
    world: World, host: SimulatedAgent, http: httpx2.AsyncClient, port: int
) -> None:
    sandbox = await world.new_sandbox(timeout_sec=100, on_timeout="pause")
    await changed(world, sandbox["id"], auto_resume=True)
    assert (await http.get(world.url, headers=to(sandbox, port))).status_code == 200
    host.host.pauses(sandbox["id"])
    waiting = asyncio.create_task(http.get(world.url, headers=to(sandbox, port)))
    done, _ = await asyncio.wait([waiting], timeout=0.3)
    assert not done
    await host.beat()
    assert (await waiting).status_code == 200


async def test_a_host_that_knows_nothing_of_it(
    world: World,
    host: SimulatedAgent,
    http: httpx2.AsyncClient,
    port: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(traffic, "NEWS_TIMEOUT", 0.2)
    sandbox = await world.new_sandbox()
    await changed(world, sandbox["id"], auto_resume=True)
    host.host.ends(sandbox["id"], Reason.VMM_CRASHED)
    assert (await http.get(world.url, headers=to(sandbox, port))).json()["message"] == NOT_FOUND


# Ends


async def test_a_sandbox_that_ends_by_itself_is_gone_at_once(
    world: World, host_with_envd: SimulatedAgent, http: httpx2.AsyncClient
) -> None:
    sandbox = await world.new_sandbox()
    assert (await http.get(f"{world.url}/health", headers=to(sandbox))).status_code == 204
    host_with_envd.host.ends(sandbox["id"], Reason.KERNEL_PANIC)
    gone = await http.get(f"{world.url}/health", headers=to(sandbox))
    assert (gone.status_code, gone.json()["message"]) == (502, NOT_FOUND)


async def test_a_lost_host_ends_what_streams_from_it(
    world: World, host: SimulatedAgent, http: httpx2.AsyncClient
) -> None:
    """Its own connections say nothing: they are just silent."""

    async def stream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n")
        with contextlib.suppress(ConnectionError):
            await reader.read()
        writer.close()

    async with await asyncio.start_server(stream, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        sandbox = await world.new_sandbox()
        async with http.stream("GET", world.url, headers=to(sandbox, port)) as response:
            pieces = response.aiter_bytes()
            assert await anext(pieces) == b"ab"
            await world.cp.db.execute("UPDATE hosts SET status = 'unreachable' WHERE id = $1", host.host_id)
            await world.cp.db.execute(
                "UPDATE sandboxes SET state = 'lost', reason = 'host_lost' WHERE id = $1", sandbox["id"]
            )
            with pytest.raises(httpx2.RemoteProtocolError):
                await anext(pieces)
        gone = await http.get(world.url, headers=to(sandbox, port))
        assert (gone.status_code, gone.json()["message"]) == (502, NOT_FOUND)


# Signed links


def link(sandbox: SandboxBody, path: str, operation: str = "read", expires: int | None = None) -> str:
    raw = f"{path}:{operation}:root:{sandbox['envd_access_token']}" + (
        "" if expires is None else f":{expires}"
    )
    signature = "v1_" + base64.b64encode(hashlib.sha256(raw.encode()).digest()).decode().rstrip("=")
    query = {"path": path, "username": "root", "signature": signature}
    return "/files?" + urlencode(query if expires is None else query | {"signature_expiration": str(expires)})


async def test_signed_links_without_a_sandbox(
    world: World, host_with_envd: SimulatedAgent, http: httpx2.AsyncClient, tmp_path: object
) -> None:
    sandboxes = [await world.new_sandbox() for _ in range(3)]
    path = f"{tmp_path}/a file +&é"
    for number, sandbox in enumerate(sandboxes):
        up = link(sandbox, path, "write", int(time.time()) + 60)
        content = {"file": b"%d" % number}
        assert (await http.post(world.url + up, files=content)).status_code == 200
        for _ in range(2):
            down = await http.get(world.url + link(sandbox, path))
            assert (down.status_code, down.content) == (200, b"%d" % number)


async def test_links_that_are_no_good(
    world: World, host_with_envd: SimulatedAgent, http: httpx2.AsyncClient
) -> None:
    sandbox = await world.new_sandbox()
    expired = await http.get(world.url + link(sandbox, "/x", expires=1))
    assert (expired.status_code, expired.json()) == (
        401,
        {"code": 401, "message": "signature is already expired"},
    )
    forged = await http.get(world.url + link({"envd_access_token": "guess"}, "/x"))
    assert forged.status_code == 400
    assert "E2b-Sandbox-Id" in forged.json()["message"]
    assert (await http.get(world.url + link(sandbox, "/" + "x" * 2000))).status_code == 400
    unsigned = await http.get(world.url + "/files?path=/x")
    assert unsigned.status_code == 404, "that is just a path that the API does not have"
    await world.api.post(f"/v1/sandboxes/{sandbox['id']}/pause")
    assert (await http.get(world.url + link(sandbox, "/y"))).status_code == 400


async def test_looking_for_signatures_is_bounded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signed, "WAITING", 3)
    looked: list[bytes] = []
    began = asyncio.Event()
    go = asyncio.Event()

    async def slow(db: object, digest: bytes, before: str, after: str) -> None:
        looked.append(digest)
        began.set()
        await go.wait()

    monkeypatch.setattr("wrenn_server.db.signatures.sandbox_of", slow)
    links = signed.Signed(world.cp.db)

    def made_up(number: int) -> SignedFile:
        return SignedFile(b"%32d" % number, "/x:read::", "", None)

    waiting = [asyncio.create_task(links.sandbox_of(made_up(number))) for number in range(3)]
    await began.wait()
    with pytest.raises(Unavailable):
        await links.sandbox_of(made_up(3))
    assert looked == [made_up(0).digest], "one at a time"
    go.set()
    assert all(isinstance(answer, Answer) for answer in await asyncio.gather(*waiting))
    assert isinstance(await links.sandbox_of(made_up(0)), Answer)
    assert len(looked) == 3, "what was looked for in vain is not looked for again at once"
