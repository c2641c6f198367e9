"""The few rtnetlink requests that a slot needs, straight to the kernel.

A general library costs 28 MiB of memory and 0.4 s of import for these seven messages, `ip -batch` one process for
each side of a namespace. Layouts: rtnetlink(7), linux/rtnetlink.h, linux/if_link.h, linux/neighbour.h.
"""

import ipaddress
import os
import socket
import struct
from typing import Self

_ROUTE = 0  # NETLINK_ROUTE
_ERROR = 2  # NLMSG_ERROR, also an acknowledgement
_REQUEST, _ACK = 0x1, 0x4  # NLM_F_*
_REPLACE, _EXCL, _CREATE = 0x100, 0x200, 0x400
_NEW_LINK, _DEL_LINK, _NEW_ADDR, _NEW_ROUTE, _NEW_NEIGH = 16, 17, 20, 24, 28  # RTM_*
_IFF_UP = 0x1
_NESTED = 0x8000
_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_LINKINFO, _IFLA_NET_NS_FD = 1, 3, 18, 28
_INFO_KIND, _INFO_DATA, _VETH_INFO_PEER = 1, 2, 1
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_RTA_GATEWAY = 5
_RT_TABLE_MAIN, _RTPROT_STATIC, _RT_SCOPE_UNIVERSE, _RTN_UNICAST = 254, 4, 0, 1
_NDA_DST, _NDA_LLADDR = 1, 2
_NUD_PERMANENT = 0x80
_RECEIVE = 65536


class Rtnetlink:
    """A netlink socket; it stays in the network namespace in which it was made, whatever its thread does later.

    Every call raises OSError with the kernel's errno.
    """

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _ROUTE)
        self._socket.settimeout(10)  # the kernel answers at once; RTNL held by a mass deletion takes longest
        self._sequence = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def add_veth(self, name: str, peer: str, peer_namespace: int) -> None:
        """A pair with one end here and the other in the namespace of that file descriptor."""
        other = (
            _link()
            + _text(_IFLA_IFNAME, peer)
            + _attribute(_IFLA_NET_NS_FD, struct.pack("=I", peer_namespace))
        )
        data = _attribute(_VETH_INFO_PEER | _NESTED, other)
        info = _text(_INFO_KIND, "veth") + _attribute(_INFO_DATA | _NESTED, data)
        self._ask(
            _NEW_LINK,
            _CREATE | _EXCL,
            _link() + _text(_IFLA_IFNAME, name) + _attribute(_IFLA_LINKINFO | _NESTED, info),
            f"add veth {name}",
        )

    def set_link(self, name: str, *, mac: str | None = None, up: bool = False) -> None:
        flags = _IFF_UP if up else 0
        address = b"" if mac is None else _attribute(_IFLA_ADDRESS, _mac(mac))
        self._ask(_NEW_LINK, 0, _link(flags, flags) + _text(_IFLA_IFNAME, name) + address, f"set {name}")

    def delete_link(self, name: str) -> None:
        self._ask(_DEL_LINK, 0, _link() + _text(_IFLA_IFNAME, name), f"delete {name}")

    def add_address(self, index: int, address: str) -> None:
        """`address` with its prefix length, e.g. `10.0.0.1/30`."""
        interface = ipaddress.IPv4Interface(address)
        head = struct.pack("=BBBBI", socket.AF_INET, interface.network.prefixlen, 0, 0, index)
        packed = interface.ip.packed
        body = head + _attribute(_IFA_LOCAL, packed) + _attribute(_IFA_ADDRESS, packed)
        self._ask(_NEW_ADDR, _CREATE | _REPLACE, body, f"add address {address}")

    def set_default_route(self, gateway: str) -> None:
        head = struct.pack(
            "=BBBBBBBBI",
            socket.AF_INET,
            *(0, 0, 0),  # any destination, any source, any type of service
            *(_RT_TABLE_MAIN, _RTPROT_STATIC, _RT_SCOPE_UNIVERSE, _RTN_UNICAST),
            0,
        )
        body = head + _attribute(_RTA_GATEWAY, ipaddress.IPv4Address(gateway).packed)
        self._ask(_NEW_ROUTE, _CREATE | _REPLACE, body, f"set default route to {gateway}")

    def set_neighbour(self, index: int, address: str, mac: str) -> None:
        """A permanent entry: never asked for by ARP, never changed by an answer."""
        head = struct.pack("=BxxxiHBB", socket.AF_INET, index, _NUD_PERMANENT, 0, 0)
        body = (
            head
            + _attribute(_NDA_DST, ipaddress.IPv4Address(address).packed)
            + _attribute(_NDA_LLADDR, _mac(mac))
        )
        self._ask(_NEW_NEIGH, _CREATE | _REPLACE, body, f"set neighbour {address}")

    def _ask(self, type: int, flags: int, body: bytes, doing: str) -> None:
        self._sequence += 1
        head = struct.pack("=IHHII", 16 + len(body), type, flags | _REQUEST | _ACK, self._sequence, 0)
        self._socket.send(head + body)
        while True:
            answer = self._socket.recv(_RECEIVE)
            _, kind, _, sequence, _ = struct.unpack_from("=IHHII", answer)
            if sequence != self._sequence:
                continue  # belongs to an earlier request that timed out
            if kind != _ERROR:
                raise OSError(f"{doing}: unexpected netlink message {kind}")
            (code,) = struct.unpack_from("=i", answer, 16)
            if code:
                raise OSError(-code, f"{doing}: {os.strerror(-code)}")
            return


def _link(flags: int = 0, mask: int = 0) -> bytes:
    return struct.pack("=BxHiII", socket.AF_UNSPEC, 0, 0, flags, mask)


def _attribute(type: int, value: bytes) -> bytes:
    length = 4 + len(value)
    return struct.pack("=HH", length, type) + value + bytes(-length % 4)


def _text(type: int, value: str) -> bytes:
    return _attribute(type, value.encode() + b"\0")


def _mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))
