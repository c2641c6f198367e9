"""`wrenn create`, `list`, `get`, `pause`, `resume`, `snapshot`, `rollback`, `fork`, `timeout`, `kill`, `url`."""

from __future__ import annotations

import sys
from typing import Annotated

from cyclopts import Parameter

from wrenn import Sandbox
from wrenn.cli import output
from wrenn.cli.settings import Connection
from wrenn.errors import SandboxNotFoundError
from wrenn.models import Activity, Network, OnTimeout, SandboxInfo

HERE = Connection()
Flag = Annotated[bool, Parameter(negative=())]
Pairs = Annotated[list[str] | None, Parameter(negative=(), consume_multiple=False)]


def create(
    template: str = "minimal",
    *,
    timeout: float | None = None,
    on_timeout: OnTimeout = "kill",
    pause_memory: bool = True,
    auto_resume: Flag = False,
    activity: Annotated[
        list[Activity] | None, Parameter(consume_multiple=False, negative="--no-activity")
    ] = None,
    vcpus: int | None = None,
    memory_mb: int | None = None,
    disk_mb: int | None = None,
    env: Annotated[Pairs, Parameter(name=("--env", "-e"))] = None,
    metadata: Annotated[Pairs, Parameter(name=("--metadata", "-m"))] = None,
    internet: bool = True,
    allow_out: Pairs = None,
    deny_out: Pairs = None,
    private: Flag = False,
    json: Flag = False,
    connection: Connection = HERE,
) -> None:
    """Make a sandbox and print its id.

    :param template: What it starts from.
    :param timeout: Seconds until it ends by itself; without it never.
    :param on_timeout: How it ends then.
    :param pause_memory: Whether a pause then keeps memory; without it the disk alone, and the resume boots.
    :param auto_resume: Requests to its ports wake it when it is paused.
    :param activity: What puts the timeout off; may be given several times. Without it: api and traffic.
    :param env: NAME=VALUE for every command in it; may be given several times.
    :param metadata: NAME=VALUE label of yours; may be given several times.
    :param internet: Whether it may reach more than what is allowed.
    :param allow_out: Address, CIDR, host.name or *.host.name that it may reach; may be given several times.
    :param deny_out: Address or CIDR that it may not; may be given several times.
    :param private: Requests to its ports must carry a token.
    :param json: Print all about it as JSON.
    """
    network = Network(internet=internet, allow_out=tuple(allow_out or ()), deny_out=tuple(deny_out or ()))
    with connection.client() as client:
        sandbox = Sandbox.create(
            template,
            timeout=timeout,
            on_timeout=on_timeout,
            pause_memory=pause_memory,
            auto_resume=auto_resume,
            activity=activity,
            network=None if network == Network() else network,
            private=private,
            vcpus=vcpus,
            memory_mb=memory_mb,
            disk_mb=disk_mb,
            envs=pairs(env),
            metadata=pairs(metadata),
            client=client,
        )
        if json:
            output.write_json(sandbox.info())
        else:
            sys.stdout.write(sandbox.id + "\n")


def list_(
    *,
    status: str | None = None,
    metadata: Annotated[Pairs, Parameter(name=("--metadata", "-m"))] = None,
    limit: int | None = None,
    json: Flag = False,
    connection: Connection = HERE,
) -> None:
    """List your team's sandboxes, newest first.

    :param status: Only these, e.g. running or running,paused. Failed and killed ones are shown only when asked for.
    :param metadata: Only those with this NAME=VALUE; may be given several times.
    :param limit: At most so many.
    :param json: Print JSON.
    """
    with connection.client() as client:
        found = Sandbox.list(status=status, metadata=pairs(metadata), limit=limit, client=client)
    if json:
        output.write_json(found)
    else:
        output.write_table(found)


def get(sandbox: str, /, *, json: Flag = False, connection: Connection = HERE) -> None:
    """Show all about a sandbox.

    :param sandbox: Its id.
    :param json: Print JSON.
    """
    with connection.client() as client:
        show(Sandbox.connect(sandbox, client=client).info(), json)


def pause(sandbox: str, /, *, memory: bool = True, json: Flag = False, connection: Connection = HERE) -> None:
    """Save a sandbox's memory and disk and stop it.

    :param sandbox: Its id.
    :param memory: Whether its memory is kept; without it the disk alone, and the resume boots.
    :param json: Print what it is afterwards as JSON.
    """
    with connection.client() as client:
        quietly(Sandbox.connect(sandbox, client=client).pause(memory=memory), json)


