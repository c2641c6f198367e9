"""Where a request to the public port goes, and what a sandbox may see of it. Pure.

A sandbox is named by the first label of Host, `{port}-{id}.<anything>`, or by the headers `E2b-Sandbox-Id` and
`E2b-Sandbox-Port`, which E2B's SDKs send to one fixed address. The host name wins. All else is the API's.
"""

import base64
import binascii
import hmac
import re
from functools import lru_cache
from urllib.parse import parse_qsl

import msgspec

from wrenn_server.edge import answers
from wrenn_server.edge.target import Answer
from wrenn_server.model.ids import SandboxId, parse_sandbox_id
from wrenn_server.wire import envd
from wrenn_server.wire.head import Head, ResponseHead

_LABEL = re.compile(r"([0-9]+)-([a-z0-9]+)", re.ASCII)
_PORT = re.compile(r"[1-9][0-9]{0,4}", re.ASCII)
_ENVD_PATH = re.compile(
    r"/(?:health|metrics|envs|files|files/compose|process\.Process/[A-Za-z]+|filesystem\.Filesystem/[A-Za-z]+)"
)
"""An allow-list, of paths as they are on the wire: `/init` and its like have no spelling that gets through."""
TRAFFIC_TOKEN = "e2b-traffic-access-token"  # noqa: S105 - the name of a header
_SECRET_HEADERS = frozenset({"x-api-key", "x-host-token", TRAFFIC_TOKEN})
_PLATFORM_KEY = re.compile(r"bearer\s+(?:wrn|e2b)_|\b(?:wrn|e2b)_[0-9a-f]{40}", re.IGNORECASE)
_JWT = re.compile(
    r"bearer\s+[A-Za-z0-9_\-]+\.([A-Za-z0-9_\-]+)\.[A-Za-z0-9_\-]*\s*", re.IGNORECASE | re.ASCII
)
_OPERATIONS = {"GET": "read", "POST": "write"}
_SIGNATURE = re.compile(r"v1_([A-Za-z0-9+/]{43})", re.ASCII)
_EXPIRATION = re.compile(r"[0-9]{0,12}", re.ASCII)
_ISSUER = "wrenn"
_COOKIE_PREFIX = "wrenn_"


class ToApi(msgspec.Struct, frozen=True):
    pass


class ToSandbox(msgspec.Struct, frozen=True):
    id: SandboxId
    port: int
    host: str
    """The Host header."""


class SignedFile(msgspec.Struct, frozen=True):
    """`digest` is SHA-256 of `before`, the sandbox's envd token, and `after`."""

    digest: bytes
    before: str
    after: str
    expires: int | None
    """Unix seconds."""


class Refuse(msgspec.Struct, frozen=True):
    answer: Answer


def route(head: Head) -> ToApi | ToSandbox | Refuse:
    """:param head: as the listener hands it on: origin-form target, one Host"""
    host = head.fields.get("host", "")
    named = _named(host)
    if named is not None:
        port, sandbox_id = named
    elif "e2b-sandbox-id" in head.fields or "e2b-sandbox-port" in head.fields:
        sandbox_id = head.fields.get("e2b-sandbox-id", "")
        port = head.fields.get("e2b-sandbox-port", "")
        if not sandbox_id or not port:
            missing = "E2b-Sandbox-Port" if sandbox_id else "E2b-Sandbox-Id"
            return Refuse(answers.bad_address(f"missing header {missing}"))
    elif head.method == "CONNECT":
        return Refuse(answers.problem(405, "method_not_allowed", "this port is no forward proxy"))
    else:
        return ToApi()
    return _to_sandbox(head, host, port, sandbox_id)


@lru_cache(maxsize=4096)
def _named(host: str) -> tuple[str, str] | None:
    """Port and sandbox, as they are written in the host name."""
    label = _LABEL.fullmatch(host.lower().partition(".")[0].partition(":")[0])
    return None if label is None else (label[1], label[2])


