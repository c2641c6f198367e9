"""Slots on the real kernel: what a guest can reach and what it cannot, and that nothing stays behind."""

import asyncio
import contextlib
import errno
import json
import os
import shutil
import socket
import subprocess
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from support import network_world as net
from support.network_world import FORBIDDEN, HOST_ADDRESS, INTERNET_ADDRESS, NETWORK, PORT, Guest, World, pool
from wrenn_server.hostagent.network import plan, rules
from wrenn_server.hostagent.network.base import GATEWAY_ADDRESS, GATEWAY_MAC, GUEST_ADDRESS, GUEST_MAC, Slot
from wrenn_server.hostagent.network.slots import Slots, clean_up
from wrenn_server.linux import interfaces, process
from wrenn_server.linux.nft import Nft

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root"),
    pytest.mark.skipif(shutil.which("nft") is None, reason="nft is not installed"),
]

IPV4, ARP, IPV6 = 0x0800, 0x0806, 0x86DD
MARKER = b"the last packet of this test"


# What a guest can do.


async def test_a_guest_reaches_the_internet_under_the_hosts_address(world: World, guest: Guest) -> None:
    server = await world.in_internet(lambda: net.udp_server(INTERNET_ADDRESS))
    client = await guest.udp_socket()
    with server, client:
        client.sendto(b"hello", (INTERNET_ADDRESS, PORT))
        data, sender = await net.receive(server)
        assert (data, sender[0]) == (b"hello", HOST_ADDRESS)
        server.sendto(b"and back", sender)
        assert (await net.receive(client))[0] == b"and back"


async def test_what_leaves_the_namespace_is_counted_at_the_cables_end(
    world: World, slots: Slots, slot: Slot, guest: Guest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await process.run(["mount", "-t", "sysfs", "sysfs", str(tmp_path)])  # of this test's host
    monkeypatch.setattr(interfaces, "CLASS", tmp_path / "class/net")
    try:
        server = await world.in_internet(lambda: net.udp_server(INTERNET_ADDRESS))
        client = await guest.udp_socket()
        with server, client:
            before = interfaces.received_bytes(slot.veth)
            client.sendto(bytes(1000), (FORBIDDEN[1], PORT))
            for _ in range(5):
                client.sendto(bytes(1000), (INTERNET_ADDRESS, PORT))
                await net.receive(server)
            assert 5000 <= interfaces.received_bytes(slot.veth) - before < 6000
    finally:
        await process.run(["umount", str(tmp_path)])


async def test_the_agent_reaches_the_guest_from_inside(slots: Slots, slot: Slot, guest: Guest) -> None:
    async with await guest.tcp_server(49983):
        connected = await slots.connect(slot, 49983, 5)
        with connected:
            assert not connected.getblocking()
            assert connected.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            assert await asyncio.get_running_loop().sock_recv(connected, 100) == GATEWAY_ADDRESS.encode()


async def test_a_refusal_is_told_at_once(slots: Slots, slot: Slot, guest: Guest) -> None:
    with pytest.raises(ConnectionRefusedError):
        await slots.connect(slot, 1234, 60)


async def test_a_lost_syn_costs_a_new_socket_not_the_kernels_second(
    slots: Slots, slot: Slot, guest: Guest
) -> None:
    guest.lose = 2
    async with await guest.tcp_server(49983):
        (await slots.connect(slot, 49983, 10)).close()
    assert len(set(guest.syns)) >= 3


async def test_silence_ends_in_a_timeout(slots: Slots, slot: Slot) -> None:
    with pytest.raises(TimeoutError, match="49983"):
        await slots.connect(slot, 49983, 0.2)


async def test_connecting_into_a_slot_that_is_gone_fails(slots: Slots, slot: Slot) -> None:
    await slots.release(slot)
    with pytest.raises(FileNotFoundError):
        await slots.connect(slot, 49983, 5)


# What it cannot.


@pytest.mark.parametrize("layer", ["both", "namespace", "host"])
async def test_a_guest_reaches_nothing_that_is_blocked(
    world: World, slots: Slots, slot: Slot, guest: Guest, tag: str, layer: str
) -> None:
    """Each forbidden address would be seen either by the internet, or by a server on the host, in the namespace, or
    in another guest, before the marker that is sent last. Either layer does it alone, but for what is its own."""
    neighbour = await slots.acquire()
    own, other = (plan.addresses(NETWORK, each.index) for each in (slot, neighbour))
    nearby = {HOST_ADDRESS, GATEWAY_ADDRESS, "10.214.255.255", "255.255.255.255"}
    nearby |= {text.partition("/")[0] for text in (*own, *other)}
    if layer == "namespace":
        nearby.remove(HOST_ADDRESS)  # public, so only the host can know that it is its own
        await Nft().delete_table("inet", rules.host_table_name(tag))
    elif layer == "host":
        nearby -= {GATEWAY_ADDRESS, own[1].partition("/")[0]}  # the namespace's own
        await Nft().apply(
            "flush chain ip wrenn forward\nadd chain ip wrenn forward { policy accept; }\n", slot.netns
        )
    async with AsyncExitStack() as stack:
        second = await stack.enter_async_context(net.guest(neighbour))
        places = [net.udp_server()]
        places += [await net.inside(each.netns, net.udp_server) for each in (slot, neighbour)]
        places.append(await net.inside(second.namespace, net.udp_server))
        outside = await world.in_internet(lambda: net.sniffer("wan"))
        client = await guest.udp_socket()
        for opened in (*places, outside, client):
            stack.enter_context(opened)

        for address in [*FORBIDDEN, *nearby]:
            with contextlib.suppress(OSError):  # the answer to the one before: rejected
                client.sendto(address.encode(), (address, PORT))
                continue
            client.sendto(address.encode(), (address, PORT))
        with contextlib.suppress(OSError):
            client.sendto(MARKER, (INTERNET_ADDRESS, PORT))
        client.sendto(MARKER, (INTERNET_ADDRESS, PORT))

        assert await seen_before_marker(outside) == []
        for place in places:
            with pytest.raises(BlockingIOError):
                place.recv(100)


@pytest.mark.parametrize("port", [25, 465, 587])
async def test_mail_is_refused_at_once(guest: Guest, port: int) -> None:
    client = await net.inside(guest.namespace, lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM))
    with client:
        client.setblocking(False)
        with pytest.raises(OSError, match=INTERNET_ADDRESS) as refused:
            await asyncio.get_running_loop().sock_connect(client, (INTERNET_ADDRESS, port))
        assert refused.value.errno == errno.EHOSTUNREACH


