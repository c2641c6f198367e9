"""A multipart form with `path` and `file`, read as it comes: the file is never collected."""

from collections.abc import AsyncGenerator, AsyncIterator
from email.message import Message

from multipart import MultipartError, MultipartSegment, PushMultipartParser

from wrenn_server.model.errors import InvalidRequest

_MAX_PATH = 4096

Event = MultipartSegment | bytes | bytearray | None


class Upload:
    """`await Upload.begin(...)`, then `path`, then `content()` once."""

    def __init__(self, path: str, events: AsyncIterator[Event]) -> None:
        self.path = path
        self._events = events

    @classmethod
    async def begin(cls, content_type: str, body: AsyncIterator[bytes]) -> "Upload":
        """Reads up to the file.

        :raises InvalidRequest: not such a form
        """
        header = Message()
        header["content-type"] = content_type
        boundary = header.get_boundary()
        if header.get_content_type() != "multipart/form-data" or not boundary:
            raise InvalidRequest("expected multipart/form-data with the fields `path` and `file`")
        events = _events(boundary, body)
        path: str | None = None
        async for event in events:
            if not isinstance(event, MultipartSegment):
                continue
            if event.name == "path" and path is None:
                path = await _text(events)
            elif event.name == "file" and path is not None:
                return cls(path, events)
            elif event.name == "file":
                raise InvalidRequest("the field `path` must come before `file`")
            else:
                raise InvalidRequest(f"unexpected field {_name(event)}")
        raise InvalidRequest("the form has no field " + ("`file`" if path is not None else "`path`"))

    async def content(self) -> AsyncGenerator[bytes, None]:
        """:raises InvalidRequest: the form breaks off, or goes on after the file"""
        inside = True
        async for event in self._events:
            if isinstance(event, MultipartSegment):
                raise InvalidRequest(f"unexpected field {_name(event)} after the file")
            if event is None:
                inside = False
            elif inside:
                yield bytes(event)


def _name(segment: MultipartSegment) -> str:
    return repr(str(segment.name)[:64])


async def _events(boundary: str, body: AsyncIterator[bytes]) -> AsyncGenerator[Event, None]:
    try:
        with PushMultipartParser(boundary, max_segment_count=8, strict=False) as parser:
            async for chunk in body:
                if chunk:
                    for event in parser.parse(chunk):
                        yield event
                if parser.closed:
                    break
    except MultipartError as error:
        raise InvalidRequest(f"the form cannot be read: {error}") from error


async def _text(events: AsyncIterator[Event]) -> str:
    data = bytearray()
    async for event in events:
        if event is None:
            break
        if not isinstance(event, MultipartSegment):
            data += event
        if len(data) > _MAX_PATH:
            raise InvalidRequest("`path` is too long")
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise InvalidRequest("`path` is not UTF-8") from error
    if not text or "\0" in text:
        raise InvalidRequest("`path` is empty or contains a NUL character")
    return text
