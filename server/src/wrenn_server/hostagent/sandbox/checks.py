"""What is asked of the bodies of commands, beyond their types."""

from wrenn_server.model import ids
from wrenn_server.model.errors import InvalidRequest, NotFound
from wrenn_server.model.sandbox import Shape as Bounds
from wrenn_server.wire import agent as wire

FORKS_MAX = 100


def shape(body: wire.Start | wire.Prepare) -> None:
    """:raises InvalidRequest:"""
    for name, value, lowest, highest in (
        ("vcpus", body.vcpus, Bounds.VCPUS_MIN, Bounds.VCPUS_MAX),
        ("memory_mb", body.memory_mb, Bounds.MEMORY_MIN, Bounds.MEMORY_MAX),
        ("disk_mb", body.disk_mb, Bounds.DISK_MIN, Bounds.DISK_MAX),
    ):
        if not lowest <= value <= highest:
            raise InvalidRequest(f"{name} must be from {lowest} to {highest}")


def targets(wanted: list[wire.ForkTarget]) -> None:
    """:raises InvalidRequest:"""
    names = [target.id for target in wanted]
    if not 1 <= len(names) <= FORKS_MAX or len(set(names)) != len(names):
        raise InvalidRequest(f"targets must be 1 to {FORKS_MAX} different sandboxes")
    if any(ids.parse_sandbox_id(name) is None for name in names):
        raise InvalidRequest("a target's id is not the id of a sandbox")


def snapshot_id(text: str) -> None:
    """:raises InvalidRequest:"""
    if ids.parse_snapshot_id(text) is None:
        raise InvalidRequest("id is not the id of a snapshot")


def no_snapshot() -> NotFound:
    return NotFound("this host has no such snapshot", code="snapshot_not_found")


def fits(body: wire.Start, *, memory: bool, vcpus: int, memory_mb: int, disk_mb: int) -> None:
    """Whether a machine of the wanted shape can start from a snapshot of that one: memory goes into an equal machine
    alone, and a disk keeps its size.

    :raises InvalidRequest:"""
    wanted = [body.disk_mb, body.vcpus, body.memory_mb]
    saved = [disk_mb, vcpus, memory_mb]
    if wanted == saved or (not memory and wanted[0] == saved[0]):
        return
    raise InvalidRequest(
        f"the snapshot is of a sandbox with {vcpus} vCPUs, {memory_mb} MiB of memory and {disk_mb} MiB of disk, not "
        f"{body.vcpus}, {body.memory_mb} and {body.disk_mb}",
        code="shape_mismatch",
    )