async def test_forged_frames_go_nowhere(world: World, slot: Slot, guest: Guest) -> None:
    """Even where the kernel's own reverse-path check is off."""

    def believe() -> None:
        for name in ("all", "vmtap0"):
            Path(f"/proc/sys/net/ipv4/conf/{name}/rp_filter").write_text("0")

    await net.inside(slot.netns, believe)
    stranger = "06:00:ac:10:00:99"
    fine = net.udp_packet(GUEST_ADDRESS, INTERNET_ADDRESS, b"forged")
    forged = [
        net.ethernet(stranger, GATEWAY_MAC, IPV4, fine),
        net.ethernet(GATEWAY_MAC, GATEWAY_MAC, IPV4, fine),
        net.ethernet(GUEST_MAC, GATEWAY_MAC, IPV4, fine, vlan=0),
        net.ethernet(GUEST_MAC, GATEWAY_MAC, IPV4, fine, vlan=7),
        net.ethernet(GUEST_MAC, GATEWAY_MAC, IPV6, bytes([0x60]) + bytes(39)),
        net.ethernet(GUEST_MAC, GATEWAY_MAC, 0x88CC, b"link layer discovery"),
        net.ethernet(GUEST_MAC, GATEWAY_MAC, IPV4, fine[:20]),
        net.ethernet(GUEST_MAC, GATEWAY_MAC, IPV4, b""),
        *(
            from_guest(net.udp_packet(source, INTERNET_ADDRESS, b"forged"))
            for source in (
                "169.254.0.22",
                "169.254.0.23",
                "10.214.0.1",
                "10.214.0.2",
                HOST_ADDRESS,
                "8.8.8.8",
            )
        ),
    ]
    with await world.in_internet(lambda: net.sniffer("wan")) as outside:
        for frame in forged:
            await guest.send(frame)
        await guest.send(from_guest(net.udp_packet(GUEST_ADDRESS, INTERNET_ADDRESS, MARKER)))
        assert await seen_before_marker(outside) == []


async def test_the_gateway_does_not_believe_arp(slots: Slots, slot: Slot, guest: Guest) -> None:
    """The guest claims other addresses and another MAC; the agent's way to it stays what it was."""
    stranger = "06:00:ac:10:00:99"
    for mac, address in ((GUEST_MAC, "169.254.0.22"), (GUEST_MAC, "10.214.0.1"), (stranger, GUEST_ADDRESS)):
        await guest.send(net.ethernet(mac, "ff:ff:ff:ff:ff:ff", ARP, net.arp(mac, address, asks_for=address)))
    known = json.loads(output("ip", "-n", slot.name, "-j", "neigh"))
    assert [entry for entry in known if entry["dev"] == "vmtap0"] == [
        {"dst": GUEST_ADDRESS, "dev": "vmtap0", "lladdr": GUEST_MAC, "state": ["PERMANENT"]}
    ]
    async with await guest.tcp_server(49983):
        (await slots.connect(slot, 49983, 5)).close()


