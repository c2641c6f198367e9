from collections.abc import Iterator

import pytest
from unit.sdk.fake_platform import KEY, Platform, running

from wrenn import Client, Sandbox, Timeouts


@pytest.fixture
def platform() -> Iterator[Platform]:
    with running() as platform:
        yield platform


@pytest.fixture
def client(platform: Platform) -> Iterator[Client]:
    timeouts = Timeouts(connect=2, request=2, lifecycle=2, silence=2)
    with Client(base_url=platform.base_url, api_key=KEY, timeouts=timeouts) as client:
        yield client


@pytest.fixture
def sandbox(client: Client) -> Iterator[Sandbox]:
    with Sandbox.create(client=client) as sandbox:
        yield sandbox