def resume(
    sandbox: str,
    /,
    *,
    timeout: float | None = None,
    memory: bool = True,
    json: Flag = False,
    connection: Connection = HERE,
) -> None:
    """Continue a paused sandbox where it was.

    :param sandbox: Its id.
    :param timeout: Seconds from now until it ends by itself; without it as before the pause.
    :param memory: Whether it goes on with its memory; without it, it boots from its disk.
    :param json: Print what it is afterwards as JSON.
    """
    with connection.client() as client:
        quietly(Sandbox.connect(sandbox, client=client).resume(timeout=timeout, memory=memory), json)


def snapshot(
    sandbox: str,
    /,
    *,
    name: str | None = None,
    memory: bool = True,
    json: Flag = False,
    connection: Connection = HERE,
) -> None:
    """Save a running sandbox, which goes on; print the snapshot's id.

    :param sandbox: Its id.
    :param name: NAME or NAME:TAG that leads to it from now on.
    :param memory: Whether its memory is saved; without it what starts from it boots.
    :param json: Print all about it as JSON.
    """
    with connection.client() as client:
        made = Sandbox.connect(sandbox, client=client).snapshot(name, memory=memory)
        if json:
            output.write_json(made)
        else:
            sys.stdout.write(made.id + "\n")


def rollback(sandbox: str, snapshot: str, /, *, json: Flag = False, connection: Connection = HERE) -> None:
    """Take a sandbox back to a snapshot of it. What it did since is lost.

    :param sandbox: Its id.
    :param snapshot: Id, NAME or NAME:TAG of the snapshot.
    :param json: Print what it is afterwards as JSON.
    """
    with connection.client() as client:
        quietly(Sandbox.connect(sandbox, client=client).rollback(snapshot), json)


def fork(
    sandbox: str,
    /,
    *,
    count: Annotated[int, Parameter(name=("--count", "-n"))] = 1,
    timeout: float | None = None,
    json: Flag = False,
    connection: Connection = HERE,
) -> None:
    """Copy a running sandbox with all its processes; print the ids of the copies.

    :param sandbox: Its id.
    :param count: How many copies.
    :param timeout: Seconds from now until each ends by itself; without it as the original.
    :param json: Print all about them as JSON.
    """
    with connection.client() as client:
        forks = Sandbox.connect(sandbox, client=client).fork(count, timeout=timeout)
        if json:
            output.write_json([copy.info() for copy in forks])
        else:
            sys.stdout.writelines(f"{copy.id}\n" for copy in forks)


def timeout(
    sandbox: str,
    seconds: float,
    /,
    *,
    json: Flag = False,
    connection: Connection = HERE,
) -> None:
    """Set when a sandbox ends by itself.

    :param sandbox: Its id.
    :param seconds: From now; 0 for never.
    :param json: Print what it is afterwards as JSON.
    """
    with connection.client() as client:
        quietly(Sandbox.connect(sandbox, client=client).set_timeout(seconds), json)


def kill(sandbox: str, /, *more: str, connection: Connection = HERE) -> int:
    """End sandboxes; everything in them is lost.

    :param sandbox: Its id.
    :param more: Ids of others.
    """
    missing = 0
    with connection.client() as client:
        for sandbox_id in (sandbox, *more):
            try:
                known = Sandbox.connect(sandbox_id, client=client).kill()
            except SandboxNotFoundError:
                known = False
            if not known:
                sys.stderr.write(f"{sandbox_id}: there is no such sandbox\n")
                missing += 1
    return 3 if missing else 0


def url(sandbox: str, port: int, /, *, connection: Connection = HERE) -> None:
    """Print the public address of a port of a sandbox.

    :param sandbox: Its id.
    :param port: Where a server in it listens.
    """
    with connection.client() as client:
        sys.stdout.write(Sandbox.connect(sandbox, client=client).url(port) + "\n")


def pairs(given: list[str] | None) -> dict[str, str]:
    """:raises ValueError: one without `=`"""
    result: dict[str, str] = {}
    for pair in given or []:
        name, separator, value = pair.partition("=")
        if not separator or not name:
            raise ValueError(f"{pair!r} is not NAME=VALUE")
        result[name] = value
    return result


def show(info: SandboxInfo, json: bool) -> None:
    if json:
        output.write_json(info)
    else:
        output.write_details(info)


def quietly(info: SandboxInfo, json: bool) -> None:
    if json:
        output.write_json(info)
