"""Run by the interpreter that has the published SDK: calls every public method that reaches the API, and checks what it
makes of the answers.

argv: base URL, `sync` or `async`, a scratch directory, which is there in the sandboxes, too
"""

# It is the published package that is imported, not ours, which is what the checker sees.
# pyright: basic, reportAttributeAccessIssue=false

import asyncio
import datetime
import inspect
import os
import sys
from contextlib import asynccontextmanager
from pathlib import Path

import wrenn
from wrenn import client as clients
from wrenn import commands, files, pty
from wrenn.models import Status

URL, HALF, SCRATCH = sys.argv[1], sys.argv[2], sys.argv[3]
SYNC = HALF == "sync"
A = "" if SYNC else "Async"
Capsule = getattr(wrenn, f"{A}Capsule")
Client = getattr(clients, f"{A}WrennClient")
WATCHED = [
    Capsule,
    getattr(clients, f"{A}CapsulesResource"),
    getattr(clients, f"{A}SnapshotsResource"),
    getattr(commands, f"{A}Commands"),
    getattr(files, f"{A}Files"),
    getattr(pty, f"{A}PtySession"),
]
called: set[str] = set()


# The two halves alike: what one gives at once, the other gives when it is awaited.


async def done(value):
    return await value if inspect.isawaitable(value) else value


async def each(iterator):
    if SYNC:
        for one in iterator:
            yield one
    else:
        async for one in iterator:
            yield one


@asynccontextmanager
async def inside(manager):
    if SYNC:
        with manager as entered:
            yield entered
    else:
        async with manager as entered:
            yield entered


async def refused(kind, call):
    try:
        await done(call())
    except kind as error:
        return error
    raise AssertionError(f"{kind.__name__} was expected")


def pieces(*parts):
    if SYNC:
        return iter(parts)

    async def give():
        for part in parts:
            yield part

    return give()


def watch(cls) -> set[str]:
    """Notes each call; the names of all that could be called."""
    names = set()
    for name, member in list(vars(cls).items()):
        dual = name.startswith(("_instance_", "_static_"))
        if (name.startswith("_") and not dual) or isinstance(member, property):
            continue
        function = member.__func__ if isinstance(member, classmethod) else member
        if not inspect.isfunction(function):
            continue
        full = f"{cls.__name__}.{name}"
        names.add(full)

        def noted(*args, full=full, function=function, **given):
            called.add(full)
            return function(*args, **given)

        setattr(cls, name, classmethod(noted) if isinstance(member, classmethod) else noted)
    return names


# What is called


async def lives() -> None:
    capsule = await done(
        Capsule.create(template="minimal-ubuntu", vcpus=1, memory_mb=512, timeout=60, wait=True)
    )
    assert capsule.info.status == Status.running
    assert capsule.info.timeout_sec == 60
    assert capsule.info.created_at.tzinfo
    assert capsule.get_url(8000).startswith(f"http://8000-{capsule.capsule_id}.127.0.0.1:")
    assert await done(capsule.is_running())
    await done(capsule.ping())
    assert (await done(capsule.pause(wait=True))).status == Status.paused
    error = await refused(wrenn.WrennConflictError, capsule.ping)
    assert error.status_code == 409
    again = await done(Capsule.connect(capsule.capsule_id))
    await done(again.wait_ready())
    assert (await done(again.get_info())).status == Status.running
    assert (await done(Capsule.pause(capsule.capsule_id, wait=True))).status == Status.paused
    assert (await done(Capsule.resume(capsule.capsule_id, wait=True))).status == Status.running
    await done(capsule.pause())
    assert (await done(capsule.resume(wait=True))).status == Status.running
    assert capsule.capsule_id in [one.id for one in await done(Capsule.list())]
    await done(capsule.destroy(wait=True))
    assert (await done(Capsule.get_info(capsule.capsule_id))).status == Status.stopped
    await refused(wrenn.WrennNotFoundError, lambda: Capsule.destroy(capsule.capsule_id))
    async with inside(await done(Capsule.create())) as other:
        await done(Capsule.destroy(other.capsule_id, wait=True))


