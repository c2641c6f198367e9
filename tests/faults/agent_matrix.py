"""Rows of the host agent."""

from faults.matrix import Row, rows

BEFORE_ITS_JOURNAL = dict.fromkeys(("vm.source_found", "vm.slot_held", "vm.egress_enforced"), "gone")
STARTING = BEFORE_ITS_JOURNAL | {
    "vm.intent_written": "failed",
    "vm.restored": "failed",
    "vm.introduced": "failed",
    "vm.recorded": "running",
}
RESUMING = {**dict.fromkeys(STARTING, "paused"), "resume.recorded": "running", "vm.recorded": "running"}
SEALING = {"seal.synced": "running", "seal.manifest_written": "running", "seal.renamed": "paused"}
PAUSING = {
    "pause.intent_written": "running",
    "pause.stopped": "running",
    "pause.begun": "running",
    "pause.memory_written": "running",
    "pause.overlay_moved": "running",
    **SEALING,
    "pause.sealed": "paused",
    "pause.saved": "paused",
    "pause.recorded": "paused",
    "pause.vm_ended": "paused",
}
KILLING: dict[str, str] = dict.fromkeys(("kill.vm_ended", "kill.files_removed", "kill.forgotten"), "gone")

MATRIX: list[Row] = [
    *rows("create", STARTING, quick=("vm.slot_held", "vm.intent_written", "vm.recorded")),
    *rows(
        "create with a VM that stands by",
        {
            "standby.restored": "running",
            "standby.ready": "running",
            "standby.egress_enforced": "gone",
            "standby.intent_written": "failed",
            "standby.woken": "failed",
            "standby.introduced": "failed",
        },
        quick=("standby.intent_written",),
    ),
    *rows(
        "create with a VMM that waits",
        {"spare.started": "running", "spare.taken": "gone", "spare.loaded": "failed"},
        quick=("spare.started", "spare.loaded"),
    ),
    *rows("resume with a VMM that waits", {"spare.taken": "paused", "spare.loaded": "paused"}),
    *rows("fork with a VMM that waits", {"spare.taken": "gone", "spare.loaded": "failed"}),
    *rows("pause", PAUSING, quick=("pause.memory_written", "pause.overlay_moved", "seal.renamed")),
    *rows("pause after a resume", PAUSING, quick=("seal.manifest_written",)),
    *rows(
        "pause of the disk alone",
        {"pause.flushed": "running", "pause.overlay_moved": "running", "pause.sealed": "paused"},
    ),
    *rows("resume", RESUMING, quick=("vm.restored", "resume.recorded")),
    *rows(
        "resume from the disk alone",
        {"vm.intent_written": "paused", "vm.booted": "paused", "resume.recorded": "running"},
    ),
    *rows("resume that boots", {"vm.flushed": "paused", "vm.booted": "paused"}),
    *rows(
        "fork",
        {
            "checkpoint.stopped": "gone",
            "checkpoint.written": "gone",
            "checkpoint.continued": "gone",
            "fork.checkpointed": "gone",
            **STARTING,
            "fork.started": "running",
            "fork.cleared": "running",
        },
        quick=("checkpoint.written", "vm.restored"),
    ),
    *rows(
        "snapshot",
        {
            "snapshot.begun": "gone",
            "checkpoint.stopped": "gone",
            "checkpoint.written": "gone",
            "checkpoint.continued": "gone",
            "snapshot.source_written": "gone",
            "seal.synced": "gone",
            "seal.manifest_written": "gone",
            "seal.renamed": "ready",
            "snapshot.sealed": "ready",
        },
        quick=("seal.manifest_written",),
    ),
    *rows("create from a snapshot", STARTING),
    *rows(
        "delete of a snapshot", {"delete.renamed": "gone", "delete.done": "gone"}, quick=("delete.renamed",)
    ),
    *rows(
        "upload",
        dict.fromkeys(("upload.chunks_sent", "upload.manifest_sent", "upload.marked"), "paused"),
        quick=("upload.manifest_sent",),
    ),
    *rows(
        "fetch",
        {"fetch.files_made": "gone", "fetch.sealed": "gone", "fetch.recorded": "paused"},
        quick=("fetch.sealed",),
    ),
    *rows(
        "resume on another host",
        {
            **dict.fromkeys(
                (
                    "fetch.recorded",
                    "vm.intent_written",
                    "lazy.placed",
                    "lazy.marked",
                    "vm.restored",
                    "vm.introduced",
                ),
                "paused",
            ),
            **dict.fromkeys(("vm.recorded", "resume.recorded", "lazy.whole", "lazy.settled"), "running"),
        },
        quick=("lazy.marked", "lazy.settled"),
    ),
    *rows(
        "kill of a stored one", dict.fromkeys(("doom.noted", "doom.dropped"), "gone"), quick=("doom.noted",)
    ),
    *rows("kill", {"kill.intent_written": "gone", **KILLING}, quick=("kill.intent_written",)),
    *rows("kill of a paused one", KILLING),
    *rows("rewire", {"rewire.intent_written": "running", "rewire.applied": "running"}),
    *rows("timeout", {"timeout.recorded": "running"}),
    *rows(
        "end of its time by a kill",
        dict.fromkeys(
            ("expire.due", "expire.intent_written", "kill.vm_ended", "kill.files_removed", "expire.recorded"),
            "killed",
        ),
    ),
    *rows(
        "end of its time by a pause",
        dict.fromkeys(("expire.due", "pause.memory_written", "seal.renamed", "pause.recorded"), "paused"),
    ),
    *rows(
        "making of a template",
        dict.fromkeys(
            (
                "template.begun",
                "template.disk_made",
                "template.booted",
                "template.memory_written",
                "seal.manifest_written",
                "template.sealed",
            ),
            "gone",
        ),
    ),
    *rows(
        "restart",
        dict.fromkeys(("adopt.slot_kept", "adopt.swept", "adopt.resumed"), "running"),
        quick=("adopt.resumed",),
    ),
    *rows("restart with a stray VM", {"adopt.stray_ended": "failed"}),
]

