"""Which addresses the guest was given for which name: only there may it use the name."""

from collections import OrderedDict
from collections.abc import Iterable
from ipaddress import IPv4Address

MAX_NAMES = 1024
MAX_ADDRESSES = 32
"""For one name, the newest."""
SHORTEST, LONGEST = 300.0, 3600.0
"""Seconds. Programs hold on to an address for longer than a short time to live says."""


class Given:
    """Bounded, whatever the guest asks: the oldest goes first. Then the name is resolved again."""

    def __init__(self) -> None:
        self._names = OrderedDict[str, OrderedDict[IPv4Address, float]]()

    def note(self, name: str, addresses: Iterable[IPv4Address], ttl: float, now: float) -> None:
        """:param ttl: seconds"""
        known = self._names.setdefault(name, OrderedDict())
        self._names.move_to_end(name)
        until = now + min(max(ttl, SHORTEST), LONGEST)
        for address in addresses:
            known[address] = until
            known.move_to_end(address)
        while len(known) > MAX_ADDRESSES:
            known.popitem(last=False)
        while len(self._names) > MAX_NAMES:
            self._names.popitem(last=False)

    def holds(self, name: str, address: IPv4Address, now: float) -> bool:
        known = self._names.get(name)
        return known is not None and now < known.get(address, now)
