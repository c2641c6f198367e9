"""What is said over WebSockets: JSON texts with a `type` each. Of terminals, bytes are binary messages in both directions.

Words and fields are those of the published `wrenn` 0.3 SDK. Fields that are not here are let pass.
"""

from typing import Annotated

from msgspec import Meta, Struct

from wrenn_server.controlplane.schema import Envs, Path
from wrenn_server.wire.envd import Size

Cmd = Annotated[str, Meta(min_length=1, max_length=131072)]
Args = Annotated[list[Annotated[str, Meta(max_length=131072)]], Meta(max_length=10000)]
User = Annotated[str, Meta(min_length=1, max_length=64)]
Tag = Annotated[str, Meta(min_length=1, max_length=128)]
Side = Annotated[int, Meta(ge=1, le=65535)]


class Message(Struct, kw_only=True, tag_field="type", tag=str.lower):
    pass


class Auth(Message):
    token: Annotated[str, Meta(max_length=8192)]
    """A user's, or an API key."""


# To programs


class Start(Message):
    cmd: Cmd
    args: Args = []
    envs: Envs = {}
    cwd: Path | None = None
    user: User | None = None


class Stop(Message):
    pass


# From programs


class Began(Message, tag="start"):
    pid: int


class Stdout(Message):
    data: str


class Stderr(Message):
    data: str


class Exit(Message):
    exit_code: int


class Error(Message):
    data: str


# To terminals


class Open(Message, tag="start"):
    cmd: Cmd = "/bin/bash"
    args: Args = []
    cols: Side = 80
    rows: Side = 24
    envs: Envs = {}
    cwd: Path | None = None
    user: User | None = None

    @property
    def size(self) -> Size:
        return Size(self.cols, self.rows)


class Connect(Message):
    tag: Tag
    """That `started` had; or of any program."""


class Resize(Message):
    cols: Side
    rows: Side


class Kill(Message):
    pass


class Pong(Message):
    pass


# From terminals


class Started(Message):
    tag: str
    pid: int


class Failure(Message, tag="error"):
    data: str
    fatal: bool
    """Nothing comes after it."""


class Ping(Message):
    pass
