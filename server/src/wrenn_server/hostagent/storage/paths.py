"""Where everything of one install lies. Nobody else joins path names.

```
<data>/kernels/vmlinux, initrd           what all guests boot
<data>/images/<template>.ext4            root file systems
<data>/images/.pinned/<name>.ext4        hard links: the content that something here lies on, whatever the name means now
<data>/sandboxes/<id>/                   state.json, overlay.ext4, and lazy/ while that is being filled
<data>/templates/<key>/                  sealed: memory/, overlay.ext4
<data>/templates/.blank/<mb>.ext4        empty overlays
<data>/snapshots/<id>/<generation>/      sealed: memory/ or not, overlay.ext4
<data>/named/<snapshot id>/              sealed: memory/ or not, overlay.ext4, source.json
<data>/store/shared/<digest>             hard links: files that several snapshots of the object store have as one
<data>/store/doomed/<id>                 what is gone here and has still to go from the object store
<data>/run/<id>/                         sockets of the VMM
```
"""

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from wrenn_server.model import ids

OVERLAY = "overlay.ext4"
_TEMPLATE = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Paths:
    data: Path
    """Absolute."""
    kernel: Path
    initrd: Path
    images: Path
    sandboxes: Path

    @classmethod
    def under(
        cls,
        data: Path,
        *,
        kernel: Path | None = None,
        initrd: Path | None = None,
        images: Path | None = None,
        sandboxes: Path | None = None,
    ) -> Self:
        kernel = kernel or data / "kernels/vmlinux"
        return cls(
            data=data,
            kernel=kernel,
            initrd=initrd or kernel.parent / "initrd",
            images=images or data / "images",
            sandboxes=sandboxes or data / "sandboxes",
        )

    @property
    def tag(self) -> str:
        """Marks every host object of this install: several live on one machine."""
        return hashlib.sha256(os.fspath(self.data.absolute()).encode()).hexdigest()[:4]

    @property
    def templates(self) -> Path:
        return self.data / "templates"

    @property
    def blanks(self) -> Path:
        return self.templates / ".blank"

    @property
    def pinned(self) -> Path:
        return self.images / ".pinned"

    @property
    def snapshots(self) -> Path:
        return self.data / "snapshots"

    @property
    def named(self) -> Path:
        return self.data / "named"

    @property
    def shared(self) -> Path:
        return self.data / "store/shared"

    @property
    def doomed(self) -> Path:
        return self.data / "store/doomed"

    @property
    def run(self) -> Path:
        return self.data / "run"

    def sandbox(self, id: str) -> Path:
        return self.sandboxes / _checked(id)

    def overlay(self, id: str) -> Path:
        return self.sandbox(id) / OVERLAY

    def lazy(self, id: str) -> Path:
        return self.sandbox(id) / "lazy"

    def place(self, id: str) -> Path:
        return self.run / id

    def snapshot(self, id: str, generation: int) -> Path:
        return self.snapshots / _checked(id) / str(generation)

    def named_snapshot(self, id: str) -> Path:
        if ids.parse_snapshot_id(id) is None:
            raise ValueError(f"not a snapshot id: {id!r}")
        return self.named / id

    def prepare(self) -> None:
        """Makes the directories. Root alone enters those with tenants' data; images are read by every VM's user.

        :raises OSError:"""
        for private in (
            self.sandboxes, self.templates, self.blanks, self.snapshots, self.named, self.shared, self.doomed, self.run,
        ):  # fmt: skip
            private.mkdir(mode=0o700, parents=True, exist_ok=True)
            private.chmod(0o700)
        self.pinned.mkdir(parents=True, exist_ok=True)


def is_template_name(text: str) -> bool:
    return _TEMPLATE.fullmatch(text) is not None


def _checked(id: str) -> str:
    if ids.parse_sandbox_id(id) is None:
        raise ValueError(f"not a sandbox id: {id!r}")
    return id
