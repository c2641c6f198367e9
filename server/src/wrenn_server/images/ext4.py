"""ext4 images without mounting them: made from a folder by mke2fs, changed by debugfs."""

import os
from collections.abc import Mapping
from pathlib import Path

from wrenn_server.linux.process import run

# All features by name: what mke2fs takes by default differs from release to release. No journal, because images are
# mounted read-only.
FEATURES = ",".join(
    (
        *(
            "none",
            "64bit",
            "dir_index",
            "dir_nlink",
            "ext_attr",
            "extent",
            "extra_isize",
            "filetype",
            "flex_bg",
        ),
        *("huge_file", "large_file", "metadata_csum", "sparse_super"),
    )
)
BLOCK = 4096
INODE = 256
# For a newer envd, and for what `debugfs` needs to replace one.
SLACK_BYTES = 32 << 20
SPARE_INODES = 256


class BadImage(RuntimeError):
    """The image does not hold what was put into it."""


async def make(image: Path, *, tree: Path, label: str, uuid: str, epoch: int) -> None:
    """Makes `image` of the content of `tree`, owners, modes, links and extended attributes included.

    `epoch` (Unix seconds) is the time of everything in it that is not dated by `tree`.
    """
    blocks, inodes = measure(tree)
    inodes += SPARE_INODES
    metadata = inodes * INODE // BLOCK + blocks // 100 + 256
    image.touch()
    os.truncate(image, blocks_to_mib(blocks + metadata) * (1 << 20) + SLACK_BYTES)
    await run(
        [
            *(
                "mke2fs",
                "-q",
                "-F",
                "-t",
                "ext4",
                "-b",
                str(BLOCK),
                "-I",
                str(INODE),
                "-N",
                str(inodes),
                "-m",
                "0",
            ),
            *("-O", FEATURES, "-L", label, "-U", uuid),
            *("-E", f"hash_seed={uuid},root_owner=0:0,lazy_itable_init=0,nodiscard"),
            *("-d", str(tree), str(image)),
        ],
        env=_fixed_time(epoch),
    )


def blocks_to_mib(blocks: int) -> int:
    return -(-blocks * BLOCK // (1 << 20))


def measure(tree: Path) -> tuple[int, int]:
    """(blocks, inodes) that the content of `tree` takes. Hard links count once."""
    blocks = inodes = 0
    seen: set[int] = set()
    waiting = [str(tree)]
    while waiting:
        with os.scandir(waiting.pop()) as entries:
            for entry in entries:
                info = entry.stat(follow_symlinks=False)
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)
                if info.st_ino not in seen:
                    seen.add(info.st_ino)
                    inodes += 1
                    blocks += -(-info.st_size // BLOCK)
    return blocks, inodes


async def put(image: Path, files: Mapping[str, Path], *, epoch: int) -> None:
    """Puts programs (mode 0755, owned by root) into `image`, over those of the same path; their folders must exist.

    :raises BadImage: an unsound file system, or one too full.
    """
    fields = [("mode", "0100755"), ("uid", "0"), ("gid", "0")]
    fields += [(field, f"@{epoch}") for field in ("atime", "ctime", "mtime", "crtime")]
    commands: list[str] = []
    for target, source in files.items():
        folder, _, name = target.rpartition("/")
        # /sbin may be a symbolic link, which debugfs follows in the middle of a path only.
        commands += [f'cd "{folder}/."', f'rm "{name}"', f'write "{source}" "{name}"']
        commands += [f'set_inode_field "{name}" {field} {value}' for field, value in fields]
    script = "\n".join(commands) + "\n"
    await run(
        ["debugfs", "-w", "-f", "/dev/stdin", str(image)], input=script.encode(), env=_fixed_time(epoch)
    )
    # debugfs ends with 0 whatever its commands did.
    check = await run(["e2fsck", "-fn", str(image)], check=False)
    if check.returncode != 0:
        raise BadImage(f"{image.name} is not sound: {check.stdout.decode(errors='replace')[-2000:]}")
    for target, source in files.items():
        content = (await run(["debugfs", "-R", f'cat "{target}"', str(image)])).stdout
        if content != source.read_bytes():
            raise BadImage(f"{target} did not fit into {image.name}")


def _fixed_time(epoch: int) -> dict[str, str]:
    """The first is e2fsprogs' own and old, the second is everybody's and new."""
    return {"E2FSPROGS_FAKE_TIME": str(epoch), "SOURCE_DATE_EPOCH": str(epoch)}
