"""Requests that schemathesis makes of the description, sent to a running control plane; run in an environment of its own.

Standard input has a Plan, standard output gets a Report. The ids and words of a plan take the place of some of those that
are made up: nearly nothing exists by a generated name.
"""

# pyright: basic, reportMissingImports=false, reportMissingModuleSource=false
# What it imports is in its own environment, not in that of the type checker.

import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypedDict

import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import Case, GenerationMode, Response
from schemathesis.checks import not_a_server_error
from schemathesis.core.failures import Failure, FailureGroup
from schemathesis.schemas import APIOperation
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
KNOWN = 0.8
"""Of the values for which a plan knows real ones, that are taken from there."""
TIMEOUT = 60


class Plan(TypedDict):
    url: str
    description: str
    """Path of the OpenAPI document."""
    operations: dict[str, list[dict[str, str]]]
    """Sets of headers by `METHOD /path`, of which one is sent; in the order in which operations are called."""
    paths: dict[str, list[str]]
    """Parameters of paths."""
    words: dict[str, list[str]]
    """Members of bodies and parameters of queries, at any depth."""
    always: dict[str, list[str]]
    """As `words`, and nothing else is ever sent."""
    bodies: dict[str, list[Any]]
    """By operation, some that it takes: now and then one of them is sent."""
    guest: list[str]
    """Operations of which `guest_error` is no finding: there is no guest."""
    requests: int
    seed: int


class Report(TypedDict):
    sent: int
    answers: dict[str, dict[str, int]]
    findings: list[str]


class Run:
    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.random = random.Random(plan["seed"])
        self.session = requests.Session()
        self.session.trust_env = False
        self.report: Report = {"sent": 0, "answers": {}, "findings": []}
        self.noted: set[tuple[object, ...]] = set()
        """One finding of a kind is enough to read."""
        self.document = json.loads(Path(plan["description"]).read_text())

    def all(self) -> Report:
        schema = schemathesis.openapi.from_dict(self.document)
        schema.config.generation.update(with_security_parameters=False)  # ours would not be looked at
        found = {one.ok().label: one.ok() for one in schema.get_all_operations()}
        modes = (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)
        each = max(1, self.plan["requests"] // (len(self.plan["operations"]) * len(modes)))
        for label in self.plan["operations"]:
            for mode in modes:
                self.some(found[label], mode, each)
        return self.report

    def some(self, operation: APIOperation, mode: GenerationMode, count: int) -> None:
        @seed(self.random.getrandbits(32))
        @settings(
            max_examples=count,
            phases=[Phase.generate],
            database=None,
            deadline=None,
            suppress_health_check=[
                HealthCheck.data_too_large,
                HealthCheck.filter_too_much,
                HealthCheck.large_base_example,
                HealthCheck.too_slow,
            ],
        )
        @given(case=operation.as_strategy(generation_mode=mode))
        def send(case: Case) -> None:
            self.one(case, real=mode is GenerationMode.POSITIVE)

        try:
            send()
        except Unsatisfiable:
            if mode is GenerationMode.POSITIVE:  # nothing is wrong for what takes nothing
                raise

    def one(self, case: Case, *, real: bool) -> None:
        label = case.operation.label
        self.replace(case, real=real)
        headers = {
            **self.random.choice(self.plan["operations"][label]),
            "X-Forwarded-For": f"192.0.2.{self.random.randrange(256)}",  # limits are by address
        }
        try:
            response = case.call(
                self.plan["url"],
                headers=headers,
                session=self.session,
                timeout=TIMEOUT,
                allow_redirects=False,
            )
        except (requests.exceptions.InvalidHeader, UnicodeError, ValueError):
            return  # not to be said in HTTP
        self.report["sent"] += 1
        counts = self.report["answers"].setdefault(label, {})
        counts[str(response.status_code)] = counts.get(str(response.status_code), 0) + 1
        if label in self.plan["guest"] and code(response) == "guest_error":
            return
        try:
            case.validate_response(response, checks=CHECKS)
        except FailureGroup as group:
            for failure in group.exceptions:
                self.note(case, response, failure)
        except Failure as failure:
            self.note(case, response, failure)
        if response.status_code >= 400 and code(response) not in self.codes(label, response.status_code):
            self.note(case, response, ValueError("this code is not described"))

    def codes(self, label: str, status: int) -> list[str]:
        method, _, path = label.partition(" ")
        answer = self.document["paths"][path][method.lower()]["responses"].get(str(status), {})
        if "$ref" in answer:
            answer = self.document["components"]["responses"][answer["$ref"].rpartition("/")[2]]
        return answer.get("x-codes", [])

    def note(self, case: Case, response: Response, failure: BaseException) -> None:
        kind = (case.operation.label, type(failure), response.status_code, code(response))
        if kind in self.noted:
            return
        self.noted.add(kind)
        body = response.content[:400].decode(errors="replace")
        self.report["findings"].append(
            f"{type(failure).__name__}: {failure}\n{case.as_curl_command()}\n{response.status_code} {body}"
        )

    def replace(self, case: Case, *, real: bool) -> None:
        for name, value in (case.path_parameters or {}).items():
            if (real or self.random.random() < 0.5) and isinstance(value, str):
                case.path_parameters[name] = self.known(self.plan["paths"], name, value)
        if isinstance(case.query, dict):
            case.query = dict(self.members(case.query))
        bodies = self.plan["bodies"].get(case.operation.label)
        if bodies and real and self.random.random() < 0.5:
            case.body = self.random.choice(bodies)
        elif isinstance(case.body, (dict, list)):
            case.body = self.inside(case.body)

    def inside(self, value: Any) -> Any:
        match value:
            case dict():
                return dict(self.members(value))
            case list():
                return [self.inside(item) for item in value]
            case _:
                return value

    def members(self, values: dict[str, Any]) -> Iterator[tuple[str, Any]]:
        for name, value in values.items():
            if name in self.plan["always"] and isinstance(value, str):
                yield name, self.random.choice(self.plan["always"][name])
            elif isinstance(value, str):
                yield name, self.known(self.plan["words"], name, value)
            else:
                yield name, self.inside(value)

    def known(self, values: dict[str, list[str]], name: str, value: str) -> str:
        if name in values and self.random.random() < KNOWN:
            return self.random.choice(values[name])
        return value


def code(response: Response) -> str:
    try:
        return response.json()["error"]["code"]
    except (ValueError, LookupError, TypeError):
        return ""


if __name__ == "__main__":
    json.dump(Run(json.load(sys.stdin)).all(), sys.stdout)
