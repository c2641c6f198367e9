"""The life of a snapshot.

```
 (nothing) ── create ──► creating ──► ready ── delete ──► deleting ──► (nothing)
                            │                                ▲
                            └── its host failed, or whoever made it died ──┘
```

A snapshot that was not finished is never used: whatever its host has of it is removed.
"""

from enum import StrEnum


class SnapshotState(StrEnum):
    CREATING = "creating"
    READY = "ready"
    DELETING = "deleting"
