"""The tiny guest of `data/tiny`, assembled: what the KVM probe and the tests of the Firecracker driver boot."""

from pathlib import Path

from wrenn_server.images.cache import Artefact, Cache
from wrenn_server.images.data import guest_file
from wrenn_server.images.progress import Progress
from wrenn_server.linux.process import run

STEP = "tiny guest"
BUILDER = "1"


def artefact() -> Artefact:
    source, script = guest_file("tiny/tiny.S").decode(), guest_file("tiny/tiny.ld").decode()
    return Artefact("tiny", {"builder": BUILDER, "tiny.S": source, "tiny.ld": script})


async def ensure_tiny(cache: Cache, progress: Progress) -> Path:
    """:raises CommandFailed:"""
    wanted = artefact()

    async def build(folder: Path) -> None:
        progress.start(STEP)
        with cache.scratch() as scratch:
            for name in ("tiny.S", "tiny.ld"):
                (scratch / name).write_text(wanted.inputs[name])
            await run(["as", "--64", "-o", "tiny.o", "tiny.S"], cwd=scratch)
            # -n: no page alignment, or the file would be 4 KB of zeroes. Its one segment is code and data on purpose.
            link = ["ld", "-n", "-m", "elf_x86_64", "--no-warn-rwx-segments", "-T", "tiny.ld"]
            await run([*link, "-o", str(folder / "tiny.elf"), "tiny.o"], cwd=scratch)
        progress.done(STEP)

    return await cache.get(wanted, build) / "tiny.elf"
