"""One platform, and one run of the cases for each SDK and mode that a test asks for."""

import dataclasses
import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from compat import environments, places
from compat.flavours import Flavour, Mode
from compat.runs import Column, Ends, Runs, running
from support.certificates import Signed, signed
from support.platforms import RunningPlatform, free_port, settings_for, up, wrenn


@pytest.fixture(scope="session")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("compat")


@pytest.fixture(scope="session")
def trusted(scratch: Path) -> Signed:
    return signed(scratch, f"*.{places.DOMAIN}")


@pytest.fixture(scope="module")
def platform(envd_binary: Path, trusted: Signed) -> Iterator[RunningPlatform]:
    if os.geteuid() != 0:
        pytest.skip("a platform needs root")
    settings = settings_for(Path("/var/lib/wrenn-compat"), network="10.218.0.0/16", uid_base=55000)
    tls_listen = f"127.0.0.1:{free_port()}"
    settings = dataclasses.replace(
        settings,
        domain=f"{places.DOMAIN}:{tls_listen.rpartition(':')[2]}",
        tls_cert=trusted.certificate,
        tls_key=trusted.key,
        tls_listen=tls_listen,
    )
    wrenn("down", "--purge", settings=settings, check=False)
    yield up(settings)
    wrenn("down", "--purge", settings=settings)


@pytest.fixture(scope="module")
def ends(platform: RunningPlatform, trusted: Signed, scratch: Path) -> Iterator[Ends]:
    listen = platform.settings.tls_listen or ""
    host, _, port = listen.rpartition(":")
    with ExitStack() as stack:
        common = {
            "PATH": os.environ["PATH"],
            "HOME": str(scratch),
            "PYTHONDONTWRITEBYTECODE": "1",
            "E2B_API_KEY": platform.variables["E2B_API_KEY"],
            "COMPAT_OUTSIDE": stack.enter_context(places.outside(f"out{platform.settings.tag}")),
        }
        loopback = {
            **common,
            "E2B_API_URL": platform.variables["E2B_API_URL"],
            "E2B_SANDBOX_URL": platform.variables["E2B_SANDBOX_URL"],
            "COMPAT_EDGE": platform.settings.listen,
        }
        domain = {
            **common,
            "E2B_DOMAIN": platform.variables["E2B_DOMAIN"],
            "SSL_CERT_FILE": str(trusted.authority),
            "HTTPS_PROXY": stack.enter_context(places.proxy((host, int(port)))),
            "NODE_EXTRA_CA_CERTS": str(trusted.authority),
            "NODE_OPTIONS": f"--import={environments.HERE / 'javascript_cases/resolve-everything.mjs'}",
            "COMPAT_EDGE": listen,
        }
        yield Ends({Mode.LOOPBACK: loopback, Mode.DOMAIN: domain})


@pytest.fixture(scope="module")
def runs(ends: Ends, scratch: Path, request: pytest.FixtureRequest) -> Iterator[Runs]:
    """Of the columns that the selected tests ask for."""
    with running(ends, scratch, columns_of(request.session.items)) as runs:
        yield runs


def columns_of(items: Iterable[pytest.Item]) -> Iterator[Column]:
    for item in items:
        if isinstance(item, pytest.Function) and hasattr(item, "callspec"):
            flavour, mode = (item.callspec.params.get(name) for name in ("flavour", "mode"))
            if isinstance(flavour, Flavour) and isinstance(mode, Mode):
                yield flavour, mode
