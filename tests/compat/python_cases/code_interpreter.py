"""`e2b-code-interpreter` on the base template: all but the execution of code, for which its own template is needed."""

import importlib
from typing import Any

from .kit import Sdk, case, e2b, raises


def sandbox_class(sdk: Sdk) -> Any:
    package: Any = importlib.import_module("e2b_code_interpreter")
    return package.AsyncSandbox if sdk.is_async else package.Sandbox


@case("CodeInterpreter.create", "from the base template; commands and files work", domain=True)
async def base(sdk: Sdk) -> None:
    sandbox = await sdk(sandbox_class(sdk).create, "base", timeout=60)
    try:
        assert (await sdk(sandbox.commands.run, "echo hello")).stdout == "hello\n"
        await sdk(sandbox.files.write, "a", "text")
        assert await sdk(sandbox.files.read, "a") == "text"
    finally:
        await sdk(sandbox.kill)


@case("CodeInterpreter.create", "without its own template: a clear refusal that names it")
async def own_template(sdk: Sdk) -> None:
    with raises(e2b.SandboxException, saying="code-interpreter-v1"):
        await sdk(sandbox_class(sdk).create)
