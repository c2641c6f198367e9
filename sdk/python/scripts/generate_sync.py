"""Writes `wrenn/_sync` from `wrenn/_async`: the same code without waiting.

    python scripts/generate_sync.py            # write
    python scripts/generate_sync.py --check    # exit 1 when a file differs

The asynchronous code keeps to what these replacements can turn; what differs beyond them is a pair of names in
`wrenn/_concurrency.py`.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent / "src" / "wrenn"

REPLACEMENTS = [
    (r"\basync (def|with|for) ", r"\1 "),
    (r"\bawait ", ""),
    (r"__a(enter|exit|iter|next)__", r"__\1__"),
    (r"\bStopAsyncIteration\b", "StopIteration"),
    (r"\basynccontextmanager\b", "contextmanager"),
    (r"\baiter_raw\b", "iter_raw"),
    (r"\baclose\b", "close"),
    (r"\banext\b", "next"),
    (r"\bAsync([A-Z]\w*)", r"\1"),
    (r"\basync_(\w+)", r"\1"),
    (r"\b_async\b", "_sync"),
]
PACKAGE_DOC = '"""The synchronous flavour, generated from `_async`: change it there."""\n'
NOTICE = "# Generated from _async/{name} by scripts/generate_sync.py: change it there.\n\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing, tell what differs")
    check: bool = parser.parse_args().check
    wanted = generated()
    found = {path.name: path.read_text() for path in (PACKAGE / "_sync").glob("*.py")}
    stale = [name for name in sorted(wanted | found) if wanted.get(name) != found.get(name)]
    for name in stale:
        print(f"_sync/{name}", "is not what _async gives" if check else "written")  # noqa: T201 a script
        if not check:
            replace(PACKAGE / "_sync" / name, wanted.get(name))
    return 1 if check and stale else 0


def generated() -> dict[str, str]:
    """The files of `_sync`, by name, in the form that the linter wants."""
    with tempfile.TemporaryDirectory() as folder:
        for source in (PACKAGE / "_async").glob("*.py"):
            text = (
                PACKAGE_DOC if source.name == "__init__.py" else synchronous(source.read_text(), source.name)
            )
            (Path(folder) / source.name).write_text(text)
        sort = [
            "check",
            "--select",
            "I,F401",
            "--fix",
            "--config",
            'lint.isort.known-first-party = ["wrenn"]',
        ]
        for command in (sort, ["format"]):
            options = ["--quiet", "--isolated", "--line-length=110", "--target-version=py311", folder]
            subprocess.run([sys.executable, "-m", "ruff", *command, *options], check=True)
        return {path.name: path.read_text() for path in Path(folder).glob("*.py")}


def synchronous(text: str, name: str) -> str:
    for pattern, replacement in REPLACEMENTS:
        text = re.sub(pattern, replacement, text)
    return NOTICE.format(name=name) + text


def replace(path: Path, text: str | None) -> None:
    if text is None:
        path.unlink()
    else:
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)


if __name__ == "__main__":
    sys.exit(main())
