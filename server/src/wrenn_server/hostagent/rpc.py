"""The calls of `wire/agent.py` over HTTP: parse, ask the registry, shape. Who may call is checked before anything."""

import re
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import msgspec
import structlog
from litestar import Litestar, Request, Response, delete, get, post, put
from litestar.connection import ASGIConnection
from litestar.exceptions import HTTPException
from litestar.handlers import BaseRouteHandler
from litestar.params import FromPath
from prometheus_client import CollectorRegistry, generate_latest

from wrenn_server.hostagent.credentials import Verifier
from wrenn_server.hostagent.sandbox.registry import Registry
from wrenn_server.model import ids
from wrenn_server.model.errors import BY_STATUS, Internal, InvalidRequest, NotFound, WrennError
from wrenn_server.wire import agent as wire
from wrenn_server.wire import problems

BODY_LIMIT = 4 * 1024 * 1024
"""Bytes; a start carries the environment of the sandbox."""
METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_TEMPLATE = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9._-]{0,127}")

AnyRequest = Request[Any, Any, Any]
T = TypeVar("T")
log = structlog.get_logger()


def build(
    registry: Registry,
    verifier: Verifier,
    health: Callable[[], Awaitable[wire.AgentHealth]],
    metrics: CollectorRegistry,
) -> Litestar:
    """The application. Everything but `/v1/health` and `/metrics` needs a token of the control plane."""

    def signed(connection: ASGIConnection[Any, Any, Any, Any], _: BaseRouteHandler) -> None:
        verifier.check(connection.headers.get("authorization"))

    guards = [signed]

    @get("/v1/health")
    async def get_health() -> Response[bytes]:
        return answer(await health())

    @get("/metrics")
    async def get_metrics() -> Response[bytes]:
        return Response(generate_latest(metrics), media_type=METRICS_TYPE)

    @get("/v1/sandboxes", guards=guards)
    async def list_sandboxes() -> Response[bytes]:
        return answer(wire.SandboxList(registry.reports()))

    @get("/v1/sandboxes/{name:str}", guards=guards)
    async def get_sandbox(name: FromPath[str]) -> Response[bytes]:
        return answer(registry.get(known(name)))

    @put("/v1/sandboxes/{name:str}", guards=guards)
    async def start(name: FromPath[str], request: AnyRequest) -> Response[bytes]:
        return answer(await registry.start(known(name), await body(request, wire.Start)))

    @delete("/v1/sandboxes/{name:str}", guards=guards, status_code=204)
    async def kill(name: FromPath[str], request: AnyRequest) -> None:
        generation = request.query_params.get("generation", "")
        if not generation.isascii() or not generation.isdigit() or len(generation) > 18:
            raise InvalidRequest("the query parameter `generation` must be a number")
        elsewhere = request.query_params.get("elsewhere") == "true"
        await registry.kill(known(name), int(generation), elsewhere=elsewhere)

    @post("/v1/sandboxes/{name:str}/pause", guards=guards)
    async def pause(name: FromPath[str], request: AnyRequest) -> Response[bytes]:
        return answer(await registry.pause(known(name), await body(request, wire.Pause)))

    @post("/v1/sandboxes/{name:str}/resume", guards=guards)
    async def resume(name: FromPath[str], request: AnyRequest) -> Response[bytes]:
        return answer(await registry.resume(known(name), await body(request, wire.Resume)))

    @post("/v1/sandboxes/{name:str}/fork", guards=guards)
    async def fork(name: FromPath[str], request: AnyRequest) -> Response[bytes]:
        return answer(await registry.fork(known(name), await body(request, wire.Fork)))

    @post("/v1/sandboxes/{name:str}/snapshot", guards=guards)
    async def snapshot(name: FromPath[str], request: AnyRequest) -> Response[bytes]:
        return answer(await registry.snapshot(known(name), await body(request, wire.Snapshot)))

    @post("/v1/sandboxes/{name:str}/timeout", guards=guards)
    async def timeout(name: FromPath[str], request: AnyRequest) -> Response[bytes]:
        return answer(await registry.timeout(known(name), await body(request, wire.Timeout)))

    @put("/v1/sandboxes/{name:str}/network", guards=guards)
    async def rewire(name: FromPath[str], request: AnyRequest) -> Response[bytes]:
        return answer(await registry.rewire(known(name), await body(request, wire.Rewire)))

    @post("/v1/sandboxes/{name:str}/store", guards=guards)
    async def store(name: FromPath[str], request: AnyRequest) -> Response[bytes]:
        return answer(await registry.store(known(name), await body(request, wire.Store)))

    @post("/v1/sandboxes/{name:str}/fetch", guards=guards)
    async def fetch(name: FromPath[str], request: AnyRequest) -> Response[bytes]:
        return answer(await registry.fetch(known(name), await body(request, wire.Fetch)))

    @post("/v1/snapshots/{name:str}/store", guards=guards, status_code=204)
    async def store_snapshot(name: FromPath[str]) -> None:
        await registry.store_snapshot(_snapshot(name))

    @delete("/v1/snapshots/{name:str}", guards=guards, status_code=204)
    async def delete_snapshot(name: FromPath[str]) -> None:
        await registry.delete_snapshot(_snapshot(name))

    @post("/v1/templates/{template:str}/prepare", guards=guards)
    async def prepare(template: FromPath[str], request: AnyRequest) -> Response[bytes]:
        if not _TEMPLATE.fullmatch(template):
            raise NotFound("this host has no such template", code="template_not_found")
        return answer(await registry.prepare(template, await body(request, wire.Prepare)))

    @post("/v1/drain", guards=guards)
    async def drain(request: AnyRequest) -> Response[bytes]:
        return answer(wire.SandboxList(await registry.drain((await body(request, wire.Drain)).mode)))

    return Litestar(
        route_handlers=[
            get_health, get_metrics, list_sandboxes, get_sandbox, start, kill, pause, resume, fork, snapshot, timeout,
            rewire, store, fetch, store_snapshot, delete_snapshot, prepare, drain,
        ],
        exception_handlers={Exception: _problem},
        request_max_body_size=BODY_LIMIT,
        openapi_config=None,
        logging_config=None,
    )  # fmt: skip


