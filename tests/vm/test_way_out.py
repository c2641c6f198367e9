"""A host whose firewall stops what guests send: `wrenn doctor` finds it, and what it says to do helps."""

import os
import shutil
from pathlib import Path

import pytest

from support import network_world as net
from support.network_world import INTERNET_ADDRESS, PORT, Guest, World
from wrenn_server.linux import process
from wrenn_server.linux.nft import Nft
from wrenn_server.up import doctor
from wrenn_server.up.settings import Settings

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root"),
    pytest.mark.skipif(shutil.which("nft") is None, reason="nft is not installed"),
]

FIREWALL = """\
table inet firewall {
  chain forward {
    type filter hook forward priority filter; policy drop;
    iifname "docker0" accept
  }
}
"""
SETTINGS = Settings(data_dir=Path("/srv/of-a-test"))


@pytest.fixture
def tag() -> str:
    return SETTINGS.tag


async def test_the_way_out_is_found_closed_and_opened_as_told(world: World, guest: Guest) -> None:
    server = await world.in_internet(lambda: net.udp_server(INTERNET_ADDRESS))
    client = await guest.udp_socket()
    with server, client:
        assert (await doctor.check_way_out(SETTINGS)).verdict is doctor.Verdict.OK
        await Nft().apply(FIREWALL)
        client.sendto(b"lost", (INTERNET_ADDRESS, PORT))

        found = await doctor.check_way_out(SETTINGS)
        assert found.verdict is doctor.Verdict.WARN
        assert "inet firewall forward" in found.detail
        commands, _, _ = found.fix.partition(" (")
        for command in commands.split("; "):
            await process.run(["sh", "-c", command])  # as a person pastes it

        client.sendto(b"through", (INTERNET_ADDRESS, PORT))
        data, sender = await net.receive(server)
        assert data == b"through"
        server.sendto(b"and back", sender)
        assert (await net.receive(client))[0] == b"and back"
        assert (await doctor.check_way_out(SETTINGS)).verdict is doctor.Verdict.OK
