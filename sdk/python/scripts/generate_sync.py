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
    stale = [path for path, text in generated().items() if not path.exists() or path.read_text() != text]
    stale += [path for path in sorted((PACKAGE / "_sync").glob("*.py")) if path not in generated()]
    for path in stale:
        print(f"{path} is not what _async gives" if check else f"wrote {path}")  # noqa: T201 a script
        if not check:
            write(path)
    return 1 if check and stale else 0


def generated() -> dict[Path, str]:
    """Every file that belongs into `_sync`, with its text."""
    files: dict[Path, str] = {}
    for source in sorted((PACKAGE / "_async").glob("*.py")):
        text = PACKAGE_DOC if source.name == "__init__.py" else synchronous(source.read_text(), source.name)
        files[PACKAGE / "_sync" / source.name] = text
    return files


def synchronous(text: str, name: str) -> str:
    for pattern, replacement in REPLACEMENTS:
        text = re.sub(pattern, replacement, text)
    return tidy(NOTICE.format(name=name) + text)


def tidy(text: str) -> str:
    """In the form that the linter wants, whatever its configuration is where this runs."""
    sort = ["check", "--select", "I,F401", "--fix", "--config", 'lint.isort.known-first-party = ["wrenn"]']
    for arguments in (sort, ["format"]):
        command = [*arguments, "--quiet", "--isolated", "--line-length=110", "--target-version=py311"]
        text = subprocess.run(
            [sys.executable, "-m", "ruff", *command, "--stdin-filename", "generated.py", "-"],
            input=text,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    return text


def write(path: Path) -> None:
    text = generated().get(path)
    if text is None:
        path.unlink()
    else:
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)


if __name__ == "__main__":
    sys.exit(main())