async def test_nobody_comes_in_from_outside(world: World, slots: Slots, slot: Slot, guest: Guest) -> None:
    """Neither the host nor its neighbours open anything towards a guest, and its namespace offers them nothing."""
    _, inside_end = plan.addresses(NETWORK, slot.index)
    target = inside_end.partition("/")[0]
    server = await net.inside(guest.namespace, net.udp_server)
    own = await net.inside(slot.netns, net.udp_server)
    with server, own, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as host:
        output("ip", "route", "add", f"{GUEST_ADDRESS}/32", "via", target)
        for address in (target, GUEST_ADDRESS):
            host.sendto(b"from the host", (address, PORT))
        # Whatever was let through is there by the time the answer to a later packet is.
        with pytest.raises(ConnectionRefusedError):
            await slots.connect(slot, 1234, 10)
        for place in (server, own):
            with pytest.raises(BlockingIOError):
                place.recv(100)


async def test_there_is_no_ipv6_at_all(slot: Slot, guest: Guest) -> None:
    assert json.loads(output("ip", "-n", slot.name, "-6", "-j", "addr")) in ([], [{}])
    assert slot.veth not in output("ip", "-6", "addr")


async def test_the_tap_belongs_to_the_vms_user(slot: Slot) -> None:
    (tap,) = json.loads(output("ip", "-n", slot.name, "-d", "-j", "link", "show", "vmtap0"))
    facts = tap["linkinfo"]["info_data"]
    assert (facts["type"], facts["persist"]) == ("tap", True)
    assert (str(facts["user"]), str(facts["group"])) == (str(slot.uid), str(slot.uid))


# Nothing stays.


async def test_leaving_removes_all_that_is_not_in_use(world: World, tag: str) -> None:
    before = await state_of_host(tag)
    async with pool(tag) as slots:
        taken = await asyncio.gather(*(slots.acquire() for _ in range(5)))
        assert await state_of_host(tag) != before
        await asyncio.gather(*(slots.release(slot) for slot in taken))
    assert await state_of_host(tag) == before


async def test_a_slot_in_use_is_adopted_and_leftovers_go(world: World, tag: str) -> None:
    before = await state_of_host(tag)
    async with pool(tag) as first:
        kept, lost = await first.acquire(), await first.acquire()
    async with net.guest(kept) as guest, await guest.tcp_server(49983):
        second = pool(tag)
        assert second.adopt(kept.index) == kept
        async with second:
            assert not lost.netns.exists() or (await second.acquire()).index != kept.index
            (await second.connect(kept, 49983, 5)).close()
    await clean_up(tag)
    assert await state_of_host(tag) == before


async def test_clean_up_removes_what_a_killed_agent_left(world: World, tag: str) -> None:
    before = await state_of_host(tag)
    slots = pool(tag)
    await slots.__aenter__()
    async with net.guest(await slots.acquire()):
        for refiller in slots._refillers:
            refiller.cancel()
        await asyncio.gather(*slots._refillers, return_exceptions=True)
        await clean_up(tag)  # a VM still holds the namespace
        assert await state_of_host(tag) == before
    await clean_up(tag)
    assert await state_of_host(tag) == before


async def test_applying_the_hosts_rules_again_changes_nothing(slots: Slots, tag: str) -> None:
    before = output("nft", "list", "ruleset")
    await Nft().apply(rules.host_ruleset(tag, NETWORK))
    assert without_counters(output("nft", "list", "ruleset")) == without_counters(before)


async def seen_before_marker(outside: socket.socket) -> list[bytes]:
    """IPv4 packets that came before the marker did; ARP between the host and the internet is their own affair."""
    seen: list[bytes] = []
    while True:
        async with asyncio.timeout(10):
            frame = await asyncio.get_running_loop().sock_recv(outside, 65536)
        if MARKER in frame:
            return seen
        if frame[12:14] != b"\x08\x06" and not is_neighbour_discovery(frame):
            seen.append(frame)


def is_neighbour_discovery(frame: bytes) -> bool:
    """The IPv6 chatter of the two ends of a fresh cable."""
    return frame[12:14] == b"\x86\xdd" and frame[14 + 6] in {0, 58}


def from_guest(packet: bytes) -> bytes:
    return net.ethernet(GUEST_MAC, GATEWAY_MAC, IPV4, packet)


async def state_of_host(tag: str) -> tuple[list[str], list[str], list[tuple[str, str]]]:
    """/run/netns is shared with every installation of this machine, the rest is this test's own."""
    names = sorted(line.split()[0] for line in output("ip", "netns").splitlines())
    links = sorted(name for _, name in socket.if_nameindex())
    return [name for name in names if name.startswith(f"wrenn-{tag}-")], links, await Nft().tables()


def without_counters(table: str) -> list[str]:
    return [word for word in table.split() if not word.isdecimal()]


def output(*argv: str) -> str:
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout
