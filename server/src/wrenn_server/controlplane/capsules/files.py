"""`/v1/capsules/{id}/files`: what the native API has not, or says in other words."""

from litestar import post
from litestar.params import FromPath, JSONBody

from wrenn_server.controlplane.api import auth
from wrenn_server.controlplane.api import files as native
from wrenn_server.controlplane.api.auth import Cp, Who
from wrenn_server.controlplane.capsules import schema, shape
from wrenn_server.controlplane.schema import FileList
from wrenn_server.controlplane.services import files, guest


@post("/{sandbox_id:str}/files/list", operation_id="listFiles", status_code=200, opt=auth.needs("read"))
async def listing(cp: Cp, caller: Who, sandbox_id: FromPath[str], data: JSONBody[FileList]) -> schema.Listing:
    where = await guest.awake(cp, caller.team_id, sandbox_id)
    entries = await files.listing(cp, where, data.path, data.depth)
    return schema.Listing([shape.file_entry(entry) for entry in entries])


@post("/{sandbox_id:str}/files/mkdir", operation_id="makeDirectory", status_code=200)
async def make_dir(
    cp: Cp, caller: Who, sandbox_id: FromPath[str], data: JSONBody[schema.FilePath]
) -> schema.Made:
    where = await guest.awake(cp, caller.team_id, sandbox_id)
    return schema.Made(shape.file_entry(await files.make_dir(cp, where, data.path)))


@post("/{sandbox_id:str}/files/remove", operation_id="removeFile", status_code=204)
async def remove(cp: Cp, caller: Who, sandbox_id: FromPath[str], data: JSONBody[schema.FilePath]) -> None:
    where = await guest.awake(cp, caller.team_id, sandbox_id)
    await files.remove(cp, where, data.path)


# Two more names: the native ones are streamed anyway.
stream_write = post(
    "/{sandbox_id:str}/files/stream/write",
    operation_id="writeFile",
    status_code=204,
    request_max_body_size=None,
)(native.write.fn)
stream_read = post(
    "/{sandbox_id:str}/files/stream/read", operation_id="readFile", status_code=200, opt=auth.needs("read")
)(native.read.fn)

ROUTES = [listing, make_dir, remove, native.write, native.read, stream_write, stream_read]
