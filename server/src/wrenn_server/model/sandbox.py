"""The life of a sandbox.

```
            create            pause                    resume
 (nothing) ───────► starting ───────► running ──► pausing ──► paused ──► resuming ──► running
                        │                │ ▲                    │             │
                        │                │ └── fork: stays running            │
                        ▼                ▼                      ▼             ▼
                      failed ◄──────── lost (its host is gone; back to what the host reports when it returns)
 any state ── kill ──► killing ──► killed (row kept, resources gone)
```

A failed pause goes back to running, a failed resume back to paused.
"""

from enum import StrEnum


class State(StrEnum):
    STARTING = "starting"
    RUNNING = "running"
    PAUSING = "pausing"
    PAUSED = "paused"
    RESUMING = "resuming"
    LOST = "lost"
    FAILED = "failed"
    KILLING = "killing"
    KILLED = "killed"

    @property
    def is_final(self) -> bool:
        """No way leads out, and no resources are held on any host."""
        return self in {State.FAILED, State.KILLED}

    @property
    def is_transitional(self) -> bool:
        """Somebody is working on it; a crash of that somebody must be repaired by a reconciler."""
        return self in {State.STARTING, State.PAUSING, State.RESUMING, State.KILLING}


TRANSITIONS: dict[State, frozenset[State]] = {
    State.STARTING: frozenset({State.RUNNING, State.FAILED, State.LOST, State.KILLING}),
    State.RUNNING: frozenset(
        {State.PAUSING, State.LOST, State.FAILED, State.KILLING, State.KILLED, State.PAUSED}
    ),
    State.PAUSING: frozenset(
        {State.PAUSED, State.RUNNING, State.LOST, State.FAILED, State.KILLING, State.KILLED}
    ),
    State.PAUSED: frozenset({State.RESUMING, State.LOST, State.FAILED, State.KILLING}),
    State.RESUMING: frozenset({State.RUNNING, State.PAUSED, State.LOST, State.FAILED, State.KILLING}),
    State.LOST: frozenset(
        {State.RESUMING, State.RUNNING, State.PAUSED, State.FAILED, State.KILLING, State.KILLED}
    ),
    State.FAILED: frozenset({State.KILLING}),
    State.KILLING: frozenset({State.KILLED}),
    State.KILLED: frozenset(),
}
"""What may follow what. running → killed and running → paused are the host's own acts at the end of the time to live;
pausing → killed, when that was before the pause reached it. lost → resuming: its owner goes back to what is in the
object store."""


def may(before: State, after: State) -> bool:
    return after in TRANSITIONS[before]


class Reason(StrEnum):
    """Why a sandbox ended or failed."""

    USER = "user"
    TIMEOUT = "timeout"
    OOM_KILLED = "oom_killed"
    DISK_FULL = "disk_full"
    KERNEL_PANIC = "kernel_panic"
    GUEST_SHUTDOWN = "guest_shutdown"
    VMM_CRASHED = "vmm_crashed"
    HOST_LOST = "host_lost"
    DRAIN = "drain"
    """Of a paused one: its host is to become empty, and it goes on on another at once."""
    ROLLBACK = "rollback"
    """Of a paused one: it goes on at once, from a snapshot that was taken of it earlier."""
    START_FAILED = "start_failed"
    RESUME_FAILED = "resume_failed"


class Activity(StrEnum):
    """What can put off the end of a sandbox's time to live."""

    API = "api"
    """Its programs and files are used: calls of envd, by whatever way."""
    TRAFFIC = "traffic"
    """Bytes go to or from its own ports."""
    TERMINAL = "terminal"
    """Somebody is attached to a terminal in it."""
    COMMAND = "command"
    """A program that was started by envd runs."""


RENEWED = ("random", "clock", "hostname", "machine_id", "boot_id", "ssh_host_keys", "token")
"""What a guest can have renewed of what makes it one of its kind, in its own words."""


class Shape:
    """Bounds and defaults of a sandbox's size. Memory and disk in MiB."""

    VCPUS_DEFAULT, VCPUS_MIN, VCPUS_MAX = 1, 1, 32
    MEMORY_DEFAULT, MEMORY_MIN, MEMORY_MAX = 512, 128, 65536
    DISK_DEFAULT, DISK_MIN, DISK_MAX = 5120, 512, 102400
    TIMEOUT_MAX = 31 * 24 * 3600
    """Seconds. 0 means: never ends by itself."""
