"""A real guest with its own programs behind rules by name."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from vm.egress.internet import ALLOWED, OTHER, RESOLVER, RULES, Internet

from support.vm_places import VmPlaces, vm_places
from wrenn_server.hostagent.network.base import Slot
from wrenn_server.hostagent.network.slots import Slots
from wrenn_server.hostagent.vmm.qemu import QemuDriver
from wrenn_server.linux.cgroup import Cgroups
from wrenn_server.wire.agent import Network

pytestmark = [pytest.mark.vm, pytest.mark.timeout(240)]

NO_NAME, NO_WAY, NO_TLS = 6, 7, 35  # exit codes of curl


@pytest.fixture
def places(tmp_path: Path) -> Iterator[VmPlaces]:
    yield from vm_places(tmp_path / "places-of-a-test")


async def test_curl_reaches_an_allowed_name_and_no_other(
    guest_images: Path, internet: Internet, slots: Slots, slot: Slot, places: VmPlaces
) -> None:
    where = places.in_slot(slot)

    async def curl(*arguments: str) -> tuple[int, str]:
        command = f"curl -sk --connect-timeout 20 {' '.join(arguments)}; code=$?; echo; echo $code"
        *output, code = (await asyncio.to_thread(where.guest.run, command, 90.0)).split()
        return int(code), " ".join(output)

    async with (
        slots.enforcing(slot, RULES) as egress,
        QemuDriver(cgroups=Cgroups.detect()) as driver,
        driver.boot(where.spec(guest_images), where.place),
    ):
        await asyncio.to_thread(where.guest.wait)
        await asyncio.to_thread(where.guest.init)
        assert await curl("http://allowed.example/") == (0, "allowed.example")
        assert await curl("https://allowed.example/") == (0, "over TLS")
        assert await curl("https://a.cdn.example/") == (0, "over TLS")
        allowed = len(internet.requests)

        assert (await curl("https://other.example/"))[0] == NO_NAME
        assert (await curl(f"--resolve other.example:443:{OTHER} https://other.example/"))[0] == NO_TLS
        assert (await curl(f"--resolve allowed.example:443:{OTHER} https://allowed.example/"))[0] == NO_TLS
        assert (await curl(f"https://{ALLOWED}/"))[0] == NO_TLS
        assert await curl(f"--resolve allowed.example:80:{OTHER} http://allowed.example/") == (
            0,
            f"{OTHER} is not an address of allowed.example",
        )
        assert (await curl(f"http://{ALLOWED}:8080/"))[0] == NO_WAY
        assert len(internet.requests) == allowed
        assert {asker for asker, _ in internet.host_resolver.asked} == {"127.0.0.1"}

        await egress.apply(Network(deny_out=[ALLOWED]))
        assert await curl("https://other.example/") == (0, "over TLS")
        assert (await curl(f"https://{ALLOWED}/"))[0] == NO_WAY
        assert {question for _, question in internet.public_resolver.asked} >= {"other.example A"}
        assert RESOLVER in await asyncio.to_thread(where.guest.run, "cat /etc/resolv.conf")
