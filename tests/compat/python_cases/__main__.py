"""Runs the cases with whatever `e2b` this interpreter has; one JSON line each. `--list` tells what would be run, and
every public method of the SDK."""

import argparse
import asyncio
import concurrent.futures
import inspect
import json
import os
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from . import (
    code_interpreter,
    commands,
    files,
    lifecycle,
    reaching,
    repositories,
    saving,
    templates,
    terminals,
    watching,
)
from .kit import Case, Sdk, e2b

SUITES = {
    "sdk": (commands, files, watching, terminals, repositories, lifecycle, saving, reaching, templates),
    "code-interpreter": (code_interpreter,),
}
HERE = str(Path(__file__).parent)
CLASSES = (
    "Sandbox",
    "CommandHandle",
    "CommandInputHandle",
    "WatchHandle",
    "SandboxPaginator",
    "SnapshotPaginator",
    "SecretPaginator",
    "Template",
    "Volume",
    "Secret",
)
MODULE_CLASSES = ("files", "commands", "pty", "git")


def cases_of(suite: str, sdk: Sdk) -> list[Case]:
    return [
        case
        for module in SUITES[suite]
        for case in vars(module).values()
        if isinstance(case, Case) and case.only in {None, sdk.half} and sdk.version >= case.since
    ]


def public_names(owner: Any) -> list[str]:
    """Methods and properties; plain values are no methods."""
    names = [name for name in dir(owner) if not name.startswith("_")]
    return [
        name for name in names if not isinstance(inspect.getattr_static(owner, name), (int, str, type(None)))
    ]


def public_methods(sdk: Sdk) -> list[str]:
    found = ["E2B"]
    for name in CLASSES:
        owner = getattr(e2b, f"Async{name}" if sdk.is_async else name, None)
        found += [f"{name}.{method}" for method in public_names(owner)] if owner else []
    for name in MODULE_CLASSES:
        owner = inspect.get_annotations(getattr(sdk.Sandbox, name).fget, eval_str=True)["return"]
        found += [f"{name}.{method}" for method in public_names(owner)]
    return found


def explain(error: BaseException) -> str:
    """The error, the steps inside the case that led to it, and what the case knew at the last one."""
    frames = [
        frame
        for frame, _ in traceback.walk_tb(error.__traceback__)
        if frame.f_code.co_filename.startswith(HERE)
    ]
    steps = [step for step in traceback.extract_tb(error.__traceback__) if step.filename.startswith(HERE)]
    text = "".join(traceback.format_list(steps)) + "".join(traceback.format_exception_only(error))
    known = {
        name: repr(value)[:300] for name, value in frames[-1].f_locals.items() if name not in {"sdk", "self"}
    }
    return text[-3000:] + "".join(f"    {name} = {value}\n" for name, value in known.items())


async def run(case: Case, sdk: Sdk) -> str | None:
    """None, or what went wrong."""
    try:
        async with asyncio.timeout(case.seconds):
            await case.run(sdk)
    except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - whatever an SDK raises is the outcome
        await sdk.renew()
        return explain(error)
    return None


async def run_all(sdk: Sdk, cases: list[Case]) -> None:
    asyncio.get_running_loop().set_default_executor(concurrent.futures.ThreadPoolExecutor(64))
    for case in cases:
        began = time.monotonic()
        error = await run(case, sdk)
        seconds = round(time.monotonic() - began, 2)
        print(json.dumps({"row": case.row, "error": error, "seconds": seconds}), flush=True)
    await sdk.renew()


def unused(case: Case) -> list[str]:
    """Methods that a case claims to be the row of, while nothing beside it calls them."""
    source = inspect.getsource(sys.modules[case.run.__module__])
    return [name for name in (case.method, *case.also) if name.rpartition(".")[2] not in source]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("suite", choices=[*SUITES])
    parser.add_argument("half", choices=["sync", "async"])
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--only", default="", help="a part of the row's text")
    parser.add_argument("--differing", action="store_true", help="only what depends on the mode")
    given = parser.parse_args()
    sdk = Sdk(half=given.half)
    cases = cases_of(given.suite, sdk)
    cases = [case for case in cases if given.only in case.row and (case.domain or not given.differing)]
    if given.list:
        rows = [
            {"row": case.row, "covers": [case.method, *case.also], "unused": unused(case)} for case in cases
        ]
        print(json.dumps({"rows": rows, "methods": public_methods(sdk)}))
        return
    asyncio.run(run_all(sdk, cases))
    sys.stdout.flush()
    os._exit(0)  # a thread of the synchronous half may still wait for an answer that never comes


main()
