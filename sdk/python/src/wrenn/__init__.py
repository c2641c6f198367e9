"""Wrenn Sandbox: microVMs to run programs in.

```python
from wrenn import Sandbox

with Sandbox.create() as sandbox:
    print(sandbox.commands.run("echo hello from $(uname -sr)").stdout)
```

`AsyncSandbox` is the same for asyncio.
"""

from wrenn import _version
from wrenn._async.client import AsyncClient
from wrenn._async.commands import AsyncCommands
from wrenn._async.files import AsyncFiles
from wrenn._async.handle import AsyncCommandHandle
from wrenn._async.sandbox import AsyncSandbox
from wrenn._sync.client import Client
from wrenn._sync.commands import Commands
from wrenn._sync.files import Files
from wrenn._sync.handle import CommandHandle
from wrenn._sync.sandbox import Sandbox
from wrenn.config import Config, Timeouts
from wrenn.errors import (
    ApiError,
    CommandError,
    CommandExitError,
    CommandTimeoutError,
    ConfigError,
    ConflictError,
    ConnectionLostError,
    DiskFullError,
    ForbiddenError,
    ForkError,
    GuestError,
    InternalError,
    InvalidRequestError,
    NotFoundError,
    PathNotFoundError,
    PortNotOpenError,
    ProcessNotFoundError,
    ProtocolError,
    RateLimitedError,
    RequestTimeoutError,
    SandboxNotFoundError,
    SandboxNotRunningError,
    ServerTimeoutError,
    ServerUnreachableError,
    TemplateNotFoundError,
    TooLargeError,
    UnauthorizedError,
    UnavailableError,
    WrennError,
)
from wrenn.models import (
    Activity,
    CommandResult,
    FileInfo,
    Network,
    OnTimeout,
    Output,
    ProcessInfo,
    Sample,
    SandboxInfo,
    Signal,
    SnapshotInfo,
)

__version__ = _version.VERSION

__all__ = [
    "Activity",
    "ApiError",
    "AsyncClient",
    "AsyncCommandHandle",
    "AsyncCommands",
    "AsyncFiles",
    "AsyncSandbox",
    "Client",
    "CommandError",
    "CommandExitError",
    "CommandHandle",
    "CommandResult",
    "CommandTimeoutError",
    "Commands",
    "Config",
    "ConfigError",
    "ConflictError",
    "ConnectionLostError",
    "DiskFullError",
    "FileInfo",
    "Files",
    "ForbiddenError",
    "ForkError",
    "GuestError",
    "InternalError",
    "InvalidRequestError",
    "Network",
    "NotFoundError",
    "OnTimeout",
    "Output",
    "PathNotFoundError",
    "PortNotOpenError",
    "ProcessInfo",
    "ProcessNotFoundError",
    "ProtocolError",
    "RateLimitedError",
    "RequestTimeoutError",
    "Sample",
    "Sandbox",
    "SandboxInfo",
    "SandboxNotFoundError",
    "SandboxNotRunningError",
    "ServerTimeoutError",
    "ServerUnreachableError",
    "Signal",
    "SnapshotInfo",
    "TemplateNotFoundError",
    "Timeouts",
    "TooLargeError",
    "UnauthorizedError",
    "UnavailableError",
    "WrennError",
    "__version__",
]
