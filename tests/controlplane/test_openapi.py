"""The description that is checked in is that of the code."""

from pathlib import Path
from typing import Any

import pytest
from httpx2 import AsyncClient

from support.api import DESCRIPTION, resolved, validate
from support.simulated import World
from wrenn_server.controlplane.api import openapi
from wrenn_server.controlplane.api.app import litestar

OPERATIONS: dict[str, dict[str, Any]] = {
    f"{method} {path}": operation
    for path, item in DESCRIPTION["paths"].items()
    for method, operation in item.items()
}
FILE = Path(__file__).resolve().parents[2] / "api/openapi.json"


def test_the_file_is_up_to_date() -> None:
    # `python -m wrenn_server.controlplane.api.openapi api/openapi.json` writes it anew.
    assert FILE.read_text() == openapi.as_text(openapi.describe(litestar(described=True)))


async def test_it_is_served(world: World) -> None:
    async with AsyncClient(trust_env=False) as client:
        assert (await client.get(f"{world.url}/openapi.json")).json() == DESCRIPTION


def test_every_operation_is_described() -> None:
    names = [
        operation["operationId"] for path in DESCRIPTION["paths"].values() for operation in path.values()
    ]
    assert len(set(names)) == len(names)
    for path in DESCRIPTION["paths"].values():
        for operation in path.values():
            assert operation.get("description"), operation["operationId"]


def test_every_problem_is_described() -> None:
    """By its code; `support/api.py` holds each answer of each test against this."""
    examples = DESCRIPTION["components"]["examples"]
    for code, example in examples.items():
        validate("#/components/schemas/Problem", example["value"])
        assert example["value"]["error"]["code"] == code
    for label, operation in OPERATIONS.items():
        problems = {s: resolved(a) for s, a in operation["responses"].items() if s >= "4"}
        assert problems, label
        for status, answer in problems.items():
            assert answer["x-codes"], f"{label} {status}"
            assert set(answer["x-codes"]) <= set(examples), f"{label} {status}: a code without an example"


@pytest.mark.parametrize("label", OPERATIONS)
def test_what_is_json_has_an_example(label: str) -> None:
    operation = OPERATIONS[label]
    method, _, path = label.partition(" ")
    pointer = f"#/paths/{path.replace('/', '~1').replace('{', '%7B').replace('}', '%7D')}/{method}"
    parts = {f"responses/{s}": a for s, a in operation["responses"].items() if s.startswith("2")}
    parts = dict(list(parts.items())[:1])  # `exec` has a second one, in the background
    body = operation.get("requestBody")
    if body is not None and (body.get("required") or "example" in str(body)):
        parts["requestBody"] = body
    for name, part in parts.items():
        content = part.get("content", {}).get("application/json")
        if content is not None:
            schema = f"{pointer}/{name}/content/application~1json/schema"
            validate(schema, content["example"])