def _to_sandbox(head: Head, host: str, port: str, sandbox_id: str) -> ToSandbox | Refuse:
    number = int(port) if _PORT.fullmatch(port) else 0
    if not 1 <= number <= 65535:
        return Refuse(answers.bad_address("the port of the sandbox is not a number from 1 to 65535"))
    known = parse_sandbox_id(sandbox_id)
    if known is None:
        return Refuse(answers.sandbox_not_found(sandbox_id[:64]))
    if head.method == "CONNECT":
        return Refuse(
            answers.problem(405, "method_not_allowed", "a sandbox's port takes requests, not tunnels")
        )
    if number == envd.PORT and not _ENVD_PATH.fullmatch(head.path):
        return Refuse(answers.no_such_path())
    return ToSandbox(known, number, host)


def carries(head: Head, traffic_token: str) -> bool:
    """The request has what a private sandbox asks for. Takes as long for a wrong token as for the right one."""
    given = head.fields.get(TRAFFIC_TOKEN, "")
    return hmac.compare_digest(given.encode("latin-1"), traffic_token.encode())


def signed_file(head: Head) -> SignedFile | None:
    """A link to a file that names no sandbox: what E2B's SDKs make of one fixed address (`download_url`, `upload_url`)."""
    operation = _OPERATIONS.get(head.method)
    if operation is None or head.path != "/files":
        return None
    try:
        query = dict(parse_qsl(head.target.partition("?")[2], keep_blank_values=True, max_num_fields=8))
    except ValueError:
        return None
    signature = _SIGNATURE.fullmatch(query.get("signature", ""))
    expiration = query.get("signature_expiration", "")
    if signature is None or not _EXPIRATION.fullmatch(expiration):
        return None
    return SignedFile(
        digest=base64.b64decode(signature[1] + "="),
        before=f"{query.get('path', '')}:{operation}:{query.get('username', '')}:",
        after=f":{expiration}" if expiration else "",
        expires=int(expiration) if expiration else None,
    )


def masked(head: Head, host: str) -> Head:
    """With another Host, for a server in the sandbox that knows itself by that name alone."""
    kept = [line for line in head.headers if line[0].lower() != "host"]
    return Head.of(head.method, head.target, [("Host", host), *kept], head.minor)


def for_sandbox(head: Head) -> Head:
    """Without our credentials: code in a sandbox must not learn the keys of the platform that it is called with.

    E2B's own `Authorization: Basic user:` and everything else is the sandbox's business and stays.
    """
    if (
        _SECRET_HEADERS.isdisjoint(head.fields)
        and "authorization" not in head.fields
        and "cookie" not in head.fields
    ):
        return head
    kept: list[tuple[str, str]] = []
    for name, value in head.headers:
        lower = name.lower()
        if lower in _SECRET_HEADERS or (lower == "authorization" and is_platform_credential(value)):
            continue
        seen = _foreign_cookies(value) if lower == "cookie" else value
        if seen or seen == value:
            kept.append((name, seen))
    return Head.of(head.method, head.target, kept, head.minor)


def from_sandbox(head: ResponseHead) -> ResponseHead:
    """Without cookies of our names: a sandbox shares a domain with the platform and could plant a session."""
    if "set-cookie" not in head.fields:
        return head
    kept = [
        (name, value)
        for name, value in head.headers
        if name.lower() != "set-cookie" or not _is_platform_cookie(value)
    ]
    return ResponseHead.of(head.status, kept, head.reason, head.minor)


def is_platform_credential(authorization: str) -> bool:
    """True for an API key or a JWT of ours, valid or not, in the value of an Authorization header."""
    if _PLATFORM_KEY.search(authorization):
        return True
    jwt = _JWT.fullmatch(authorization)
    if jwt is None:
        return False
    claims = jwt[1]
    try:
        decoded = msgspec.json.decode(
            base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4)), type=_Claims
        )
    except (binascii.Error, msgspec.DecodeError):
        return False
    return decoded.iss == _ISSUER


class _Claims(msgspec.Struct):
    iss: object = None


def _foreign_cookies(value: str) -> str:
    return "; ".join(
        part for cookie in value.split(";") if (part := cookie.strip()) and not _is_platform_cookie(part)
    )


def _is_platform_cookie(cookie: str) -> bool:
    name = cookie.partition("=")[0].strip().lower()
    return name.removeprefix("__host-").removeprefix("__secure-").startswith(_COOKIE_PREFIX)
