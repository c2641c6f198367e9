"""Run by the interpreter that has the published SDK: a walk through a platform with real virtual machines.

argv: base URL
"""

# It is the published package that is imported, not ours, which is what the checker sees.
# pyright: basic, reportAttributeAccessIssue=false

import datetime
import os
import socket
import sys
import threading
import time
from pathlib import Path
from urllib.request import urlopen

import wrenn
from wrenn import client as clients
from wrenn import code_runner as code_runners
from wrenn.models import Status

URL = sys.argv[1]
resolve = socket.getaddrinfo


def resolve_localhost(host, *args, **given):
    """Names under localhost are this machine, which not every machine's resolver knows."""
    name = host.decode() if isinstance(host, bytes) else host
    return resolve("127.0.0.1" if name and name.endswith(".localhost") else host, *args, **given)


socket.getaddrinfo = resolve_localhost


class Events:
    """What the stream tells, from the moment when it is connected."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str | None]] = []
        self._changed = threading.Condition()
        threading.Thread(target=self._read, daemon=True).start()
        self.wait_for("connected", None)

    def _read(self) -> None:
        with clients.WrennClient(base_url=URL) as client:
            for event in client.events.stream():
                with self._changed:
                    self.seen.append((str(event.event), event.resource.id if event.resource else None))
                    self._changed.notify_all()

    def wait_for(self, kind: str, id: str | None) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: (kind, id) in self.seen, 60), (kind, id, self.seen)


def programs(capsule) -> None:
    result = capsule.commands.run("echo out; echo err >&2; uname -s; exit 3", envs={"A": "b"}, cwd="/tmp")
    assert (result.stdout, result.stderr, result.exit_code) == ("out\nLinux\n", "err\n", 3)
    streamed = list(capsule.commands.stream("for i in 1 2 3; do echo $i; sleep 0.2; done"))
    assert "".join(one.data for one in streamed if one.type == "stdout") == "1\n2\n3\n"
    assert (streamed[0].type, streamed[-1].type, streamed[-1].exit_code) == ("start", "exit", 0)
    handle = capsule.commands.run("while :; do echo on; sleep 0.1; done", background=True, tag="loop")
    assert "loop" in [process.tag for process in capsule.commands.list()]
    for one in capsule.commands.connect(handle.pid):
        if one.type == "stdout":
            capsule.commands.kill(handle.pid)
    assert one.type == "exit"


def terminal(capsule) -> None:
    with capsule.pty(cmd="/bin/bash", cols=100, rows=40) as term:
        term.write(b"stty size; echo re''ady\n")
        assert b"40 100\r\n" in shown(term, b"ready\r\n")
        tag = term.tag
    with capsule.pty_connect(tag) as term:
        term.write(b"echo ag''ain\n")
        shown(term, b"again\r\n")
        term.kill()


def shown(term, text: bytes) -> bytes:
    seen = b""
    for event in term:
        if event.type == "output":
            seen += event.data
        if text in seen:
            return seen
    raise AssertionError(f"the terminal has ended: {seen!r}")


def files(capsule) -> None:
    data = os.urandom(3 << 20)
    capsule.files.write("/tmp/walk/text", "h\u00e9llo")
    assert capsule.files.read("/tmp/walk/text") == "h\u00e9llo"
    capsule.files.upload_stream("/tmp/walk/big", iter([data[: 1 << 20], data[1 << 20 :]]))
    assert b"".join(capsule.files.download_stream("/tmp/walk/big")) == data
    assert {(e.name, e.size) for e in capsule.files.list("/tmp/walk")} == {("text", 6), ("big", 3 << 20)}
    capsule.files.make_dir("/tmp/walk/new")
    assert capsule.files.exists("/tmp/walk/new")
    capsule.files.remove("/tmp/walk/text")
    assert not capsule.files.exists("/tmp/walk/text")


def port(capsule) -> None:
    capsule.commands.run("cd /tmp/walk && python3 -m http.server 8000", background=True)
    end = time.monotonic() + 60
    while b"big" not in (page := reached(capsule.get_url(8000))):
        assert time.monotonic() < end, page
        time.sleep(0.5)


def reached(url: str) -> bytes:
    try:
        return urlopen(url, timeout=30).read()  # noqa: S310 - of a capsule
    except OSError as error:
        return str(error).encode()


def code_runner(client, capsule) -> None:
    """Its default template is one that the team makes: a snapshot in which a kernel's server runs."""
    capsule.files.write("/tmp/kernel.py", Path(__file__).with_name("guest_kernel.py").read_text())
    capsule.commands.run("exec python3 /tmp/kernel.py", background=True)
    end = time.monotonic() + 60
    while (page := reached(f"{capsule.get_url(8888)}/api/kernels")) != b"[]":
        assert time.monotonic() < end, page
        time.sleep(0.5)
    client.snapshots.create(capsule.capsule_id, name="code-runner-beta")
    runner = code_runners.Capsule(wait=True)
    assert runner.info.template == "code-runner-beta"
    said = []
    assert runner.run_code("x = 20; print('hello')", on_stdout=said.append).logs.stdout == ["hello\n"] == said
    assert runner.run_code("x + 1").text == "21"
    assert runner.run_code("nothing").error.name == "NameError"
    runner.destroy(wait=True)
    client.snapshots.delete("code-runner-beta")


def measures(client, id: str) -> None:
    """Samples come every 5 s, and every 5 s they are told."""
    end = time.monotonic() + 90
    while not (points := client.capsules.metrics(id, range="10m").points):
        assert time.monotonic() < end, "no sample"
        time.sleep(1)
    assert 0 < points[0].mem_bytes <= 512 << 20
    assert points[0].disk_bytes > 0
    today = datetime.datetime.now(datetime.UTC).date()
    while not sum(point.ram_mb_minutes for point in client.capsules.usage(from_=today, to=today).points):
        assert time.monotonic() < end, "no usage"
        time.sleep(1)
    stats = client.capsules.stats(range="5m")
    assert stats.current.running_count >= 1
    assert stats.current.memory_mb_reserved >= 512
    assert stats.series.running[-1] >= 1


def walk() -> None:
    events = Events()
    with clients.WrennClient(base_url=URL) as client:
        capsule = wrenn.Capsule.create(vcpus=1, memory_mb=512, timeout=600, wait=True)
        id = capsule.capsule_id
        events.wait_for("capsule.create", id)
        programs(capsule)
        terminal(capsule)
        files(capsule)
        port(capsule)
        code_runner(client, capsule)
        measures(client, id)
        assert capsule.pause(wait=True).status == Status.paused
        events.wait_for("capsule.pause", id)
        assert capsule.resume(wait=True).status == Status.running
        events.wait_for("capsule.resume", id)
        assert b"big" in reached(capsule.get_url(8000))  # with its memory
        client.snapshots.create(id, name="walked")
        copy = wrenn.Capsule.create(template="walked", wait=True)
        assert copy.files.exists("/tmp/walk/big")
        copy.destroy(wait=True)
        client.snapshots.delete("walked")
        assert "walked" not in [one.name for one in client.snapshots.list()]
        capsule.destroy(wait=True)
        events.wait_for("capsule.destroy", id)
        assert client.capsules.get(id).status == Status.stopped
    kinds = {kind for kind, _ in events.seen}
    assert {"template.snapshot.create", "template.snapshot.delete"} <= kinds


walk()
