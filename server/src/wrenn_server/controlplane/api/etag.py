"""Documents that a client may have already: with an `ETag`, and 304 for whoever has it (RFC 9110, 8.8.3 and 13.1.2)."""

import hashlib
from typing import Any

from litestar import Request, Response


def document(request: Request[Any, Any, Any], content: bytes, media_type: str) -> Response[bytes]:
    """May be kept, and is asked for again before each use."""
    tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
    headers = {"ETag": tag, "Cache-Control": "no-cache"}
    # A proxy that compresses marks its own as weak ones of ours: the same for this purpose.
    known = {one.strip().removeprefix("W/") for one in request.headers.get("if-none-match", "").split(",")}
    if known & {tag, "*"}:
        return Response(b"", status_code=304, headers=headers)
    return Response(content, media_type=media_type, headers=headers)
