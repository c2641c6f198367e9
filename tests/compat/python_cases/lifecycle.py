"""Create, connect, list, look at, time out, kill."""

import os
import time
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

from .kit import Sdk, case, e2b, raises, until

MISSING = "i" + "0" * 19


@case(
    "Sandbox.create",
    "without arguments: the default template runs",
    also=("Sandbox.sandbox_id", "Sandbox.sandbox_domain", "Sandbox.commands"),
    domain=True,
)
async def default(sdk: Sdk) -> None:
    sandbox = await sdk(sdk.Sandbox.create)
    try:
        assert sandbox.sandbox_id.isalnum()
        assert sandbox.sandbox_id == sandbox.sandbox_id.lower()
        assert sandbox.sandbox_domain
        assert (await sdk(sandbox.commands.run, "echo hello")).stdout == "hello\n"
        info = await sdk(sandbox.get_info)
        assert (info.sandbox_id, info.name) == (sandbox.sandbox_id, "base")
        left = (info.end_at - datetime.now(UTC)).total_seconds()
        assert 270 < left < 305, left
    finally:
        await sdk(sandbox.kill)


@case("Sandbox.create", "template, timeout, metadata, envs", also=("Sandbox.get_info",))
async def options(sdk: Sdk) -> None:
    metadata = {"run": uuid.uuid4().hex, "name with space": "ä=&%"}
    async with sdk.sandbox(
        template="base", timeout=77, metadata=metadata, envs={"COLOUR": "blue green"}
    ) as sandbox:
        info = await sdk(sandbox.get_info)
        assert info.metadata == metadata
        assert 60 < (info.end_at - datetime.now(UTC)).total_seconds() < 80
        assert info.started_at <= datetime.now(UTC) + timedelta(seconds=5)
        assert info.cpu_count >= 1
        assert info.memory_mb >= 128
        assert str(info.state.value) == "running"
        assert info.envd_version
        assert info.template_id
        result = await sdk(sandbox.commands.run, 'echo "$COLOUR" $E2B_SANDBOX $E2B_SANDBOX_ID')
        assert result.stdout == f"blue green true {sandbox.sandbox_id}\n"


@case("Sandbox.create", "secure=False is accepted; access stays secured")
async def insecure(sdk: Sdk) -> None:
    async with sdk.sandbox(secure=False) as sandbox:
        assert (await sdk(sandbox.commands.run, "echo 1")).stdout == "1\n"


@case("Sandbox.create", "an unknown template is refused")
async def unknown_template(sdk: Sdk) -> None:
    with raises(e2b.SandboxException, saying="404") as raised:
        await sdk(sdk.Sandbox.create, "no-such-template-at-all")
    assert "no-such-template-at-all" in str(raised.error)


@case("Sandbox.create", "a timeout of zero or beyond the limit is refused")
async def bad_timeout(sdk: Sdk) -> None:
    nothing = () if sdk.version < (2, 63) else (0,)  # the older one takes 0 for its default
    for timeout in (*nothing, -5, 10**9):
        with raises(e2b.SandboxException, saying="400"):
            await sdk(sdk.Sandbox.create, timeout=timeout)


@case("Sandbox.create", "a wrong API key raises AuthenticationException", domain=True)
async def wrong_key(sdk: Sdk) -> None:
    with raises(e2b.AuthenticationException):
        await sdk(sdk.Sandbox.create, api_key="e2b_" + "0" * 40)


@case("Sandbox.create", "mcp: refused, as there is no MCP template; nothing is left behind")
async def mcp(sdk: Sdk) -> None:
    metadata = {"run": uuid.uuid4().hex}
    with raises(e2b.SandboxException, saying="mcp"):
        await sdk(sdk.Sandbox.create, mcp={"fetch": {}}, metadata=metadata)
    assert await sdk.metadata_sandboxes(metadata) == []


@case(
    "Sandbox.create",
    "idempotency_key: the second create gives the first one's sandbox, another request 409",
    since=(2, 63),
)
async def idempotency(sdk: Sdk) -> None:
    key = uuid.uuid4().hex
    async with sdk.sandbox(idempotency_key=key) as sandbox:
        again = await sdk(sdk.Sandbox.create, idempotency_key=key, timeout=120)
        assert again.sandbox_id == sandbox.sandbox_id
        assert (await sdk(again.commands.run, "echo 1")).stdout == "1\n"
        with raises(e2b.SandboxException, saying="409"):
            await sdk(sdk.Sandbox.create, idempotency_key=key, timeout=121)


