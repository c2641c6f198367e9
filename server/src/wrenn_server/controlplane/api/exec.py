"""`/exec` and `/processes`, below the path of a sandbox: `/v1/sandboxes/{id}`, `/v1/capsules/{id}`."""

import secrets
from typing import Literal

from litestar import Response, delete, get, post
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import FromPath, FromQuery, JSONBody

from wrenn_server.controlplane import schema
from wrenn_server.controlplane.api import shape
from wrenn_server.controlplane.api.auth import Cp, Who
from wrenn_server.controlplane.services import exec, guest
from wrenn_server.controlplane.services.programs import Program
from wrenn_server.wire.envd import Selector


@post(
    "/{sandbox_id:str}/exec",
    operation_id="exec",
    tags=["programs"],
    status_code=200,
    responses={
        202: ResponseSpec(
            schema.ExecStarted, description="Started in the background", generate_examples=False
        )
    },
)
async def run(
    cp: Cp, caller: Who, sandbox_id: FromPath[str], data: JSONBody[schema.Exec]
) -> Response[schema.ExecResult]:
    """Run a program without a shell and answer with its output; with `background`, answer when it has started."""
    where = await guest.awake(cp, caller.team_id, sandbox_id)
    program = Program(
        cmd=data.cmd,
        args=data.args,
        envs=data.envs,
        cwd=data.cwd,
        user=data.user,
        tag=data.tag or (f"proc-{secrets.token_hex(4)}" if data.background else None),
    )
    if data.background:
        pid = await exec.start(cp, where, program)
        started = schema.ExecStarted(sandbox_id=where.id, cmd=data.cmd, pid=pid, tag=program.tag or "")
        return Response(started, status_code=202)  # pyright: ignore[reportReturnType] - documented in `responses`
    result = await exec.run(cp, where, program, data.timeout_sec)
    stdout, stderr, encoding = exec.as_text(result)
    return Response(
        schema.ExecResult(
            sandbox_id=where.id,
            cmd=data.cmd,
            stdout=stdout,
            stderr=stderr,
            exit_code=result.exit_code,
            duration_ms=result.duration_ms,
            encoding="utf-8" if encoding == "utf-8" else "base64",
        )
    )


@get("/{sandbox_id:str}/processes", operation_id="listProcesses", tags=["programs"])
async def processes(cp: Cp, caller: Who, sandbox_id: FromPath[str]) -> schema.ProcessList:
    """Programs that run in the sandbox and were started through the API."""
    where = await guest.awake(cp, caller.team_id, sandbox_id)
    return schema.ProcessList([shape.process(info) for info in await exec.processes(cp, where)])


@delete("/{sandbox_id:str}/processes/{process:str}", operation_id="killProcess", tags=["programs"])
async def kill(
    cp: Cp,
    caller: Who,
    sandbox_id: FromPath[str],
    process: FromPath[str],
    signal: FromQuery[Literal["SIGKILL", "SIGTERM"]] = "SIGKILL",
) -> None:
    """Send a signal to the process group of a program, named by pid or tag."""
    where = await guest.awake(cp, caller.team_id, sandbox_id)
    await exec.signal(cp, where, selector(process), signal)


def selector(process: str) -> Selector:
    """A pid or a tag."""
    is_pid = process.isascii() and process.isdigit() and len(process) < 10
    return Selector(pid=int(process)) if is_pid else Selector(tag=process)


ROUTES = [run, processes, kill]