async def resources() -> None:
    async with inside(Client(base_url=URL)) as client:
        made = await done(client.capsules.create(template="minimal", vcpus=2, memory_mb=256, timeout_sec=0))
        assert (made.vcpus, made.memory_mb, made.timeout_sec, made.template) == (2, 256, 0, "minimal")
        assert made.disk_size_mb
        assert [one.id for one in await done(client.capsules.list())] == [made.id]
        assert (await done(client.capsules.pause(made.id))).status == Status.paused
        assert (await done(client.capsules.resume(made.id))).status == Status.running
        await done(client.capsules.ping(made.id))
        metrics = await done(client.capsules.metrics(made.id, range="1h"))
        assert (metrics.sandbox_id, metrics.range, metrics.points) == (made.id, "1h", [])
        await measures(client)
        taken = await done(client.snapshots.create(made.id, name="mine"))
        assert (taken.name, taken.type, taken.platform, taken.protected) == ("mine", "snapshot", False, False)
        assert taken.created_at.tzinfo
        await refused(wrenn.WrennConflictError, lambda: client.snapshots.create(made.id, name="mine"))
        await done(client.snapshots.create(made.id, name="mine", overwrite=True))
        for type in (None, "snapshot"):
            assert "mine" in [one.name for one in await done(client.snapshots.list(type=type))]
        [base] = [one for one in await done(client.snapshots.list(type="base")) if one.name == "minimal"]
        assert base.protected
        other = await done(client.capsules.create(template="mine"))
        assert (other.template, other.vcpus) == ("mine", 2)
        await done(client.capsules.destroy(other.id))
        await done(client.snapshots.delete("mine"))
        await refused(wrenn.WrennNotFoundError, lambda: client.snapshots.delete("mine"))
        await refused(wrenn.WrennForbiddenError, lambda: client.snapshots.delete("minimal"))
        await refused(wrenn.WrennNotFoundError, lambda: client.capsules.create(template="none"))
        await refused(wrenn.WrennValidationError, lambda: client.capsules.create(vcpus=0))
        await refused(wrenn.WrennNotFoundError, lambda: client.capsules.get("sb-x"))
        await done(client.capsules.destroy(made.id))
        assert (await done(client.capsules.get(made.id))).status == Status.stopped
    async with inside(Client(base_url=URL, api_key="wrn_" + "0" * 40)) as stranger:
        await refused(wrenn.WrennAuthenticationError, stranger.capsules.list)


async def measures(client) -> None:
    """The test has had a minute of a processor and 100 MiB-minutes of memory counted."""
    week = datetime.timedelta(days=7)
    today = datetime.datetime.now(datetime.UTC).date()
    stats = await done(client.capsules.stats(range="24h"))
    assert stats.range == "24h"
    assert stats.peaks.running_count >= max(stats.series.running) >= 1
    assert len(stats.series.labels) == len(stats.series.vcpus) == len(stats.series.memory_mb) == 120
    assert stats.current.memory_mb_reserved >= 0
    used = await done(client.capsules.usage(from_=today - week, to=today))
    assert (used.from_, used.to, len(used.points)) == (today - week, today, 8)
    assert sum(point.cpu_minutes for point in used.points) == 1
    assert sum(point.ram_mb_minutes for point in used.points) == 100
    assert len((await done(client.capsules.usage())).points) == 30
    await refused(wrenn.WrennValidationError, lambda: client.capsules.usage(from_=today, to=today - week))


async def programs(capsule) -> None:
    result = await done(
        capsule.commands.run('printf %s "$A"; pwd; echo err >&2; exit 3', envs={"A": "b "}, cwd=SCRATCH)
    )
    assert (result.stdout, result.stderr, result.exit_code) == (f"b {SCRATCH}\n", "err\n", 3)
    assert result.duration_ms >= 0
    binary = await done(capsule.commands.run(r"printf '\377ok'"))
    assert binary.stdout == "\N{REPLACEMENT CHARACTER}ok"
    await refused(wrenn.WrennAgentError, lambda: capsule.commands.run("sleep 30", timeout=1))
    await refused(wrenn.WrennValidationError, lambda: capsule.commands.run("true", cwd=f"{SCRATCH}/gone"))
    handle = await done(capsule.commands.run("sleep 300", background=True, tag="sleeper"))
    assert (handle.tag, handle.capsule_id) == ("sleeper", capsule.capsule_id)
    [one] = [p for p in await done(capsule.commands.list()) if p.pid == handle.pid]
    assert (one.tag, one.cmd, one.args) == ("sleeper", "/bin/sh", ["-c", "sleep 300"])
    await done(capsule.commands.kill(handle.pid))
    await refused(wrenn.WrennNotFoundError, lambda: capsule.commands.kill(handle.pid))
    assert handle.pid not in [p.pid for p in await done(capsule.commands.list())]


async def streams(capsule) -> None:
    events = [one async for one in each(capsule.commands.stream("echo out; echo err >&2; exit 3"))]
    assert {one.type for one in events} == {"start", "stdout", "stderr", "exit"}
    assert events[0].pid > 0
    assert [one.data for one in events if one.type in ("stdout", "stderr")] in (
        ["out\n", "err\n"],
        ["err\n", "out\n"],
    )
    assert events[-1].exit_code == 3
    [_, said, _] = [one async for one in each(capsule.commands.stream("printf", args=["%s", "a b"]))]
    assert said.data == "a b"
    [error] = [one async for one in each(capsule.commands.stream("/no/such", args=["x"]))]
    assert error.type == "error"
    handle = await done(capsule.commands.run("while :; do echo on; sleep 0.1; done", background=True))
    followed = []
    async for one in each(capsule.commands.connect(handle.pid)):
        followed.append(one)
        if one.type == "stdout":
            await done(capsule.commands.kill(handle.pid))
    assert (followed[0].pid, followed[-1].type) == (handle.pid, "exit")