@case("Sandbox.create", "as a context manager: killed at its end")
async def context_manager(sdk: Sdk) -> None:
    if sdk.is_async:
        async with await sdk.Sandbox.create(timeout=60) as sandbox:
            assert await sandbox.is_running()
    else:

        def use() -> Any:
            with sdk.Sandbox.create(timeout=60) as sandbox:
                assert sandbox.is_running()
            return sandbox

        sandbox = await sdk(use)
    assert not await sdk(sandbox.is_running)


@case("E2B", "a client with its own key and addresses", domain=True)
async def client(sdk: Sdk) -> None:
    options = {"api_key": os.environ["E2B_API_KEY"]}
    for name, variable in (
        ("api_url", "E2B_API_URL"),
        ("sandbox_url", "E2B_SANDBOX_URL"),
        ("domain", "E2B_DOMAIN"),
    ):
        if value := os.environ.get(variable):
            options[name] = value
    bound = getattr(sdk.E2B(**options), "AsyncSandbox" if sdk.is_async else "Sandbox")
    sandbox = await sdk(bound.create, timeout=60)
    try:
        assert (await sdk(sandbox.commands.run, "echo 1")).stdout == "1\n"
    finally:
        await sdk(sandbox.kill)


@case("Sandbox.connect", "static: by id, from another place", domain=True)
async def connect_static(sdk: Sdk) -> None:
    sandbox = await sdk.shared()
    await sdk(sandbox.files.write, "/tmp/connect", "here")
    other = await sdk(sdk.Sandbox.connect, sandbox.sandbox_id)
    assert other.sandbox_id == sandbox.sandbox_id
    assert await sdk(other.files.read, "/tmp/connect") == "here"


@case("Sandbox.connect", "a running sandbox's timeout is extended and never shortened")
async def connect_extends(sdk: Sdk) -> None:
    async with sdk.sandbox(timeout=100) as sandbox:
        before = (await sdk(sandbox.get_info)).end_at
        await sdk(sandbox.connect, timeout=30)
        assert (await sdk(sandbox.get_info)).end_at == before
        await sdk(sandbox.connect, timeout=500)
        longer = (await sdk(sandbox.get_info)).end_at
        assert 390 < (longer - before).total_seconds() < 410


@case("Sandbox.connect", "a killed or unknown sandbox is not found")
async def connect_killed(sdk: Sdk) -> None:
    async with sdk.sandbox() as sandbox:
        await sdk(sandbox.kill)
        for identity in (sandbox.sandbox_id, MISSING):
            with raises(e2b.SandboxNotFoundException):
                await sdk(sdk.Sandbox.connect, identity)
        with raises(e2b.SandboxNotFoundException):
            await sdk(sandbox.connect)


@case(
    "Sandbox.list",
    "pages, order, metadata with every character, state, template, started_after",
    also=("SandboxPaginator.next_items", "SandboxPaginator.has_next", "SandboxPaginator.next_token"),
)
async def listing(sdk: Sdk) -> None:
    metadata = {"run": uuid.uuid4().hex, "a b/c": "c&d=ü%20+"}
    began = datetime.now(UTC)
    async with (
        sdk.sandbox(metadata=metadata) as first,
        sdk.sandbox(metadata=metadata) as second,
        sdk.sandbox(metadata=metadata | {"third": "1"}) as third,
    ):
        made = [first.sandbox_id, second.sandbox_id, third.sandbox_id]
        paginator = sdk.Sandbox.list(query=e2b.SandboxQuery(metadata=metadata), limit=2)
        assert paginator.has_next
        page = await sdk(paginator.next_items)
        assert [info.sandbox_id for info in page] == made[:0:-1]
        assert page[0].metadata == metadata | {"third": "1"}
        assert paginator.has_next
        assert paginator.next_token
        rest = await sdk(paginator.next_items)
        assert [info.sandbox_id for info in rest] == made[:1]
        assert not paginator.has_next
        ascending = await sdk.metadata_sandboxes(metadata, limit=1, order="asc")
        assert [info.sandbox_id for info in ascending] == made
        await sdk(second.pause)

        async def by(**query: Any) -> list[str]:
            found = sdk.Sandbox.list(query=e2b.SandboxQuery(metadata=metadata, **query))
            return sorted(info.sandbox_id for info in await sdk(found.next_items))

        paused, running = e2b.SandboxState.PAUSED, e2b.SandboxState.RUNNING
        assert await by(state=[paused]) == [second.sandbox_id]
        assert await by(state=[running]) == sorted([first.sandbox_id, third.sandbox_id])
        assert await by(state=[running, paused]) == sorted(made)
        assert await by() == sorted(made)
        assert await by(template="base") == sorted(made)
        assert await by(template="no-such-template") == []
        assert await by(started_after=began - timedelta(seconds=30)) == sorted(made)
        assert await by(started_after=began + timedelta(hours=1)) == []


