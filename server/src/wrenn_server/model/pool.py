"""Pools: the capacity that a team has bought, and the refusal when there is not enough of it."""

from dataclasses import dataclass

from wrenn_server.model.errors import WrennError


@dataclass(frozen=True, slots=True)
class Capacity:
    """Memory and disk in MiB."""

    vcpus: int = 0
    memory_mb: int = 0
    disk_mb: int = 0

    def __str__(self) -> str:
        parts = [
            f"{amount} {unit}"
            for amount, unit in (
                (self.vcpus, "vCPUs" if self.vcpus > 1 else "vCPU"),
                (self.memory_mb, "MiB of memory"),
                (self.disk_mb, "MiB of disk"),
            )
            if amount
        ]
        return (
            " and ".join(part for part in (", ".join(parts[:-1]), parts[-1]) if part) if parts else "nothing"
        )


class PoolExhausted(WrennError):
    """Not a `Conflict`: the sandbox has not changed, and looking again at once finds the same."""

    status = 409
    default_code = "pool_exhausted"

    def __init__(
        self,
        missing: Capacity,
        *,
        ahead: int = 0,
        cap: str | None = None,
        never: bool = False,
        hint: str = "",
    ) -> None:
        """
        :param missing: beyond what is free
        :param ahead: how many wait for the pool already
        :param cap: id of the cap that is reached, when the pool itself has room
        :param never: the sandbox is larger than the whole pool or cap
        """
        super().__init__(_message(missing, ahead, cap), hint=hint or _hint(cap, never))
        self.missing = missing
        self.ahead = ahead
        self.cap = cap
        self.never = never


def _message(missing: Capacity, ahead: int, cap: str | None) -> str:
    what = f"cap {cap} in the team's pool is reached" if cap else "the team's pool has no room for this"
    lacks = f": {missing} more than is free" if missing != Capacity() else ""
    waits = f"; {ahead} {'requests wait' if ahead > 1 else 'request waits'} for it already" if ahead else ""
    return what + lacks + waits


def _hint(cap: str | None, never: bool) -> str:
    if never:
        return (
            f"raise the {'cap' if cap else 'pool'}, or ask for a smaller sandbox: it is larger than all of it"
        )
    return f"kill or pause sandboxes, raise the {'cap' if cap else 'pool'}, or ask with wait_sec or make_room"
