"""One program with E2B's unmodified SDK, for `bench.sdk`: does what a line on its input names, and tells how long it
took. Run by an interpreter that has the SDK and nothing of ours."""

import importlib
import sys
import time
from pathlib import Path
from typing import Any

PATH = "/home/user/sdk"


def main(data: Path) -> None:
    e2b: Any = importlib.import_module("e2b")
    sandbox = e2b.Sandbox.create(timeout=3600)
    print(sandbox.sandbox_id, flush=True)
    for line in sys.stdin:
        began = time.perf_counter()
        match line.strip():
            case "exec":
                sandbox.commands.run("true")
            case "upload":
                with data.open("rb") as file:
                    sandbox.files.write(PATH, file, request_timeout=600)
            case "download":
                for _ in sandbox.files.read(PATH, format="stream", request_timeout=600):
                    pass
            case unknown:
                raise ValueError(unknown)
        print((time.perf_counter() - began) * 1000, flush=True)
    sandbox.kill()


main(Path(sys.argv[1]))
