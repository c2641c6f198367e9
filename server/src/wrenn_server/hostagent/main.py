"""The command `wrenn-agent`: runs the sandboxes of one Linux host."""

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Annotated, Any

import cyclopts
import structlog
import uvloop

from wrenn_server.hostagent import app, config, credentials, drivers, registration, specs
from wrenn_server.hostagent.config import Config, ConfigError
from wrenn_server.hostagent.control_plane import ControlPlane
from wrenn_server.hostagent.credentials import Credentials, CredentialsError
from wrenn_server.hostagent.drivers import Drivers
from wrenn_server.hostagent.registration import RegistrationFailed
from wrenn_server.hostagent.vmm.base import VmmError
from wrenn_server.linux import notify
from wrenn_server.linux.cgroup import Cgroups, CgroupsUnavailable
from wrenn_server.linux.env_file import read_env_file
from wrenn_server.obs import logs

log = structlog.get_logger()
cli = cyclopts.App(name="wrenn-agent", version=app.VERSION, help=__doc__)


@cli.default
def run(
    *,
    register: Annotated[str | None, cyclopts.Parameter(env_var="AGENT_REGISTRATION_TOKEN")] = None,
    address: str | None = None,
) -> int:
    """Serve the sandboxes of this host until SIGTERM or SIGINT; the sandboxes run on.

    Settings come from the environment and from `.env` in the working directory: AGENT_CP_URL, AGENT_LISTEN_ADDR,
    AGENT_KERNEL_PATH, AGENT_IMAGES_PATH, AGENT_SANDBOXES_PATH, AGENT_TOKEN_FILE, AGENT_VMM.

    Parameters
    ----------
    register
        Registration token of a new host (POST /v1/hosts), or a new one of a known host (POST /v1/hosts/{id}/token).
    address
        HOST:PORT under which the control plane reaches this agent.
    """
    try:
        environ = {**_env_file(Path(".env")), **os.environ}
        settings = config.load(environ, address)
        # What the object store's client looks for, it looks for there.
        os.environ.update(config.credentials(environ))
    except (ConfigError, OSError) as error:
        return _give_up(str(error), 2)
    if os.geteuid() != 0:
        return _give_up(
            "the agent makes namespaces, control groups and processes of other users: it must run as root"
        )
    logs.set_up("wrenn-agent", level=os.environ.get("WRENN_LOG_LEVEL", "info"))
    try:
        _run(lambda: serve(settings, register))
    except (
        CredentialsError, RegistrationFailed, VmmError, CgroupsUnavailable, app.AlreadyRunning, OSError,
    ) as error:  # fmt: skip
        return _give_up(str(error))
    return 0


async def serve(settings: Config, token: str | None) -> None:
    """:raises CredentialsError: :raises RegistrationFailed: :raises VmmError: :raises OSError:"""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    for file, name in ((settings.kernel, "AGENT_KERNEL_PATH"), (settings.initrd, "AGENT_INITRD_PATH")):
        if not file.is_file():
            raise FileNotFoundError(f"{name}: there is no {file}; `wrenn up` builds it, or put one there")
    chosen = await drivers.choose(settings)
    if not chosen.accelerated:
        log.warning(
            "guests are emulated in software: slow, and no security boundary",
            action="emulation",
            detail=chosen.choice.why,
        )
    known = await obtain(settings, token, chosen)
    async with app.running(settings, known, chosen):
        notify.ready()
        await stop.wait()


async def obtain(settings: Config, token: str | None, chosen: Drivers) -> Credentials:
    """The saved credentials, or fresh ones for a registration token that they do not come from.

    :raises CredentialsError: :raises RegistrationFailed: :raises VmmError: :raises OSError:"""
    known = credentials.load(settings.token_file)
    if token is None or (known is not None and known.came_from(token)):
        if known is None:
            raise CredentialsError(
                f"this host is not registered ({settings.token_file} does not exist). Create it with POST /v1/hosts and"
                " start the agent once with --register TOKEN --address HOST:PORT"
            )
        return known
    if settings.cp_url is None:
        raise RegistrationFailed("AGENT_CP_URL is not set: where is the control plane?")
    settings.sandboxes.mkdir(mode=0o700, parents=True, exist_ok=True)
    async with chosen.open(Cgroups.detect()) as driver:
        found = await specs.measure(
            driver, accelerated=chosen.accelerated, version=app.VERSION, sandboxes=settings.sandboxes
        )
    fresh = await registration.register(ControlPlane(settings.cp_url), token, settings.address, found)
    credentials.save(settings.token_file, fresh)
    log.info("registered", action="registered", host_id=fresh.host_id, token_file=str(settings.token_file))
    return fresh


def _run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())


def _env_file(path: Path) -> dict[str, str]:
    return read_env_file(path) if path.is_file() else {}


def _give_up(message: str, code: int = 1) -> int:
    print(f"wrenn-agent: {message}", file=sys.stderr)  # noqa: T201 - for the person who started it
    return code


def main() -> None:
    sys.exit(cli())


if __name__ == "__main__":
    main()
