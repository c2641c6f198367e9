"""The scheduler's choice."""

from collections import Counter

from wrenn_server.controlplane.scheduler.place import choose
from wrenn_server.db.hosts import Candidate
from wrenn_server.db.sandboxes import Room

ROOM = Room(cpus=2.0, memory=1.0, disk=1.0)


def host(name: str, **changes: int) -> Candidate:
    values = {"cpus": 4, "memory_mb": 8192, "disk_mb": 100_000}
    reserved = {"cpus_reserved": 0, "memory_mb_reserved": 0, "disk_mb_reserved": 0, "sandboxes": 0}
    return Candidate(id=name, address=None, **{**values, **reserved, **changes})


def pick(*hosts: Candidate, chance: int = 0, vcpus: int = 1, without: tuple[str, ...] = ()) -> str | None:
    chosen = choose(
        hosts, vcpus=vcpus, memory_mb=512, disk_mb=5120, room=ROOM, chance=chance, without=without
    )
    return chosen.id if chosen else None


def test_the_least_loaded_host_is_chosen_by_what_is_scarcest_there() -> None:
    assert pick(host("a", memory_mb_reserved=4096), host("b", cpus_reserved=2)) == "b"
    assert pick(host("a", disk_mb_reserved=90_000), host("b", cpus_reserved=4)) == "b"


def test_it_must_fit() -> None:
    assert pick() is None
    assert pick(host("a", memory_mb_reserved=8000)) is None
    assert pick(host("a", disk_mb_reserved=96_000)) is None
    assert pick(host("a"), vcpus=8) == "a", "processors may be promised twice"
    assert pick(host("a"), vcpus=9) is None
    assert pick(host("a", cpus=0)) is None


def test_hosts_that_refused_are_left_out() -> None:
    assert pick(host("a"), host("b"), without=("a",)) == "b"
    assert pick(host("a"), without=("a",)) is None


def test_equal_hosts_are_chosen_by_chance() -> None:
    hosts = [host(name) for name in "abcd"]
    counts = Counter(pick(*hosts, chance=n) for n in range(400))
    assert counts == dict.fromkeys("abcd", 100)