VMM: list[Row] = [
    *rows(
        "pause",
        {
            "pause.intent_written": "failed",
            "pause.stopped": "failed",
            "pause.begun": "failed",
            "pause.memory_written": "paused",
            "pause.overlay_moved": "paused",
            "seal.renamed": "paused",
            "pause.recorded": "paused",
        },
        quick=("pause.begun",),
    ),
    *rows(
        "resume",
        {"vm.restored": "paused", "vm.introduced": "failed", "resume.recorded": "failed"},
        quick=("vm.restored",),
    ),
    *rows("fork", {"checkpoint.stopped": "gone", "checkpoint.written": "running"}),
    *rows("kill", {"kill.intent_written": "gone"}),
]
"""The VMM of the sandbox dies when the agent is there. What it ran has failed, unless it is saved."""

TWICE, LATE = "twice", "late"
MESSAGES: list[Row] = [
    *rows("create", {TWICE: "running", LATE: "gone"}),
    *rows("pause", {TWICE: "paused", LATE: "running"}, quick=(LATE,)),
    *rows("resume", {TWICE: "running", LATE: "paused"}, quick=(LATE,)),
    *rows("fork", {TWICE: "running", LATE: "gone"}),
    *rows("snapshot", {TWICE: "ready", LATE: "gone"}),
    *rows("delete of a snapshot", {TWICE: "gone"}),
    *rows("kill", {TWICE: "gone"}),
]
"""Its call comes again: at once, or when its work has been undone meanwhile."""

FROM_THE_START = "from the start"
DISK: list[Row] = [
    *rows("create", {FROM_THE_START: "failed"}),
    *rows(
        "pause",
        dict.fromkeys(
            (FROM_THE_START, "pause.stopped", "pause.begun", "pause.memory_written", "pause.overlay_moved"),
            "running",
        ),
        quick=("pause.begun",),
    ),
    *rows("resume", dict.fromkeys((FROM_THE_START, "vm.slot_held"), "paused")),
    *rows("fork", {"checkpoint.stopped": "gone"}),
    *rows("snapshot", {"snapshot.begun": "gone"}),
    *rows("kill", {FROM_THE_START: "gone"}, quick=(FROM_THE_START,)),
    *rows("kill of a paused one", {FROM_THE_START: "gone"}),
]
"""The disk is full to the last block when the agent is there, until the call has come to an end."""