@case("Sandbox.list", "a wrong cursor is refused")
async def bad_cursor(sdk: Sdk) -> None:
    with raises(e2b.SandboxException, saying="400"):
        await sdk(sdk.Sandbox.list(next_token="%%%").next_items)


@case("Sandbox.get_info", "static; an unknown sandbox is not found")
async def info_static(sdk: Sdk) -> None:
    sandbox = await sdk.shared()
    info = await sdk(sdk.Sandbox.get_info, sandbox.sandbox_id)
    assert info.sandbox_id == sandbox.sandbox_id
    with raises(e2b.SandboxNotFoundException):
        await sdk(sdk.Sandbox.get_info, MISSING)


@case("Sandbox.is_running", "true while it runs, false at once after the kill", domain=True)
async def is_running(sdk: Sdk) -> None:
    async with sdk.sandbox() as sandbox:
        assert await sdk(sandbox.is_running)
        await sdk(sandbox.kill)
        assert not await sdk(sandbox.is_running)


@case("Sandbox.set_timeout", "longer, shorter, static; an unknown sandbox is not found")
async def set_timeout(sdk: Sdk) -> None:
    async with sdk.sandbox(timeout=300) as sandbox:

        async def left() -> float:
            return ((await sdk(sandbox.get_info)).end_at - datetime.now(UTC)).total_seconds()

        await sdk(sandbox.set_timeout, 1000)
        assert 980 < await left() <= 1001
        await sdk(sdk.Sandbox.set_timeout, sandbox.sandbox_id, 50)
        assert 30 < await left() <= 51
    with raises(e2b.SandboxNotFoundException):
        await sdk(sdk.Sandbox.set_timeout, MISSING, 50)


@case("Sandbox.set_timeout", "the sandbox ends on time")
async def ends_on_time(sdk: Sdk) -> None:
    async with sdk.sandbox() as sandbox:
        began = time.monotonic()
        await sdk(sandbox.set_timeout, 3)

        async def gone() -> bool:
            return not await sdk(sandbox.is_running)

        await until(gone, seconds=10)
        assert 2.4 < time.monotonic() - began < 5
        with raises(e2b.SandboxNotFoundException):
            await sdk(sandbox.get_info)


@case("Sandbox.kill", "instance and static; False when it is gone", domain=True)
async def kill(sdk: Sdk) -> None:
    async with sdk.sandbox() as sandbox:
        assert await sdk(sandbox.kill) is True
        assert await sdk(sandbox.kill) is False
    async with sdk.sandbox() as sandbox:
        assert await sdk(sdk.Sandbox.kill, sandbox.sandbox_id) is True
        assert await sdk(sdk.Sandbox.kill, sandbox.sandbox_id) is False
    assert await sdk(sdk.Sandbox.kill, MISSING) is False


@case("Sandbox.kill", "calls on a killed sandbox say that it is gone", domain=True)
async def after_kill(sdk: Sdk) -> None:
    async with sdk.sandbox() as sandbox:
        await sdk(sandbox.kill)
        gone = getattr(e2b, "SandboxNotRunningException", e2b.TimeoutException)
        with raises(gone, saying="The sandbox was not found"):
            await sdk(sandbox.commands.run, "true")
        with raises(gone, saying="The sandbox was not found"):
            await sdk(sandbox.files.read, "/etc/hostname")