async def terminals(capsule) -> None:
    async with inside(capsule.pty(cmd="/bin/sh", cols=100, rows=40, envs={"PS1": "$"}, cwd=SCRATCH)) as term:
        await done(term.write(b"stty size; pwd; echo re''ady\n"))
        seen = await shown(term, b"ready\r\n")
        assert b"40 100\r\n" in seen
        assert SCRATCH.encode() in seen
        tag, pid = term.tag, term.pid
        assert tag
        await done(term.resize(120, 50))
        await done(
            term.write(b"while [ \"$(stty size)\" != '50 120' ]; do sleep 0.1; done; echo res''ized\n")
        )
        await shown(term, b"resized\r\n")
    async with inside(capsule.pty_connect(tag)) as term:
        await done(term.write(b"echo ag''ain\n"))
        await shown(term, b"again\r\n")
        assert (term.tag, term.pid) == (tag, pid)
        await done(term.kill())
        last = [one async for one in each(term)][-1]
        assert (last.type, last.exit_code) == ("exit", -1)
    async with inside(capsule.pty(cmd="/no/such")) as term:
        [error] = [one async for one in each(term)]
        assert (error.type, error.fatal) == ("error", True)


async def shown(term, text: bytes) -> bytes:
    seen = b""
    async for event in each(term):
        if event.type == "output":
            seen += event.data
        if text in seen:
            return seen
    raise AssertionError(f"the terminal has ended: {seen!r}")


async def tree(capsule) -> None:
    place = f"{SCRATCH}/files"
    await done(capsule.files.write(f"{place}/a/text", "h\u00e9llo"))
    assert await done(capsule.files.read(f"{place}/a/text")) == "h\u00e9llo"
    await done(capsule.files.write(f"{place}/bytes", bytes(range(256))))
    assert await done(capsule.files.read_bytes(f"{place}/bytes")) == bytes(range(256))
    names = {
        (e.name, e.type, e.size) for e in await done(capsule.files.list(place, depth=2)) if e.type == "file"
    }
    assert names == {("text", "file", 6), ("bytes", "file", 256)}
    assert (await done(capsule.files.make_dir(f"{place}/new/dir"))).type == "directory"
    assert (await done(capsule.files.make_dir(f"{place}/new/dir"))).name == "dir"
    assert await done(capsule.files.exists(f"{place}/new/dir"))
    assert not await done(capsule.files.exists(f"{place}/gone"))
    assert not await done(capsule.files.exists(f"{place}/gone/deeper"))
    big = os.urandom(3 << 20)
    await done(capsule.files.upload_stream(f"{place}/big", pieces(big[: 1 << 20], big[1 << 20 :])))
    assert b"".join([piece async for piece in each(capsule.files.download_stream(f"{place}/big"))]) == big
    await done(capsule.files.remove(place))
    assert not Path(place).exists()
    for call in (capsule.files.remove, capsule.files.read, capsule.files.list):
        await refused(wrenn.WrennNotFoundError, lambda call=call: call(place))


async def repositories(capsule) -> None:
    """They are commands; what could go wrong is how those are quoted."""
    place = f"{SCRATCH}/repository"
    await done(capsule.git.init(place, initial_branch="main"))
    await done(capsule.git.configure_user("A B", "a@example.com", scope="local", cwd=place))
    await done(capsule.files.write(f'{place}/it\'s "a" file', "x"))
    await done(capsule.git.add(all=True, cwd=place))
    await done(capsule.git.commit('one\'s "first" $HOME', cwd=place))
    assert (await done(capsule.git.status(cwd=place))).branch == "main"
    log = await done(capsule.commands.run("git log --format=%s", cwd=place))
    assert log.stdout == 'one\'s "first" $HOME\n'


async def everything() -> None:
    expected = set().union(*(watch(cls) for cls in WATCHED))
    await lives()
    await resources()
    async with inside(await done(Capsule.create(wait=True))) as capsule:
        await programs(capsule)
        await streams(capsule)
        await terminals(capsule)
        await tree(capsule)
        await repositories(capsule)
        taken = await done(capsule.create_snapshot("saved"))
        assert taken.name == "saved"
    missing = expected - called
    assert not missing, f"never called: {sorted(missing)}"


asyncio.run(everything())
