"""`/files`, below the path of a sandbox: `/v1/sandboxes/{id}`, `/v1/capsules/{id}`."""

from collections.abc import AsyncGenerator, AsyncIterable
from contextlib import AsyncExitStack
from typing import Any

from litestar import Request, post
from litestar.params import FromPath, JSONBody
from litestar.response import Stream

from wrenn_server.controlplane import schema
from wrenn_server.controlplane.api import auth, shape
from wrenn_server.controlplane.api.auth import Cp, Who
from wrenn_server.controlplane.api.upload import Upload
from wrenn_server.controlplane.services import files, guest


@post(
    "/{sandbox_id:str}/files/write",
    operation_id="writeFile",
    tags=["files"],
    status_code=204,
    request_max_body_size=None,
)
async def write(cp: Cp, caller: Who, sandbox_id: FromPath[str], request: Request[Any, Any, Any]) -> None:
    """Write a file, streamed: a form with `path` first, then `file`. Parents are made, an existing file is replaced."""
    where = await guest.awake(cp, caller.team_id, sandbox_id)
    upload = await Upload.begin(request.headers.get("content-type", ""), request.stream())
    await files.write(cp, where, upload.path, upload.content())


@post(
    "/{sandbox_id:str}/files/read",
    operation_id="readFile",
    tags=["files"],
    status_code=200,
    opt=auth.needs("read"),
)
async def read(cp: Cp, caller: Who, sandbox_id: FromPath[str], data: JSONBody[schema.FileRead]) -> Stream:
    """A file's bytes, streamed."""
    where = await guest.awake(cp, caller.team_id, sandbox_id)
    async with AsyncExitStack() as stack:
        length, content = await stack.enter_async_context(files.reading(cp, where, data.path))
        headers = {} if length is None else {"Content-Length": str(length)}
        body = _through(stack.pop_all(), content)
        return Stream(body, media_type="application/octet-stream", headers=headers)


@post(
    "/{sandbox_id:str}/files/list",
    operation_id="listFiles",
    tags=["files"],
    status_code=200,
    opt=auth.needs("read"),
)
async def listing(
    cp: Cp, caller: Who, sandbox_id: FromPath[str], data: JSONBody[schema.FileList]
) -> schema.Listing:
    """What is in a directory, and below it down to `depth`."""
    where = await guest.awake(cp, caller.team_id, sandbox_id)
    return schema.Listing(
        [shape.file_entry(e) for e in await files.listing(cp, where, data.path, data.depth)]
    )


async def _through(stack: AsyncExitStack, content: AsyncIterable[bytes]) -> AsyncGenerator[bytes, None]:
    async with stack:
        async for piece in content:
            yield piece


ROUTES = [write, read, listing]