def known(name: str) -> str:
    """:raises NotFound: not the id of a sandbox"""
    id = ids.parse_sandbox_id(name)
    if id is None:
        raise NotFound("this host has no such sandbox", code="sandbox_not_found")
    return id


def _snapshot(name: str) -> str:
    """:raises NotFound: not the id of a snapshot"""
    id = ids.parse_snapshot_id(name)
    if id is None:
        raise NotFound("this host has no such snapshot", code="snapshot_not_found")
    return id


async def body(request: AnyRequest, kind: type[T]) -> T:
    """:raises InvalidRequest:"""
    try:
        return msgspec.json.decode(await request.body(), type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"the body is not a {kind.__name__}: {error}") from error


def answer(value: msgspec.Struct) -> Response[bytes]:
    return Response(msgspec.json.encode(value), status_code=200, media_type="application/json")


def _problem(request: AnyRequest, error: Exception) -> Response[bytes]:
    request_id = request.headers.get("x-request-id", "")[:64] or ids.new_request_id()
    if isinstance(error, HTTPException):
        kind = BY_STATUS.get(error.status_code, InvalidRequest if error.status_code < 500 else Internal)
        failure = kind(error.detail or "the request cannot be carried out")
    elif isinstance(error, WrennError):
        failure = error
    else:
        log.error(
            "a call failed", action="rpc_error", request_id=request_id, path=request.url.path, exc_info=error
        )
        failure = Internal("the agent failed; its log has the reason under this request id")
    return Response(
        problems.encode(failure, request_id),
        status_code=failure.status,
        media_type="application/json",
        headers={"X-Request-Id": request_id},
    )
